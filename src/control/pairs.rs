//! Event patterns of a policy, kept from tearing pairs: a filter that lets a start through and not its end (or the
//! other way round) leaves halves that nobody can pair.
//!
//! | pattern | becomes |
//! |---|---|
//! | no wildcard, last part not a phase (`cache.hit`) | itself |
//! | no wildcard, operation and phase (`tool.execution.stop`) | the operation's three names, and the answer says so |
//! | a glob that catches all phases of an operation or none (`tool.*`, `*cache*`) | itself |
//! | a glob that catches some only (`*.exception`, `tool.execution.s*`) | refused: widening it could mute the worker |
//!
//! Whether a glob tears pairs is decided exactly, by walking the pattern's automaton over all operations at once.

use std::collections::{BTreeSet, HashSet, VecDeque};

use super::glob::{Glob, MAX_PATTERN_CHARS, Token};

/// States of a pattern's automaton to look at. Patterns that people write have a dozen.
const MAX_STATES: usize = 1_000;

/// The last part of the names of the halves of a span.
const PHASES: [&str; 3] = ["start", "stop", "exception"];

/// A pattern that keeps pairs whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WholePattern {
    /// As it was given.
    Unchanged(String),
    /// One half's name, widened to the names of all halves of its operation.
    Widened([String; 3]),
}

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is too long.
    #[error("pattern is longer than {MAX_PATTERN_CHARS} characters")]
    TooLong,
    /// It has so many wildcards that nobody can say what it catches.
    #[error("`{0}` has too many wildcards to tell whether it keeps starts and ends together")]
    TooComplex(String),
    /// It would part a start from its end.
    #[error(
        "`{pattern}` would tear spans apart: it catches `{caught}` but not `{missed}`; use a pattern for whole operations, \
         such as `tool.*`, or one operation's full name"
    )]
    Torn {
        /// The pattern.
        pattern: String,
        /// A name that it catches.
        caught: String,
        /// The other half, which it does not.
        missed: String,
    },
}

/// Makes of a pattern one that keeps pairs whole.
///
/// # Errors
/// When the pattern is a glob that catches some phases of an operation only, or is too long or too complex to judge.
pub fn whole(pattern: &str) -> Result<WholePattern, PatternError> {
    if pattern.chars().count() > MAX_PATTERN_CHARS {
        return Err(PatternError::TooLong);
    }
    let glob = Glob::new(pattern);
    if glob.literal().is_some() {
        return Ok(match pattern.rsplit_once('.') {
            Some((operation, phase)) if !operation.is_empty() && PHASES.contains(&phase) => {
                WholePattern::Widened(PHASES.map(|phase| format!("{operation}.{phase}")))
            }
            Some(_) | None => WholePattern::Unchanged(pattern.to_owned()),
        });
    }
    refuse_torn(pattern, &glob)?;
    Ok(WholePattern::Unchanged(pattern.to_owned()))
}

/// Walks all operations that the pattern can tell apart, shortest first.
fn refuse_torn(pattern: &str, glob: &Glob) -> Result<(), PatternError> {
    let alphabet = alphabet(glob.tokens());
    let mut seen = HashSet::new();
    let mut waiting = VecDeque::from([(States::start(glob.tokens()), String::new())]);
    while let Some((states, operation)) = waiting.pop_front() {
        if !operation.is_empty() {
            let catches = PHASES.map(|phase| states.after(glob.tokens(), &format!(".{phase}")).accept());
            let caught = PHASES.into_iter().zip(catches).find(|(_, catches)| *catches);
            let missed = PHASES.into_iter().zip(catches).find(|(_, catches)| !*catches);
            if let (Some((caught, _)), Some((missed, _))) = (caught, missed) {
                return Err(PatternError::Torn {
                    pattern: pattern.to_owned(),
                    caught: format!("{operation}.{caught}"),
                    missed: format!("{operation}.{missed}"),
                });
            }
        }
        for character in &alphabet {
            let next = states.step(glob.tokens(), *character);
            if seen.len() > MAX_STATES {
                return Err(PatternError::TooComplex(pattern.to_owned()));
            }
            if seen.insert(next.clone()) {
                waiting.push_back((next, format!("{operation}{character}")));
            }
        }
    }
    Ok(())
}

/// One character of each kind that the pattern tells apart: those it names, their neighbours (the edges of what lies
/// between), and a letter that it does not name.
fn alphabet(tokens: &[Token]) -> Vec<char> {
    let mut named = BTreeSet::new();
    for token in tokens {
        match token {
            Token::Literal(literal) => {
                named.insert(*literal);
            }
            Token::Set { ranges, negated: _ } => {
                named.extend(ranges.iter().flat_map(|(low, high)| [*low, *high]));
            }
            Token::AnyOne | Token::AnyRun => {}
        }
    }
    let neighbours = named.iter().flat_map(|character| {
        let code = u32::from(*character);
        [code.checked_sub(1), code.checked_add(1)].into_iter().flatten().filter_map(char::from_u32)
    });
    let unnamed = ('a'..='z').rev().find(|letter| !named.contains(letter));
    let mut alphabet: Vec<char> = unnamed.into_iter().collect();
    let all: BTreeSet<char> = named.iter().copied().chain(neighbours).collect();
    alphabet.extend(all);
    alphabet
}

