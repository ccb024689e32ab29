//! A compact list of attributes: one text for all keys and strings, one small entry each.
//!
//! A span keeps its attributes from its start to its export, and a hundred thousand spans may be open, so a list costs
//! two allocations however many attributes it holds. Keys are unique: setting a key again replaces its value.

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

#[derive(Clone, Copy)]
struct Entry {
    key: Slice,
    value: Stored,
}

/// A range of `text`, in bytes.
#[derive(Clone, Copy)]
struct Slice {
    start: u32,
    end: u32,
}

#[derive(Clone, Copy)]
enum Stored {
    Text(Slice),
    Int(i64),
    Float(f64),
    Bool(bool),
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

impl Attributes {
    /// An empty list with room for what `event` says and for its correlation id; with `marks`, for the marks of a
    /// finished span as well.
    #[must_use]
    pub fn with_capacity(event: &Event<'_>, marks: bool) -> Self {
        let (marks, marks_text) = if marks { (3, 96) } else { (0, 0) };
        let metadata: usize = event.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        let measurements: usize = event.measurements.iter().map(|(key, _)| key.len()).sum();
        let entries = event.metadata.len() + event.measurements.len() + 1 + marks;
        let text = metadata + measurements + 23 + event.correlation_id.len() + marks_text;
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
        for (key, value) in other.iter() {
            if self.value(key).is_none() {
                if self.len() < max {
                    self.push(key, value);
                } else {
                    left_out += 1;
                }
            }
        }
        self.dropped = self.dropped.saturating_add(other.dropped).saturating_add(left_out);
        left_out
    }

    /// Gives back the room that nothing came for.
    pub fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    /// Whether the first `self_len` attributes here and the first `other_len` there agree on every key that both have.
    #[must_use]
    pub fn agrees_with(&self, self_len: usize, other: &Self, other_len: usize) -> bool {
        other.iter().take(other_len).all(|(key, value)| {
            self.iter().take(self_len).find(|(own, _)| *own == key).is_none_or(|(_, own)| own == value)
        })
    }

    /// Sets `key`, replacing a value that it may have.
    pub fn set(&mut self, key: &str, value: AttributeValue<'_>) {
        if let Some(at) = self.entries.iter().position(|entry| self.text(entry.key) == key) {
            self.entries[at].value = self.store_value(value);
        } else {
            self.push(key, value);
        }
    }

    fn push(&mut self, key: &str, value: AttributeValue<'_>) {
        let key = self.store(key);
        let value = self.store_value(value);
        self.entries.push(Entry { key, value });
    }

    fn store_value(&mut self, value: AttributeValue<'_>) -> Stored {
        match value {
            AttributeValue::Text(text) => Stored::Text(self.store(text)),
            AttributeValue::Int(int) => Stored::Int(int),
            AttributeValue::Float(float) => Stored::Float(float),
            AttributeValue::Bool(boolean) => Stored::Bool(boolean),
        }
    }

    /// The value of `key`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<AttributeValue<'_>> {
        self.iter().find(|(candidate, _)| *candidate == key).map(|(_, value)| value)
    }

    /// Every attribute.
    pub fn iter(&self) -> impl Iterator<Item = (&str, AttributeValue<'_>)> {
        self.entries.iter().map(|entry| {
            let value = match entry.value {
                Stored::Text(slice) => AttributeValue::Text(self.text(slice)),
                Stored::Int(int) => AttributeValue::Int(int),
                Stored::Float(float) => AttributeValue::Float(float),
                Stored::Bool(boolean) => AttributeValue::Bool(boolean),
            };
            (self.text(entry.key), value)
        })
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

    fn store(&mut self, text: &str) -> Slice {
        let position = |at: usize| u32::try_from(at).expect("a message is at most 4 GiB");
        let start = position(self.text.len());
        self.text.push_str(text);
        Slice { start, end: position(self.text.len()) }
    }

    fn text(&self, slice: Slice) -> &str {
        &self.text[slice.start as usize..slice.end as usize]
    }
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
