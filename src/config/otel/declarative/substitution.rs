//! Environment variables in the values of a declarative configuration: `${NAME}`, `${env:NAME}`, `${NAME:-default}`.
//!
//! Only values are looked at, never keys, once each and after the file was parsed, so that no value of a variable becomes
//! structure. The type of a plain value is found afterwards: `${N}` is a number where N is one, `"${N}"` is text.
//! `$$` stands for `$`. A reference that cannot be read stops the start.

use std::collections::BTreeSet;

use crate::config::env::EnvSource;
use crate::config::file::{Node, Value};

/// What is wrong, and in which line.
pub(super) type Wrong = (u64, String);

/// Substitutes in a tree that was read from `text`.
pub(super) struct Substitution<'a, E: ?Sized> {
    pub(super) env: &'a E,
    pub(super) text: &'a str,
    /// Variables that were asked for.
    pub(super) asked: BTreeSet<String>,
    pub(super) wrong: Vec<Wrong>,
}

impl<E: EnvSource + ?Sized> Substitution<'_, E> {
    pub(super) fn apply(&mut self, node: &mut Node) {
        match &mut node.value {
            Value::Text(text) if text.contains('$') => match self.substituted(text) {
                Ok(substituted) if self.is_plain(node.offset) => node.value = resolved(substituted),
                Ok(substituted) => node.value = Value::Text(substituted),
                Err(message) => self.wrong.push((node.line, message)),
            },
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {}
            Value::List(list) => list.iter_mut().for_each(|node| self.apply(node)),
            Value::Map(map) => map.iter_mut().for_each(|(_, node)| self.apply(node)),
        }
    }

    /// Whether the scalar that begins there is neither quoted nor a block.
    fn is_plain(&self, offset: usize) -> bool {
        let is_quoted = matches!(self.text.as_bytes().get(offset), Some(b'"' | b'\''));
        !is_quoted && !self.is_block(offset)
    }

    /// Whether the last line before has a block's header at its end: `|`, `>-`, `|2+ # comment`.
    fn is_block(&self, offset: usize) -> bool {
        let before = self.text.get(..offset).unwrap_or_default().trim_end();
        let line = before.rsplit('\n').next().unwrap_or_default();
        let line = line.split_once(" #").map_or(line, |(line, _)| line).trim_end();
        let header = line.rsplit([' ', '\t']).next().unwrap_or_default();
        header.strip_prefix(['|', '>']).is_some_and(|rest| {
            rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'+' || byte == b'-')
        })
    }

    fn substituted(&mut self, text: &str) -> Result<String, String> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some(reference) = rest.strip_prefix('{') {
                let (reference, after) = reference
                    .split_once('}')
                    .ok_or_else(|| format!("`${{{}` has no `}}`", reference.escape_debug()))?;
                out.push_str(&self.value_of(reference)?);
                rest = after;
            } else {
                out.push('$');
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn value_of(&mut self, reference: &str) -> Result<String, String> {
        // `${env:-x}` is the variable `env`.
        let named = reference.strip_prefix("env:").filter(|rest| !rest.starts_with('-')).unwrap_or(reference);
        let (name, default) = match named.split_once(":-") {
            Some((name, default)) => (name, default),
            None => (named, ""),
        };
        let begins = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        let is_name = begins && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name || default.contains('\n') {
            return Err(format!(
                "`${{{}}}` is not a reference (`${{NAME}}`, `${{env:NAME}}` or `${{NAME:-default}}`; `$$` is a `$`)",
                reference.escape_debug()
            ));
        }
        self.asked.insert(name.to_owned());
        let value = self.env.value(name).map(|value| value.to_string_lossy().into_owned());
        Ok(value.filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned()))
    }
}

