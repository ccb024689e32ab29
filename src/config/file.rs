//! The configuration file as a tree in which every value knows its line.
//!
//! It decides what is YAML, and no more: which keys exist and what they may say is the business of
//! `sections`. A tree instead of derived structs, because a derived reader stops at the first error,
//! has no key path, and refuses an empty section.

use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Error, MessageFormatter as _, Spanned, UserMessageFormatter};

/// Bytes of a configuration file; the example with all its comments has a hundredth of that.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Counted from 1.
    pub line: u64,
    /// Where the value itself begins, in bytes; elsewhere than the line, where the line has an alias.
    pub offset: usize,
    /// The value.
    pub value: Value,
}

impl Node {
    /// Where there is no file.
    pub const NOTHING: Self = Self { line: 0, offset: 0, value: Value::Null };
}

/// A YAML value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing, `null`, `~`.
    Null,
    /// `true` or `false`; `yes` and `no` are text.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Another number.
    Float(f64),
    /// Anything else that stands alone.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Keys with their lines, in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Counted from 1.
    pub line: u64,
    /// As it stands there.
    pub name: String,
}

/// A file that is not YAML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// Counted from 1; unknown for a few errors.
    pub line: Option<u64>,
    /// What is wrong.
    pub message: String,
}

/// Reads a document. An empty one is an empty mapping.
///
/// # Errors
/// When `text` is not one YAML document, has a key twice, or is out of all proportion (aliases, depth).
pub fn parse(text: &str) -> Result<Node, SyntaxError> {
    let options = serde_saphyr::options! {
        // Norway is not false, and `enabled: on` is asked back instead of guessed at.
        strict_booleans: true,
        with_snippet: false,
    };
    let read: Result<Option<Node>, _> = serde_saphyr::from_str_with_options(text, options);
    match read {
        Ok(node) => Ok(node.unwrap_or(Node { line: 1, ..Node::NOTHING })),
        Err(error) => {
            let location = error.location().filter(|location| location.line() > 0);
            let place = location.map(|location| format!(" (column {})", location.column()));
            Err(SyntaxError {
                line: location.map(|location| location.line()),
                message: format!("{}{}", explained(&error), place.unwrap_or_default()),
            })
        }
    }
}

/// The reader's error in words for whoever wrote the file; the reader's own are for whoever calls it.
fn explained(error: &Error) -> String {
    let mut error = error.without_snippet();
    while let Error::AliasError { error: inner, .. } = error {
        error = inner;
    }
    let is_out_of_proportion = matches!(
        error,
        Error::Budget { .. }
            | Error::AliasReplayLimitExceeded { .. }
            | Error::AliasExpansionLimitExceeded { .. }
            | Error::AliasReplayStackDepthExceeded { .. }
    );
    if is_out_of_proportion {
        return "out of all proportion: too many values, aliases or levels".to_owned();
    }
    if let Error::DuplicateMappingKey { key, .. } = error {
        return match key {
            Some(key) => format!("`{}` is here a second time", key.escape_debug()),
            None => "a key is here a second time".to_owned(),
        };
    }
    if matches!(error, Error::MultipleDocuments { .. }) {
        return "a second document begins here, and only one is read".to_owned();
    }
    if matches!(error, Error::NullIntoString { .. } | Error::Unexpected { expected: "string scalar", .. }) {
        return "a key must be text".to_owned();
    }
    if matches!(error, Error::NonFiniteFloat { .. }) {
        return "a number must be finite".to_owned();
    }
    let message = UserMessageFormatter.format_message(error);
    message.replace(char::is_control, " ")
}

impl Value {
    /// What kind of value it is, for messages.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

impl Value {
    /// The value as JSON, for `check`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(boolean) => (*boolean).into(),
            Self::Int(int) => i64::try_from(*int).map_or_else(|_| int.to_string().into(), Into::into),
            Self::Float(float) => (*float).into(),
            Self::Text(text) => text.as_str().into(),
            Self::List(list) => list.iter().map(|node| node.value.to_json()).collect(),
            Self::Map(map) => {
                map.iter().map(|(key, node)| (key.name.clone(), node.value.to_json())).collect()
            }
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("`null`"),
            Self::Bool(boolean) => write!(f, "`{boolean}`"),
            Self::Int(int) => write!(f, "`{int}`"),
            Self::Float(float) => write!(f, "`{float}`"),
            Self::Text(text) => write!(f, "`{}`", text.escape_debug()),
            Self::List(_) | Self::Map(_) => f.write_str(self.kind()),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let offset = spanned.defined.span().byte_offset().and_then(|offset| usize::try_from(offset).ok());
        Ok(Self { line: spanned.referenced.line(), offset: offset.unwrap_or(0), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = access.next_element()? {
            list.push(node);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let key = Key { line: key.referenced.line(), name: key.value };
            map.push((key, access.next_value()?));
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_knows_its_line() {
        let node = parse("a: 1\nb:\n  c: [x,\n    1.5, no, true, null, 10m]\nd:\n").unwrap();

        let Value::Map(top) = &node.value else { panic!("{node:?}") };
        let lines: Vec<_> = top.iter().map(|(key, node)| (key.name.as_str(), key.line, node.line)).collect();
        assert_eq!(lines, [("a", 1, 1), ("b", 2, 3), ("d", 5, 5)]);
        let Value::Map(b) = &top[1].1.value else { panic!("{node:?}") };
        let Value::List(list) = &b[0].1.value else { panic!("{node:?}") };
        let values: Vec<_> = list.iter().map(|node| (node.line, node.value.clone())).collect();
        let text = |text: &str| Value::Text(text.to_owned());
        assert_eq!(
            values,
            [
                (3, text("x")),
                (4, Value::Float(1.5)),
                (4, text("no")),
                (4, Value::Bool(true)),
                (4, Value::Null),
                (4, text("10m")),
            ]
        );
        assert_eq!(top[2].1.value, Value::Null);
    }

    #[test]
    fn an_empty_document_is_nothing() {
        assert_eq!(parse("").unwrap().value, Value::Null);
        assert_eq!(parse("# only a comment\n").unwrap().value, Value::Null);
    }

    #[test]
    fn a_key_twice_and_broken_yaml_name_their_line() {
        for (text, line, message) in [
            ("a: 1\na: 2\n", 2, "`a` is here a second time (column 1)"),
            ("a:\n  \"\\e\": 1\n  \"\\e\": 1\n", 3, "`\\u{1b}` is here a second time (column 3)"),
            ("a: 1\n---\na: 1\n", 3, "a second document begins here, and only one is read (column 1)"),
            ("1: a\n~: b\n", 2, "a key must be text (column 1)"),
            ("? [a]\n: b\n", 1, "a key must be text (column 3)"),
            ("a: .nan\n", 1, "a number must be finite (column 4)"),
            ("a:\n\tb: 1\n", 2, "tabs disallowed within this context (block indentation) (column 2)"),
        ] {
            assert_eq!(
                parse(text),
                Err(SyntaxError { line: Some(line), message: message.to_owned() }),
                "{text}"
            );
        }
        let broken = parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(broken.line.is_some(), "{broken:?}");
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let before = level - 1;
            let aliases = vec![format!("*a{before}"); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        let refused = parse(&bomb).unwrap_err();
        assert!(refused.message.starts_with("out of all proportion: "), "{refused}");
        let deep = "[".repeat(100_000);
        assert!(parse(&deep).is_err());
    }
}
