//! Shell globs as Python's `fnmatch.fnmatchcase` reads them, because the workers' own filter does.
//!
//! `*` is any run of characters, dots included; `?` is any one; `[seq]` and `[!seq]` are one of a set, with ranges. All
//! else stands for itself: case counts, braces and backslashes mean nothing, a `[` that is never closed is a `[`. A
//! pattern matches whole names. Compiled once; matching takes at most pattern times name steps.

use std::str::Chars;

/// Characters of a pattern that a person gives; the names that it is for are cut at as many.
pub const MAX_PATTERN_CHARS: usize = 255;

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
}

/// Why a pattern that a person gave is refused, though `fnmatch` would read it: it would silently match something else
/// than was meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// It is empty.
    #[error("it is empty, and matches nothing")]
    Empty,
    /// It is too long.
    #[error("it is longer than {MAX_PATTERN_CHARS} characters")]
    TooLong,
    /// Other globs know this character.
    #[error("only `*`, `?` and `[...]` are known; write `[{0}]` for the character `{0}` itself")]
    OtherSyntax(char),
    /// A set has no end.
    #[error("the `[` has no `]`; write `[[]` for the character `[` itself")]
    Unclosed,
    /// Such as `[z-a]`.
    #[error("the range `{0}-{1}` runs backwards, and matches nothing")]
    Backwards(char, char),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Literal(char),
    /// `?`
    AnyOne,
    /// `*`
    AnyRun,
    /// `[...]`
    Set {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Token {
    /// Whether this token can stand for this one character.
    pub(super) fn accepts(&self, candidate: char) -> bool {
        match self {
            Self::Literal(literal) => *literal == candidate,
            Self::AnyOne | Self::AnyRun => true,
            Self::Set { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&candidate)) != *negated
            }
        }
    }
}

impl Glob {
    /// Compiles a pattern. Every string is one.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        let pattern: Vec<char> = pattern.chars().collect();
        let mut tokens = Vec::with_capacity(pattern.len());
        let mut position = 0;
        while let Some(&character) = pattern.get(position) {
            position += 1;
            match character {
                '*' if tokens.last() == Some(&Token::AnyRun) => {}
                '*' => tokens.push(Token::AnyRun),
                '?' => tokens.push(Token::AnyOne),
                '[' => match set_end(&pattern, position) {
                    Some(end) => {
                        tokens.push(set(&pattern[position..end]));
                        position = end + 1;
                    }
                    None => tokens.push(Token::Literal('[')),
                },
                literal => tokens.push(Token::Literal(literal)),
            }
        }
        Self { tokens }
    }

    /// Compiles a pattern that a person gave. Every pattern that passes means the same to `fnmatch`.
    ///
    /// # Errors
    /// When the pattern is most likely meant otherwise than it would be read.
    pub fn meant(pattern: &str) -> Result<Self, GlobError> {
        if pattern.is_empty() {
            return Err(GlobError::Empty);
        }
        if pattern.chars().count() > MAX_PATTERN_CHARS {
            return Err(GlobError::TooLong);
        }
        let glob = Self::new(pattern);
        for token in &glob.tokens {
            match token {
                Token::Literal('[') => return Err(GlobError::Unclosed),
                Token::Literal(character @ ('{' | '}' | '\\')) => {
                    return Err(GlobError::OtherSyntax(*character));
                }
                Token::Set { ranges, .. } => {
                    if let Some((low, high)) = ranges.iter().find(|(low, high)| low > high) {
                        return Err(GlobError::Backwards(*low, *high));
                    }
                }
                Token::Literal(_) | Token::AnyOne | Token::AnyRun => {}
            }
        }
        Ok(glob)
    }

    /// Whether the pattern matches the whole of `text`.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let mut rest = text.chars();
        let mut index = 0;
        // Where to go on after the last `*`, should what follows it fail: earlier ones need never be reconsidered.
        let mut retry: Option<(usize, Chars<'_>)> = None;
        loop {
            let mut after = rest.clone();
            match (self.tokens.get(index), after.next()) {
                (Some(Token::AnyRun), _) => {
                    index += 1;
                    retry = Some((index, rest.clone()));
                    continue;
                }
                (Some(token), Some(character)) if token.accepts(character) => {
                    index += 1;
                    rest = after;
                    continue;
                }
                (None, None) => return true,
                (Some(_), None) => return false,
                (Some(_) | None, Some(_)) => {}
            }
            let Some((after_run, from)) = &mut retry else { return false };
            from.next();
            index = *after_run;
            rest = from.clone();
        }
    }

    /// The one string that the pattern matches, if it has no wildcard.
    #[must_use]
    pub fn literal(&self) -> Option<String> {
        self.tokens
            .iter()
            .map(|token| match token {
                Token::Literal(literal) => Some(*literal),
                Token::AnyOne | Token::AnyRun | Token::Set { .. } => None,
            })
            .collect()
    }

    pub(super) fn tokens(&self) -> &[Token] {
        &self.tokens
    }
}

