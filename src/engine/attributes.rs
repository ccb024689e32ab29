//! A compact list of attributes: one text for all keys and strings, one small entry each.
//!
//! A span keeps its attributes from its start to its export, and a hundred thousand spans may be open, so a list costs
//! two allocations however many attributes it holds. Keys are unique: setting a key again replaces its value.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::metadata::{TIMES, name_len};
use crate::engine::short::is_same;
use crate::event::Event;

/// Attributes in the order in which their keys were first set.
#[derive(Clone, Default)]
pub struct Attributes {
    /// Keys and string values, one after the other.
    text: String,
    entries: Vec<Entry>,
    /// Attributes that a limit kept out.
    dropped: u32,
}

/// A key and a value, in 16 bytes.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Entry {
    /// Of the key in `text`.
    key_start: u32,
    key_len: u16,
    kind: Kind,
    /// The number itself; of a string, its place in `text` and its length.
    bits: u64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum Kind {
    Text,
    Int,
    Float,
    Bool,
}

/// An attribute's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AttributeValue<'a> {
    /// A string.
    Text(&'a str),
    /// A 64-bit integer.
    Int(i64),
    /// A double.
    Float(f64),
    /// A boolean.
    Bool(bool),
}

/// How the keys begin by which the engine says what it did, and what a span is.
const MARKS: [&str; 7] = [
    "snakepit.event",
    "snakepit.correlation_id",
    "snakepit.parent",
    "snakepit.span.",
    "snakepit.clock",
    "error.type",
    "exception.",
];

impl Attributes {
    /// An empty list with room for what `event` says and for its correlation id; with `marks`, for the marks of a
    /// finished span as well.
    #[must_use]
    pub fn with_capacity(event: &Event<'_>, marks: bool) -> Self {
        let (marks, marks_text) = if marks { (3, 96) } else { (0, 0) };
        let metadata: usize = event.metadata.iter().map(|(key, value)| name_len(key) + value.len()).sum();
        let measured = || event.measurements.iter().filter(|(key, _)| !TIMES.contains(key));
        let measurements: usize = measured().map(|(key, _)| key.len()).sum();
        let entries = event.metadata.len() + measured().count() + 1 + marks;
        let correlation_id = match event.correlation_id.len() {
            0 => 0,
            len => name_len("correlation_id") + len,
        };
        let text = metadata + measurements + correlation_id + marks_text;
        Self { text: String::with_capacity(text), entries: Vec::with_capacity(entries), dropped: 0 }
    }

    /// Sets `prefix` + `key`.
    pub fn set_prefixed(&mut self, prefix: &str, key: &str, value: AttributeValue<'_>) {
        self.set(&format!("{prefix}{key}"), value);
    }

    /// Sets `key` to `first.second`.
    pub fn set_joined(&mut self, key: &str, first: &str, second: &str) {
        self.set(key, AttributeValue::Text(&format!("{first}.{second}")));
    }

    /// Adds what `other` has and this list has not, up to `max` attributes in all. Returns how many found no room.
    pub fn add_missing(&mut self, other: &Self, max: usize) -> u32 {
        let mut left_out = 0;
        for (at, (key, value)) in other.iter().enumerate() {
            if self.position(key, at).is_none() {
                if self.len() < max {
                    self.push_new(key, value);
                } else {
                    left_out += 1;
                }
            }
        }
        self.dropped = self.dropped.saturating_add(other.dropped).saturating_add(left_out);
        left_out
    }

    /// Leaves out the attributes beyond `max`, counted, and the characters (code points) of each text beyond
    /// `max_chars`, which are not. What came first stays, but the engine's own marks are the last to go. Returns how many were
    /// left out or cut.
    pub fn keep_within(&mut self, max: usize, max_chars: Option<usize>) -> u32 {
        let beyond = self.len().saturating_sub(max);
        if beyond > 0 {
            let is_mark = |entry: &Entry| MARKS.iter().any(|mark| self.key_of(*entry).starts_with(mark));
            let (mut kept, others): (Vec<_>, Vec<_>) = self.entries.iter().partition(|entry| is_mark(entry));
            let room = max.saturating_sub(kept.len());
            kept.extend(others.into_iter().take(room));
            kept.truncate(max);
            self.entries = kept;
        }
        let mut cut = u32::try_from(beyond).unwrap_or(u32::MAX);
        self.dropped = self.dropped.saturating_add(cut);
        let Some(max_chars) = max_chars else { return cut };
        for at in 0..self.entries.len() {
            let AttributeValue::Text(text) = self.value_of(self.entries[at]) else { continue };
            // The text stays where it is, with a shorter length.
            let kept = truncated_chars(text, max_chars).len();
            cut = cut.saturating_add(u32::from(kept < text.len()));
            let entry = &mut self.entries[at];
            entry.bits = entry.bits & !u64::from(u32::MAX) | kept as u64;
        }
        cut
    }