/// The places in a pattern that matching may have reached: `true` at `index` means that the tokens from `index` on are
/// still to match.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct States(Vec<bool>);

impl States {
    fn start(tokens: &[Token]) -> Self {
        let mut states = Self(vec![false; tokens.len() + 1]);
        states.reach(tokens, 0);
        states
    }

    /// A run may be empty, so what follows it is reached with it.
    fn reach(&mut self, tokens: &[Token], index: usize) {
        self.0[index] = true;
        if tokens.get(index) == Some(&Token::AnyRun) {
            self.0[index + 1] = true;
        }
    }

    fn step(&self, tokens: &[Token], character: char) -> Self {
        let mut next = Self(vec![false; self.0.len()]);
        for (index, token) in tokens.iter().enumerate() {
            if self.0[index] && token.accepts(character) {
                let stays = *token == Token::AnyRun;
                next.reach(tokens, if stays { index } else { index + 1 });
            }
        }
        next
    }

    fn after(&self, tokens: &[Token], text: &str) -> Self {
        text.chars().fold(self.clone(), |states, character| states.step(tokens, character))
    }

    fn accept(&self) -> bool {
        self.0.last() == Some(&true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_half_of_one_operation_becomes_all_its_names() {
        let names = ["tool.execution.start", "tool.execution.stop", "tool.execution.exception"];
        for name in names {
            assert_eq!(whole(name), Ok(WholePattern::Widened(names.map(str::to_owned))), "{name}");
        }
    }

    #[test]
    fn whole_patterns_stay_as_they_are() {
        for pattern in [
            "",
            "*",
            "tool.*",
            "tool.execution.*",
            "tool*",
            "cache.hit",
            "stop",
            ".stop",
            "*cache*",
            "debug.?",
            "?",
            "[dD]ebug.*",
            "tool.[!x]*.*",
            "*.sampled",
            "{a,b}.c",
        ] {
            assert_eq!(whole(pattern), Ok(WholePattern::Unchanged(pattern.to_owned())), "{pattern}");
        }
    }

    #[test]
    fn patterns_that_catch_some_phases_only_are_refused() {
        for pattern in [
            "*.exception",
            "*.start",
            "?ool.execution.stop",
            "tool.execution.s*",
            "tool.execution.st?p",
            "tool.[!s]*",
            "*s*",
            "*o?",
            "tool.execution.[s]top",
            "*[p]",
        ] {
            assert!(
                matches!(whole(pattern), Err(PatternError::Torn { .. })),
                "{pattern}: {:?}",
                whole(pattern)
            );
        }
    }

    #[test]
    fn a_refusal_names_what_would_be_torn() {
        let error = whole("*.exception").unwrap_err();

        assert_eq!(
            error.to_string(),
            "`*.exception` would tear spans apart: it catches `z.exception` but not `z.start`; use a pattern for whole \
             operations, such as `tool.*`, or one operation's full name"
        );
    }

    #[test]
    fn patterns_nobody_can_judge_are_refused() {
        assert_eq!(whole(&"a".repeat(256)), Err(PatternError::TooLong));
        let complex = format!("*a{}", "?".repeat(30));
        assert_eq!(whole(&complex), Err(PatternError::TooComplex(complex)));
    }

    proptest! {
        /// What is let through never tells the phases of an operation apart.
        #[test]
        fn what_is_accepted_tears_nothing(pattern in "[abst*?.\\[\\]!-]{1,8}", operation in "[abst.]{1,6}") {
            if let Ok(WholePattern::Unchanged(pattern)) = whole(&pattern) {
                let glob = Glob::new(&pattern);
                let catches = PHASES.map(|phase| glob.matches(&format!("{operation}.{phase}")));
                prop_assert!(catches == [true; 3] || catches == [false; 3], "{pattern} {operation} {catches:?}");
            }
        }

        /// What is refused does tear, as the answer says.
        #[test]
        fn what_is_refused_tears_what_it_names(pattern in "[abst*?.\\[\\]!-]{1,8}") {
            if let Err(PatternError::Torn { caught, missed, .. }) = whole(&pattern) {
                let glob = Glob::new(&pattern);
                prop_assert!(glob.matches(&caught) && !glob.matches(&missed), "{pattern} {caught} {missed}");
            }
        }
    }
}