/// Where the set that begins at `start`, after its `[`, has its `]`. A `]` right at the start belongs to the set.
fn set_end(pattern: &[char], start: usize) -> Option<usize> {
    let mut from = start;
    if pattern.get(from) == Some(&'!') {
        from += 1;
    }
    if pattern.get(from) == Some(&']') {
        from += 1;
    }
    pattern.get(from..)?.iter().position(|character| *character == ']').map(|offset| from + offset)
}

/// What stands between the brackets.
fn set(inside: &[char]) -> Token {
    let (negated, members) = match inside.split_first() {
        Some(('!', members)) => (true, members),
        Some(_) | None => (false, inside),
    };
    let mut ranges = Vec::new();
    let mut index = 0;
    while let Some(&low) = members.get(index) {
        if let (Some('-'), Some(&high)) = (members.get(index + 1), members.get(index + 2)) {
            // A range that runs backwards holds nothing, as in Python.
            ranges.push((low, high));
            index += 3;
        } else {
            ranges.push((low, low));
            index += 1;
        }
    }
    Token::Set { negated, ranges }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Answers of Python 3.11's `fnmatch.fnmatchcase(name, pattern)`.
    const PYTHON_SAYS: &[(&str, &str, bool)] = &[
        ("*", "", true),
        ("*", "a", true),
        ("*", "a.b", true),
        ("*", "a\nb", true),
        ("", "", true),
        ("", "a", false),
        ("?", "a", true),
        ("?", "", false),
        ("?", "ab", false),
        ("?", "é", true),
        ("tool.*", "tool.execution.start", true),
        ("tool.*", "tool.", true),
        ("tool.*", "tool", false),
        ("tool.*", "Tool.x", false),
        ("*.start", "a.start", true),
        ("*.start", ".start", true),
        ("*.start", "start", false),
        ("*.start", "a.start.b", false),
        ("t?ol", "tool", true),
        ("t?ol", "t.ol", true),
        ("t?ol", "tol", false),
        ("[a-c]x", "bx", true),
        ("[a-c]x", "dx", false),
        ("[a-c]x", "ax", true),
        ("[a-c]x", "cx", true),
        ("[!a-c]x", "bx", false),
        ("[!a-c]x", "dx", true),
        ("[]]", "]", true),
        ("[]]", "[]", false),
        ("[]]", "[", false),
        ("[!]]", "]", false),
        ("[!]]", "a", true),
        ("[a-]", "a", true),
        ("[a-]", "-", true),
        ("[a-]", "b", false),
        ("[-a]", "-", true),
        ("[-a]", "a", true),
        ("[-a]", "b", false),
        ("[", "[", true),
        ("[", "a", false),
        ("[!", "[!", true),
        ("[!", "!", false),
        ("[]", "[]", true),
        ("[]", "]", false),
        ("[!]", "[!]", true),
        ("[!]", "a", false),
        ("[b-a]", "a", false),
        ("[b-a]", "b", false),
        ("[b-a]", "-", false),
        ("[!b-a]", "a", true),
        ("[!b-a]", "b", true),
        ("[!b-a]", "-", true),
        ("[!b-a]", "ab", false),
        ("[a-c-e]", "b", true),
        ("[a-c-e]", "-", true),
        ("[a-c-e]", "e", true),
        ("[a-c-e]", "d", false),
        ("[\\d]", "\\", true),
        ("[\\d]", "d", true),
        ("[\\d]", "5", false),
        ("\\*", "\\", true),
        ("\\*", "\\a", true),
        ("\\*", "*", false),
        ("[^a]", "^", true),
        ("[^a]", "a", true),
        ("[^a]", "b", false),
        ("[[]", "[", true),
        ("[[]", "a", false),
        ("{a,b}", "a", false),
        ("{a,b}", "{a,b}", true),
        ("a**b", "ab", true),
        ("a**b", "axxb", true),
        ("a**b", "axx", false),
        ("[a-c]*[x-z]", "az", true),
        ("[a-c]*[x-z]", "b..y", true),
        ("[a-c]*[x-z]", "ab", false),
        ("*a*b*", "xaxbx", true),
        ("*a*b*", "ba", false),
        ("*a*b*", "ab", true),
        ("a[.]b", "a.b", true),
        ("a[.]b", "axb", false),
        ("[é-ü]", "ö", true),
        ("[é-ü]", "a", false),
        ("*[!.]", "a.", false),
        ("*[!.]", "a.b", true),
        ("*[!.]", "", false),
        ("[a&&b]", "&", true),
        ("[a&&b]", "a", true),
        ("[a&&b]", "c", false),
        ("[~|]", "~", true),
        ("[~|]", "|", true),
        ("[~|]", "a", false),
        ("[--0]", "-", true),
        ("[--0]", ".", true),
        ("[--0]", "0", true),
        ("[--0]", "1", false),
        ("[+--]", ",", true),
        ("[+--]", "-", true),
        ("[+--]", "+", true),
        ("[+--]", ".", false),
        ("[a-b-c]", "-", true),
        ("[a-b-c]", "c", true),
        ("[a-b-c]", "a", true),
        ("[a-b-c]", "b", true),
        ("[z-ab]", "z", false),
        ("[z-ab]", "a", false),
        ("[z-ab]", "b", true),
        ("[z-ab]", "-", false),
        ("[a-]b-c]", "ab-c]", true),
        ("[a-]b-c]", "-b-c]", true),
        ("[a-]b-c]", "bb-c]", false),
        ("x[", "x[", true),
        ("x[", "x", false),
        ("[?*]", "?", true),
        ("[?*]", "*", true),
        ("[?*]", "a", false),
        ("(a|b)+", "(a|b)+", true),
        ("(a|b)+", "a", false),
        ("$", "$", true),
        ("$", "", false),
        (".", ".", true),
        (".", "a", false),
        ("[#-&]", "$", true),
        ("[#-&]", "'", false),
    ];

    #[test]
    fn matches_what_pythons_fnmatch_matches() {
        for (pattern, name, expected) in PYTHON_SAYS {
            assert_eq!(Glob::new(pattern).matches(name), *expected, "{pattern:?} on {name:?}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "*a".repeat(50) + "b";
        assert!(!Glob::new(&pattern).matches(&"a".repeat(1000)));
    }

    #[test]
    fn only_a_pattern_without_wildcards_is_literal() {
        assert_eq!(Glob::new("tool.{a,b}\\").literal().as_deref(), Some("tool.{a,b}\\"));
        assert_eq!(Glob::new("[").literal().as_deref(), Some("["));
        for wild in ["*", "?", "[a]"] {
            assert_eq!(Glob::new(wild).literal(), None, "{wild}");
        }
    }

    #[test]
    fn what_a_person_would_mean_otherwise_is_refused() {
        for (pattern, error) in [
            ("", GlobError::Empty),
            ("{a,b}.*", GlobError::OtherSyntax('{')),
            ("{a", GlobError::OtherSyntax('{')),
            ("a}", GlobError::OtherSyntax('}')),
            ("a\\*", GlobError::OtherSyntax('\\')),
            ("a[", GlobError::Unclosed),
            ("[!]", GlobError::Unclosed),
            ("a[z-a]", GlobError::Backwards('z', 'a')),
            ("[!az-y]", GlobError::Backwards('z', 'y')),
        ] {
            assert_eq!(Glob::meant(pattern), Err(error), "{pattern}");
        }
        assert_eq!(Glob::meant(&"a".repeat(MAX_PATTERN_CHARS + 1)), Err(GlobError::TooLong));
        for (pattern, name) in
            [("[{]a[}]", "{a}"), ("[[]", "["), ("[\\]", "\\"), ("a]", "a]"), ("[a-a]", "a")]
        {
            assert!(Glob::meant(pattern).unwrap().matches(name), "{pattern}");
        }
    }

    proptest! {
        /// A pattern made of a name by putting stars for parts of it matches that name.
        #[test]
        fn stars_for_parts_of_a_name_match_it(parts in proptest::collection::vec(("[a-c.]{0,3}", "[a-c.]{0,3}"), 0..5)) {
            let name: String = parts.iter().map(|(kept, starred)| format!("{kept}{starred}")).collect();
            let pattern: String = parts.iter().map(|(kept, _)| format!("{kept}*")).collect();
            prop_assert!(Glob::new(&pattern).matches(&name));
        }
    }
}