    /// Gives back the room that nothing came for.
    pub fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    /// Whether the first `self_len` attributes here and the first `other_len` there agree on every key that both have.
    #[must_use]
    pub fn agrees_with(&self, self_len: usize, other: &Self, other_len: usize) -> bool {
        other.iter().take(other_len).enumerate().all(|(at, (key, value))| {
            let own = self.position(key, at).filter(|own| *own < self_len);
            own.is_none_or(|own| self.value_of(self.entries[own]) == value)
        })
    }

    /// Sets `key`, replacing a value that it may have.
    pub fn set(&mut self, key: &str, value: AttributeValue<'_>) {
        match self.position(key, usize::MAX) {
            Some(at) => {
                let (kind, bits) = self.store_value(value);
                self.entries[at] = Entry { kind, bits, ..self.entries[at] };
            }
            None => self.push_new(key, value),
        }
    }

    /// Adds an attribute whose key is not in the list.
    pub(crate) fn push_new(&mut self, key: &str, value: AttributeValue<'_>) {
        let key_start = self.store(key);
        let key_len = u16::try_from(key.len()).expect("keys are cut to some hundred bytes");
        let (kind, bits) = self.store_value(value);
        self.entries.push(Entry { key_start, key_len, kind, bits });
    }

    /// Where `key` is: most likely at `hint`, because the halves of a span list their keys in one order.
    fn position(&self, key: &str, hint: usize) -> Option<usize> {
        let is_key = |entry: &Entry| usize::from(entry.key_len) == key.len() && self.key_of(*entry) == key;
        if self.entries.get(hint).is_some_and(is_key) {
            return Some(hint);
        }
        self.entries.iter().position(is_key)
    }

    fn store_value(&mut self, value: AttributeValue<'_>) -> (Kind, u64) {
        match value {
            AttributeValue::Text(text) => (Kind::Text, u64::from(self.store(text)) << 32 | text.len() as u64),
            AttributeValue::Int(int) => (Kind::Int, int.cast_unsigned()),
            AttributeValue::Float(float) => (Kind::Float, float.to_bits()),
            AttributeValue::Bool(boolean) => (Kind::Bool, boolean.into()),
        }
    }

    fn key_of(&self, entry: Entry) -> &str {
        self.text(entry.key_start.into(), entry.key_len.into())
    }

    fn value_of(&self, entry: Entry) -> AttributeValue<'_> {
        match entry.kind {
            Kind::Text => AttributeValue::Text(self.text(entry.bits >> 32, entry.bits & u64::from(u32::MAX))),
            Kind::Int => AttributeValue::Int(entry.bits.cast_signed()),
            Kind::Float => AttributeValue::Float(f64::from_bits(entry.bits)),
            Kind::Bool => AttributeValue::Bool(entry.bits != 0),
        }
    }

    /// The value of `key`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<AttributeValue<'_>> {
        self.position(key, usize::MAX).map(|at| self.value_of(self.entries[at]))
    }

    /// Whether it is exactly these texts, in this order.
    pub(crate) fn are_texts<'t>(&self, texts: impl ExactSizeIterator<Item = (&'t str, &'t str)>) -> bool {
        let is_at = |start: u64, text: &str| is_same(self.text(start, text.len() as u64), text);
        self.entries.len() == texts.len()
            && self.entries.iter().zip(texts).all(|(entry, (key, value))| {
                usize::from(entry.key_len) == key.len()
                    && matches!(entry.kind, Kind::Text)
                    && entry.bits & u64::from(u32::MAX) == value.len() as u64
                    && is_at(entry.key_start.into(), key)
                    && is_at(entry.bits >> 32, value)
            })
    }

    /// Every attribute.
    pub fn iter(&self) -> impl Iterator<Item = (&str, AttributeValue<'_>)> {
        self.entries.iter().map(|entry| (self.key_of(*entry), self.value_of(*entry)))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Counts an attribute that a limit kept out.
    pub fn count_dropped(&mut self) {
        self.dropped = self.dropped.saturating_add(1);
    }

    /// Attributes that a limit kept out.
    #[must_use]
    pub fn dropped(&self) -> u32 {
        self.dropped
    }

    /// What the list costs in memory.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.text.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Adds a text; returns its place.
    fn store(&mut self, text: &str) -> u32 {
        let start = u32::try_from(self.text.len()).expect("a message is at most 4 GiB");
        self.text.push_str(text);
        start
    }

    fn text(&self, start: u64, len: u64) -> &str {
        let place = |at: u64| usize::try_from(at).expect("a place in a string");
        &self.text[place(start)..place(start + len)]
    }
}

