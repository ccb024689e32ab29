//! Which metadata keys become point attributes, and how they are named.
//!
//! Names are those of span attributes, so that a link from a trace to its metrics finds them. What Prometheus would take
//! for its own, or for no name at all, goes under `snakepit.`. Keys whose names are equal once Prometheus has escaped them share one name, and of
//! several on one point the one that stands first in the list counts: the Collector drops a metric that has both.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::control::glob::Glob;
use crate::engine::attributes::{AttributeValue, Attributes};
use crate::engine::metadata::{attribute_name, hashed, sent_name, truncated};
use crate::engine::metrics::measured::{Pairs, PairsHash};
use crate::engine::settings::{RedactAction, RedactRule};
use crate::event::Event;

/// Keys that tell series apart where nothing else is said: each has few values.
pub(crate) const DEFAULT_POINT_KEYS: [&str; 11] = [
    "tool",
    "operation",
    "model",
    "library",
    "function",
    "call_type",
    "stage",
    "device",
    "result",
    "status",
    "error_type",
];

/// Keys of one list, the established ones apart: a point with more attributes is no series any more, but a record.
pub(crate) const MAX_POINT_KEYS: usize = 32;

/// Bytes of a point attribute's value; what has longer ones is free text.
pub(crate) const MAX_POINT_VALUE_BYTES: usize = 255;

/// The keys of one allow-list.
#[derive(Debug)]
pub(super) struct KeySet {
    /// In their order.
    names: Vec<PointName>,
    /// In the order of preference.
    keys: Vec<Key>,
    /// As the list has them, redacted and denied ones left out.
    listed: Vec<Box<str>>,
}

/// The name of a point attribute.
#[derive(Debug)]
struct PointName {
    text: Box<str>,
    hash: u64,
}

#[derive(Debug)]
struct Key {
    sent: Box<str>,
    on_span: Box<str>,
    /// The place of its name.
    name: u8,
    is_hashed: bool,
}

/// What a key's value becomes: the attribute of a name, where no key that stands before has a value for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Meaning {
    /// The place of its name.
    name: u8,
    /// That of its key.
    key: u8,
}

/// One of several texts that becomes a point attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pick {
    /// Where it is among them.
    at: usize,
    meaning: Meaning,
}

/// Those of one point, in the order of their names.
type Picks = SmallVec<[Pick; 8]>;

impl KeySet {
    /// Of the established keys and `allow`, without what `deny` matches.
    pub(super) fn general(allow: &[String], deny: &[String], redact: &[RedactRule]) -> Self {
        let deny: Vec<Glob> = deny.iter().map(|glob| Glob::new(glob)).collect();
        let is_allowed = |key: &&str| !deny.iter().any(|glob| glob.matches(key));
        let keys = DEFAULT_POINT_KEYS.into_iter().chain(allow.iter().map(String::as_str)).filter(is_allowed);
        Self::of(keys, redact)
    }

