//! The rows of a checkpoint that is being written, some of them before its time.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::engine::rows;
use crate::store::RowKey;

/// See above. What is put under a key takes the place of what was put before, so that a draft takes what its rows take, however
/// often they change. A delete holds against all puts: no key is ever used again.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    puts: BTreeMap<RowKey, Vec<u8>>,
    deletes: Vec<RowKey>,
    /// What the puts take in memory.
    bytes: usize,
    /// What was written, superseded rows included.
    written: usize,
    /// It is full, for now, once so much was written.
    room: usize,
}

impl Draft {
    pub(crate) fn put(&mut self, key: RowKey, value: &impl Serialize) {
        let value = rows::encode(value);
        let bytes = row_bytes(&value);
        self.bytes += bytes;
        self.written += bytes;
        let before = self.puts.insert(key, value);
        self.bytes -= before.map_or(0, |before| row_bytes(&before));
    }

    pub(crate) fn delete(&mut self, key: RowKey) {
        self.deletes.push(key);
    }

    /// Makes room for so many bytes more, or for whatever comes.
    pub(crate) fn make_room(&mut self, bytes: Option<usize>) {
        self.room = bytes.map_or(usize::MAX, |bytes| self.written.saturating_add(bytes.max(1)));
    }

    pub(crate) fn is_full(&self) -> bool {
        self.written >= self.room
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its puts, in the order of their keys, and its deletes.
    pub(crate) fn into_rows(self) -> (Vec<(RowKey, Vec<u8>)>, Vec<RowKey>) {
        (self.puts.into_iter().collect(), self.deletes)
    }
}

fn row_bytes(value: &Vec<u8>) -> usize {
    size_of::<(RowKey, Vec<u8>)>() + value.capacity()
}