/// What a plain scalar is, by YAML's core schema.
fn resolved(text: String) -> Value {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(&text);
    let is_number = unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.');
    let with_base = |prefix, base| i128::from_str_radix(text.strip_prefix(prefix)?, base).ok();
    if let Some(int) = with_base("0x", 16).or_else(|| with_base("0o", 8)) {
        return Value::Int(int);
    }
    if !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        if let Ok(int) = text.parse() {
            return Value::Int(int);
        }
    } else if is_number && let Ok(float) = text.parse() {
        return Value::Float(float);
    }
    Value::Text(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::file;

    /// The value of `v`, with the variables that the specification's examples have.
    fn value(scalar: &str) -> Result<Value, String> {
        let env: BTreeMap<String, String> = [
            ("STRING", "value"),
            ("BOOL", "true"),
            ("INT", "1"),
            ("FLOAT", "1.1"),
            ("HEX", "0xdeadbeef"),
            ("BYTE", "0xff"),
            ("LEADING", "007"),
            ("EMPTY", ""),
            ("MAPPING", "key: v"),
            ("LINES", "a\nb: c"),
            ("REFERENCE", "${INT}"),
            ("DOLLARS", "a $$ b"),
            ("env", "its name is env"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        let text = format!("v: {scalar}\n");
        let mut node = file::parse(&text).unwrap();
        let mut substitution =
            Substitution { env: &env, text: &text, asked: BTreeSet::new(), wrong: Vec::new() };
        substitution.apply(&mut node);
        if let Some((line, message)) = substitution.wrong.into_iter().next() {
            assert_eq!(line, 1);
            return Err(message);
        }
        let Value::Map(mut map) = node.value else { panic!("{node:?}") };
        Ok(map.remove(0).1.value)
    }

    fn text(text: &str) -> Result<Value, String> {
        Ok(Value::Text(text.to_owned()))
    }

    #[test]
    fn the_type_of_a_plain_value_is_found_afterwards() {
        assert_eq!(value("${STRING}"), text("value"));
        assert_eq!(value("${env:STRING}"), text("value"));
        assert_eq!(value("${BOOL}"), Ok(Value::Bool(true)));
        assert_eq!(value("${INT}"), Ok(Value::Int(1)));
        assert_eq!(value("${FLOAT}"), Ok(Value::Float(1.1)));
        assert_eq!(value("${HEX}"), Ok(Value::Int(3_735_928_559)));
        assert_eq!(value("${BYTE}"), Ok(Value::Int(255)));
        assert_eq!(value("${LEADING}"), Ok(Value::Int(7)), "so quote tokens made of digits");
        assert_eq!(value("${UNSET}"), Ok(Value::Null));
        assert_eq!(value("${EMPTY}"), Ok(Value::Null));
        assert_eq!(value("${INT}${INT}"), Ok(Value::Int(11)));
    }

    #[test]
    fn what_is_quoted_or_a_block_stays_text() {
        assert_eq!(value("\"${INT}\""), text("1"));
        assert_eq!(value("'${BOOL}'"), text("true"));
        assert_eq!(value("\"${UNSET}\""), text(""));
        assert_eq!(value("\"${LEADING}\""), text("007"));
        assert_eq!(value("|-\n  ${INT}"), text("1"));
        assert_eq!(value(">2- # a comment\n\n   ${INT}"), text("\n 1"));
        assert_eq!(value("\n  ${INT}"), Ok(Value::Int(1)), "plain, on a line of its own");
        assert_eq!(value("&anchor \"${INT}\""), text("1"));
    }

    #[test]
    fn an_alias_is_what_its_anchor_is() {
        let env = BTreeMap::from([("N".to_owned(), "1".to_owned())]);
        let source = "a: &quoted \"${N}\"\nb: *quoted\nc: &plain ${N}\nd: *plain\n";
        let mut node = file::parse(source).unwrap();
        let mut substitution =
            Substitution { env: &env, text: source, asked: BTreeSet::new(), wrong: Vec::new() };
        substitution.apply(&mut node);
        let Value::Map(map) = node.value else { panic!("{node:?}") };
        let values: Vec<_> = map.into_iter().map(|(_, node)| node.value).collect();
        let one = Value::Text("1".to_owned());
        assert_eq!(values, [one.clone(), one, Value::Int(1), Value::Int(1)]);
    }

    #[test]
    fn defaults_count_for_what_is_unset_or_empty() {
        assert_eq!(value("${UNSET:-fallback}"), text("fallback"));
        assert_eq!(value("${EMPTY:-5}"), Ok(Value::Int(5)));
        assert_eq!(value("${STRING:-fallback}"), text("value"));
        assert_eq!(value("${UNSET:-}"), Ok(Value::Null));
        assert_eq!(value("${UNSET:-a}b}"), text("ab}"), "a default ends at the first brace");
        assert_eq!(value("${UNSET:-${STRING}}"), text("${STRING}"), "and is not looked at again");
        assert_eq!(value("${env:-x}"), text("its name is env"));
    }

    #[test]
    fn several_in_one_value_and_nothing_twice() {
        assert_eq!(value("foo ${STRING} ${FLOAT}"), text("foo value 1.1"));
        assert_eq!(value("${REFERENCE}"), text("${INT}"));
        assert_eq!(value("${DOLLARS}"), text("a $$ b"));
    }

    #[test]
    fn two_dollars_are_one_from_the_left() {
        assert_eq!(value("$${STRING}"), text("${STRING}"));
        assert_eq!(value("$$${STRING}"), text("$value"));
        assert_eq!(value("$$$${STRING}"), text("$${STRING}"));
        assert_eq!(value("$${STRING} ${STRING}"), text("${STRING} value"));
        assert_eq!(value("a $$ b"), text("a $ b"));
        assert_eq!(value("a $ b"), text("a $ b"), "one alone stays");
        assert_eq!(value("$STRING"), text("$STRING"));
    }

    #[test]
    fn what_a_variable_says_never_becomes_structure() {
        assert_eq!(value("${MAPPING}"), text("key: v"));
        assert_eq!(value("${LINES}"), text("a\nb: c"));
    }

    #[test]
    fn a_bad_reference_is_an_error() {
        for bad in ["${1A}", "${A:?x}", "${}", "${sys:A}", "${A B}", "${A-x}", "\"${A\"", "${env:}"] {
            assert!(value(bad).is_err(), "{bad}: {:?}", value(bad));
        }
    }

    #[test]
    fn keys_are_left_alone() {
        let env = BTreeMap::from([("K".to_owned(), "x".to_owned())]);
        let mut node = file::parse("\"${K}\": 1\n").unwrap();
        let mut substitution =
            Substitution { env: &env, text: "", asked: BTreeSet::new(), wrong: Vec::new() };
        substitution.apply(&mut node);
        let Value::Map(map) = node.value else { panic!("{node:?}") };
        assert_eq!(map[0].0.name, "${K}");
    }
}