/// The room that a list may have beyond what is in it, in bytes and in entries: no message is as long.
const MAX_SPARE: u32 = 64 << 20;

/// As they are in memory, the room beyond what is in them included: limits on memory count it.
impl Serialize for Attributes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let spare = |len: usize, capacity: usize| u32::try_from(capacity - len).unwrap_or(u32::MAX);
        let text = spare(self.text.len(), self.text.capacity());
        let entries = spare(self.entries.len(), self.entries.capacity());
        (&self.text, &self.entries, self.dropped, text, entries).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (text, entries, dropped, spare_text, spare_entries) =
            <(&'de str, Vec<Entry>, u32, u32, u32)>::deserialize(deserializer)?;
        if spare_text > MAX_SPARE || spare_entries > MAX_SPARE / size_of::<Entry>() as u32 {
            return Err(D::Error::custom("attributes with more room than a message has"));
        }
        let mut own = Self {
            text: String::with_capacity(text.len() + spare_text as usize),
            entries: Vec::with_capacity(entries.len() + spare_entries as usize),
            dropped,
        };
        own.text.push_str(text);
        own.entries.extend(entries);
        let is_within = |entry: &Entry| {
            let has = |start: u64, len: u64| {
                let (Ok(start), Ok(end)) = (usize::try_from(start), usize::try_from(start + len)) else {
                    return false;
                };
                text.get(start..end).is_some()
            };
            let has_value = match entry.kind {
                Kind::Text => has(entry.bits >> 32, entry.bits & u64::from(u32::MAX)),
                Kind::Int | Kind::Float | Kind::Bool => true,
            };
            has(entry.key_start.into(), entry.key_len.into()) && has_value
        };
        if own.entries.iter().all(is_within) {
            Ok(own)
        } else {
            Err(D::Error::custom("an attribute outside its text"))
        }
    }
}

/// The first `max` characters (code points) of `text`.
pub(crate) fn truncated_chars(text: &str, max: usize) -> &str {
    // A character takes a byte at least.
    if text.len() <= max {
        return text;
    }
    text.char_indices().nth(max).map_or(text, |(end, _)| &text[..end])
}

impl std::fmt::Debug for Attributes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl PartialEq for Attributes {
    fn eq(&self, other: &Self) -> bool {
        self.dropped == other.dropped
            && self.len() == other.len()
            && self.iter().all(|(key, value)| other.value(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were_set() {
        let mut attributes = Attributes::default();
        let values = [
            ("text", AttributeValue::Text("grüße")),
            ("empty", AttributeValue::Text("")),
            ("int", AttributeValue::Int(i64::MIN)),
            ("float", AttributeValue::Float(-0.5)),
            ("bool", AttributeValue::Bool(true)),
        ];
        values.iter().for_each(|(key, value)| attributes.set(key, *value));
        assert!(attributes.iter().eq(values));
        attributes.set("int", AttributeValue::Text("replaced"));
        assert_eq!((attributes.len(), attributes.value("int")), (5, Some(AttributeValue::Text("replaced"))));
        assert_eq!(attributes.value("absent"), None);
    }

    #[test]
    fn what_came_first_stays_and_texts_are_cut_between_characters() {
        let mut attributes = Attributes::default();
        for (key, value) in [("a", "grüße"), ("b", "🦀🦀🦀"), ("c", "x")] {
            attributes.set(key, AttributeValue::Text(value));
        }
        assert_eq!(attributes.keep_within(2, Some(2)), 3);
        let kept: Vec<_> = attributes.iter().collect();
        assert_eq!(kept, [("a", AttributeValue::Text("gr")), ("b", AttributeValue::Text("🦀🦀"))]);
        assert_eq!(attributes.dropped(), 1);
        attributes.set("snakepit.event", AttributeValue::Text("[:a]"));
        assert_eq!(attributes.keep_within(2, Some(2)), 2, "one left out, and the mark cut");
        let kept: Vec<_> = attributes.iter().map(|(key, _)| key).collect();
        assert_eq!((kept, attributes.dropped()), (vec!["snakepit.event", "a"], 2), "marks go last");
        attributes.keep_within(2, Some(0));
        assert!(attributes.iter().all(|(_, value)| value == AttributeValue::Text("")));
        attributes.keep_within(0, None);
        assert_eq!((attributes.len(), attributes.dropped()), (0, 4));
    }

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<Entry>(), 16);
    }
}