    /// Of exactly these keys, but for those whose values must not be shown.
    pub(super) fn of<'k>(keys: impl Iterator<Item = &'k str>, redact: &[RedactRule]) -> Self {
        let redact: Vec<_> = redact.iter().map(|rule| (Glob::new(&rule.key), rule.action)).collect();
        let mut escaped: Vec<(String, Box<str>)> = Vec::new();
        let mut found: Vec<(Box<str>, Box<str>, usize, bool)> = Vec::new();
        let mut listed: Vec<Box<str>> = Vec::new();
        for key in keys {
            let sent = sent_name(key);
            let action = redact.iter().find(|(glob, _)| glob.matches(sent)).map(|(_, action)| *action);
            if action == Some(RedactAction::Drop) || listed.iter().any(|known| **known == *sent) {
                continue;
            }
            listed.push(sent.into());
            let name = point_name(sent);
            let form = escape(&name);
            let at = escaped.iter().position(|(known, _)| *known == form).unwrap_or_else(|| {
                escaped.push((form, name.into()));
                escaped.len() - 1
            });
            let is_hashed = action == Some(RedactAction::Hash);
            if sent == "error_type" {
                // A failed span's own, which is there when the key is used up.
                found.push(("error.type".into(), "error.type".into(), at, is_hashed));
            }
            found.push((sent.into(), (*attribute_name(sent)).into(), at, is_hashed));
        }
        let mut names: Vec<Box<str>> = escaped.iter().map(|(_, name)| name.clone()).collect();
        names.sort_unstable();
        let place = |at: usize| names.iter().position(|name| *name == escaped[at].1).unwrap_or_default();
        let keys = found
            .into_iter()
            .map(|(sent, on_span, at, is_hashed)| {
                let name = u8::try_from(place(at)).expect("lists of keys are short");
                Key { sent, on_span, name, is_hashed }
            })
            .collect();
        let names =
            names.into_iter().map(|text| PointName { hash: PairsHash::of_key(&text), text }).collect();
        Self { names, keys, listed }
    }

    /// As the list has them.
    pub(super) fn listed(&self) -> &[Box<str>] {
        &self.listed
    }

    /// What a metadata key's value becomes; of a key that is left off, nothing.
    pub(super) fn meaning(&self, sent: &str) -> Option<Meaning> {
        self.meaning_of(|key| *key.sent == *sent)
    }

    /// Adds a standalone event's point attributes. `meaning` is [`KeySet::meaning`], whoever says it.
    pub(super) fn of_event<'a, 'e: 'a>(
        &'a self,
        event: &Event<'e>,
        meaning: impl FnMut(&str) -> Option<Meaning>,
        pairs: &mut Pairs<'a>,
    ) -> PairsHash {
        let metadata = &event.metadata[..];
        let mut hash = PairsHash::default();
        for Pick { at, meaning } in picks(metadata.iter().copied(), meaning) {
            let (name, value) = (&self.names[usize::from(meaning.name)], metadata[at].1);
            // Each is put where it stays, and not moved there: what was just written in parts is slow to read as a whole.
            if self.keys[usize::from(meaning.key)].is_hashed {
                let shown = hashed(value);
                hash.add(name.hash, &shown);
                pairs.push((&name.text, Cow::Owned(shown)));
            } else {
                let shown = truncated(value, MAX_POINT_VALUE_BYTES);
                hash.add(name.hash, shown);
                pairs.push((&name.text, Cow::Borrowed(shown)));
            }
        }
        hash
    }

    /// Adds a finished span's point attributes, whose values are redacted already.
    pub(super) fn of_span<'a>(
        &'a self,
        attributes: &'a Attributes,
        mut left_off: impl FnMut(&str),
        pairs: &mut Pairs<'a>,
    ) -> PairsHash {
        let texts: SmallVec<[(&str, &str); 8]> = attributes
            .iter()
            .filter_map(|(key, value)| match value {
                AttributeValue::Text(text) => Some((key, text)),
                AttributeValue::Int(_) | AttributeValue::Float(_) | AttributeValue::Bool(_) => None,
            })
            .collect();
        let mut hash = PairsHash::default();
        let meaning = |on_span: &str| {
            let meaning = self.meaning_of(|key| *key.on_span == *on_span);
            if meaning.is_none() {
                left_off(sent_name(on_span));
            }
            meaning
        };
        for Pick { at, meaning } in picks(texts.iter().copied(), meaning) {
            let name = &self.names[usize::from(meaning.name)];
            let shown = truncated(texts[at].1, MAX_POINT_VALUE_BYTES);
            hash.add(name.hash, shown);
            pairs.push((&name.text, Cow::Borrowed(shown)));
        }
        hash
    }

    fn meaning_of(&self, is_it: impl FnMut(&Key) -> bool) -> Option<Meaning> {
        let place = self.keys.iter().position(is_it)?;
        Some(Meaning {
            name: self.keys[place].name,
            key: u8::try_from(place).expect("lists of keys are short"),
        })
    }
}

/// Which of several texts become point attributes. Prometheus takes an empty label for none.
fn picks<'a>(
    texts: impl Iterator<Item = (&'a str, &'a str)>,
    mut meaning: impl FnMut(&str) -> Option<Meaning>,
) -> Picks {
    let mut picks = Picks::new();
    for (at, (key, value)) in texts.enumerate() {
        if let Some(meaning) = meaning(key)
            && !value.is_empty()
        {
            picks.push(Pick { at, meaning });
        }
    }
    // Places in the lists are in order already, so that sorting is cheap.
    picks.sort_unstable_by_key(|pick| pick.meaning);
    picks.dedup_by_key(|pick| pick.meaning.name);
    picks
}

/// The name of a key's point attribute.
fn point_name(sent: &str) -> String {
    if sent == "error_type" {
        return "error.type".to_owned();
    }
    let name = attribute_name(sent);
    let escaped = escape(&name);
    let is_prometheus = ["job", "instance", "le", "quantile"].contains(&&*escaped)
        || escaped.starts_with("otel_scope_")
        || escaped.starts_with("__")
        // No label's name is only this.
        || escaped == "_";
    if is_prometheus { format!("snakepit.{name}") } else { name.into_owned() }
}

