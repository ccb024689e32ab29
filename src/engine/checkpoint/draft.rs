//! The rows of a checkpoint that is being written, some of them before its time.

use serde::Serialize;

use crate::engine::rows;
use crate::store::RowKey;

/// See above. The last put of a key holds, and a delete holds against all puts: no key is ever used again.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    puts: Vec<(RowKey, Vec<u8>)>,
    deletes: Vec<RowKey>,
    /// What the puts take in memory.
    bytes: usize,
    /// It is full, for now, once they take so much.
    room: usize,
}

impl Draft {
    pub(crate) fn put(&mut self, key: RowKey, value: &impl Serialize) {
        let row = (key, rows::encode(value));
        self.bytes += size_of_val(&row) + row.1.capacity();
        self.puts.push(row);
    }

    pub(crate) fn delete(&mut self, key: RowKey) {
        self.deletes.push(key);
    }

    /// Makes room for so many bytes more, or for whatever comes.
    pub(crate) fn make_room(&mut self, bytes: Option<usize>) {
        self.room = bytes.map_or(usize::MAX, |bytes| self.bytes.saturating_add(bytes.max(1)));
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= self.room
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its puts and its deletes.
    pub(crate) fn into_rows(self) -> (Vec<(RowKey, Vec<u8>)>, Vec<RowKey>) {
        (self.puts, self.deletes)
    }
}