/// A name as the Collector's exporter and Prometheus's OTLP endpoint write labels.
fn escape(name: &str) -> String {
    let before = if name.starts_with(|c: char| c.is_ascii_digit()) { "key_" } else { "" };
    let escaped = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' });
    before.chars().chain(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::metrics::measured::Pair;

    fn pairs(set: &KeySet, metadata: &[(&str, &str)]) -> Vec<(String, String)> {
        let event = Event { metadata: metadata.iter().copied().collect(), ..Event::default() };
        owned(&of_event(set, &event))
    }

    fn of_event<'a, 'e: 'a>(set: &'a KeySet, event: &Event<'e>) -> Pairs<'a> {
        let mut pairs = Pairs::new();
        set.of_event(event, |key| set.meaning(key), &mut pairs);
        pairs
    }

    fn owned(pairs: &[Pair<'_>]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.to_string())).collect()
    }

    fn expected(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn general(allow: &[&str], deny: &[&str]) -> KeySet {
        let owned = |list: &[&str]| list.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
        KeySet::general(&owned(allow), &owned(deny), &[])
    }

    #[test]
    fn names_are_those_of_spans_and_identifiers_are_left_off() {
        let set = general(&["pool_name"], &["device"]);
        let event = Event {
            metadata: [
                ("tool", "search"),
                ("session_id", "s1"),
                ("error_type", "ValueError"),
                ("pool_name", "p"),
            ]
            .into_iter()
            .chain([("device", "cuda:0"), ("model", "")])
            .collect(),
            ..Event::default()
        };
        let found = of_event(&set, &event);
        assert_eq!(
            owned(&found),
            expected(&[("error.type", "ValueError"), ("snakepit.pool", "p"), ("snakepit.tool", "search")])
        );
        let left = ["tool", "session_id", "device", "model"].map(|key| set.meaning(key).is_none());
        assert_eq!(left, [false, true, true, false]);
    }

    #[test]
    fn what_prometheus_would_take_for_its_own_has_another_name() {
        let set = general(
            &["job", "instance", "le", "quantile", "otel_scope_name", "otel.scope.x", "__x", "error"],
            &[],
        );
        assert_eq!(
            pairs(&set, &[("job", "a"), ("instance", "b"), ("le", "c"), ("quantile", "d"), ("__x", "e")]),
            expected(&[
                ("snakepit.__x", "e"),
                ("snakepit.instance", "b"),
                ("snakepit.job", "a"),
                ("snakepit.le", "c"),
                ("snakepit.quantile", "d"),
            ])
        );
        assert_eq!(
            pairs(&set, &[("otel_scope_name", "a"), ("otel.scope.x", "b"), ("error", "c")]),
            expected(&[
                ("snakepit.error", "c"),
                ("snakepit.otel.scope.x", "b"),
                ("snakepit.otel_scope_name", "a")
            ])
        );
    }

    #[test]
    fn what_is_no_name_of_a_label_becomes_one() {
        let set = general(&["1a", "key_1a", "_", "é", "__"], &[]);
        assert_eq!(pairs(&set, &[("key_1a", "b"), ("1a", "a")]), expected(&[("1a", "a")]));
        assert_eq!(
            pairs(&set, &[("é", "b"), ("_", "a"), ("__", "c")]),
            expected(&[("snakepit._", "a"), ("snakepit.__", "c")])
        );
    }

    #[test]
    fn of_keys_that_are_equal_once_escaped_the_first_in_the_list_counts() {
        let set = general(&["tool.name", "tool_name", "snakepit_tool", "pool", "pool_name"], &[]);
        for both in [[("tool.name", "a"), ("tool_name", "b")], [("tool_name", "b"), ("tool.name", "a")]] {
            assert_eq!(pairs(&set, &both), expected(&[("tool.name", "a")]));
        }
        assert_eq!(pairs(&set, &[("tool_name", "b")]), expected(&[("tool.name", "b")]));
        assert_eq!(
            pairs(&set, &[("snakepit_tool", "x"), ("tool", "y")]),
            expected(&[("snakepit.tool", "y")])
        );
        assert_eq!(pairs(&set, &[("pool_name", "x"), ("pool", "y")]), expected(&[("snakepit.pool", "y")]));
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let set = general(&[], &[]);
        let long = "ö".repeat(200);
        assert_eq!(pairs(&set, &[("tool", &long)]), expected(&[("snakepit.tool", &"ö".repeat(127))]));
    }

    #[test]
    fn redacted_values_are_hashed_or_left_off() {
        let rule = |key: &str, action| RedactRule { key: key.to_owned(), action };
        let redact = [rule("model", RedactAction::Hash), rule("to*", RedactAction::Drop)];
        let set = KeySet::of(["model", "tool", "stage"].into_iter(), &redact);
        let found = pairs(&set, &[("tool", "t"), ("model", "gpt"), ("stage", "s")]);
        assert_eq!(found, expected(&[("model", "053ea4804ef1bb33"), ("stage", "s")]), "of its SHA-256");
        assert_eq!(set.listed().iter().map(|key| &**key).collect::<Vec<_>>(), ["model", "stage"]);
    }

    #[test]
    fn a_spans_attributes_are_found_by_their_own_names() {
        let set = general(&[], &[]);
        let mut attributes = Attributes::default();
        for (key, value) in [("snakepit.tool", "t"), ("model", "m"), ("snakepit.session_id", "s")] {
            attributes.set(key, AttributeValue::Text(value));
        }
        attributes.set("tokens", AttributeValue::Int(4));
        attributes.set("error_type", AttributeValue::Text("Said"));
        let mut left = Vec::new();
        let mut shown = |attributes: &Attributes| {
            let mut pairs = Pairs::new();
            set.of_span(attributes, |key| left.push(key.to_owned()), &mut pairs);
            format!("{pairs:?}")
        };
        let expected = r#"[("error.type", "Said"), ("model", "m"), ("snakepit.tool", "t")]"#;
        assert_eq!(shown(&attributes), expected);
        attributes.set("error.type", AttributeValue::Text("Raised"));
        assert_eq!(shown(&attributes), expected.replace("Said", "Raised"));
        assert_eq!(left, ["session_id"; 2]);
    }
}
