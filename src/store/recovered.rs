//! What a state directory held when it was opened.
//!
//! Everything but the bodies of batches is handed out whole: the journal and the rows are what the engines need before
//! anything is served, and are as large as the engines' own state.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bytes::Bytes;
use rusqlite::Connection;

use super::check::{checksum, decode_origins, signal_of};
use super::op::{Ordinals, Origin, Origins, RowKey, SpoolId};
use crate::exporter::signal::Signal;
use crate::time::UnixNanos;

/// The state.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The shards that were heard of since they were last forgotten, by number.
    pub shards: Vec<RecoveredShard>,
    /// The batches that were not settled, oldest first, without their bodies.
    pub spool: Vec<SpoolEntry>,
    /// Outputs since their shard's last checkpoint whose fate is known; ranges of one shard and signal neither overlap nor
    /// touch.
    pub settled: Vec<(Signal, Origin)>,
    /// What became of everything ever, by signal; those of which nothing is known are absent.
    pub sums: BTreeMap<Signal, SignalSums>,
    /// What was damaged, and is left out of the above.
    pub damaged: Damaged,
    /// The disk had fallen behind when it was last written, so what it knew of the engines was of no use any more: they begin
    /// anew, and so do the sums. Batches are all there.
    pub is_behind: bool,
    /// Where the database was kept that could not be read in full, if so.
    pub set_aside: Option<PathBuf>,
}

/// A shard.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RecoveredShard {
    /// Its number.
    pub shard: u16,
    /// The ordinals of the first outputs that the journal makes.
    pub next: Ordinals,
    /// The head of its last checkpoint: `None` before the first one, and where it was damaged.
    pub head: Option<Vec<u8>>,
    /// The rows of its checkpoints, by key.
    pub rows: Vec<(RowKey, Vec<u8>)>,
    /// What was journalled since, in order.
    pub journal: Vec<Bytes>,
}

/// A batch on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolEntry {
    /// Its name.
    pub id: SpoolId,
    /// What is in it.
    pub signal: Signal,
    /// How many items.
    pub items: u64,
    /// The size of its body.
    pub bytes: u64,
    /// When it was filled.
    pub filled_at: UnixNanos,
    /// Whose outputs; empty for those of before shards were last forgotten.
    pub origins: Origins,
}

/// What became of the items of one signal.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SignalSums {
    /// Items that a peer took.
    pub exported: u64,
    /// Items that were not delivered and never will be, by reason.
    pub refused: BTreeMap<String, u64>,
}

/// Things that were written and whose checksum is wrong now.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Damaged {
    /// Batches.
    pub batches: u64,
    /// Pieces of a journal.
    pub journal: u64,
    /// Rows of a checkpoint.
    pub rows: u64,
    /// Heads of a checkpoint.
    pub heads: u64,
    /// Ranges of outputs whose fate was known.
    pub settled: u64,
    /// Sums.
    pub sums: u64,
}

impl Recovered {
    /// Outputs whose fate is on disk, as batch or as settled, in no order.
    pub fn known_origins(&self) -> impl Iterator<Item = (Signal, &Origin)> {
        let spooled =
            self.spool.iter().flat_map(|entry| entry.origins.iter().map(|origin| (entry.signal, origin)));
        spooled.chain(self.settled.iter().map(|(signal, origin)| (*signal, origin)))
    }
}

impl Damaged {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.batches + self.journal + self.rows + self.heads + self.settled + self.sums
    }
}

/// A damaged row that is still there: its table, and its key in SQL. Goes with the next commit, to be counted once.
pub(super) type Debris = (&'static str, String);

/// Reads everything.
///
/// # Errors
///
/// If the file cannot be read; what is readable and wrong is counted instead.
pub(super) fn recover(connection: &Connection) -> rusqlite::Result<(Recovered, Vec<Debris>)> {
    let mut reader =
        Reader { connection, recovered: Recovered::default(), shards: BTreeMap::new(), debris: Vec::new() };
    reader.sums()?;
    reader.spool()?;
    reader.settled()?;
    reader.heads()?;
    reader.rows()?;
    reader.journal()?;
    reader.recovered.shards = reader.shards.into_values().collect();
    Ok((reader.recovered, reader.debris))
}

struct Reader<'a> {
    connection: &'a Connection,
    recovered: Recovered,
    shards: BTreeMap<u16, RecoveredShard>,
    debris: Vec<Debris>,
}

impl Reader<'_> {
    fn sums(&mut self) -> rusqlite::Result<()> {
        let mut select = self.connection.prepare("SELECT signal, reason, items, check_sum FROM sums")?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let (code, reason, items): (i64, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let Some(signal) = signal_of(code).filter(|_| row.get(3) == Ok(sum_check(code, &reason, items)))
            else {
                self.recovered.damaged.sums += 1;
                self.debris
                    .push(("sums", format!("signal = {code} AND reason = '{}'", reason.replace('\'', "''"))));
                continue;
            };
            let sums = self.recovered.sums.entry(signal).or_default();
            if reason.is_empty() {
                sums.exported = items.cast_unsigned();
            } else {
                sums.refused.insert(reason, items.cast_unsigned());
            }
        }
        Ok(())
    }

    fn spool(&mut self) -> rusqlite::Result<()> {
        let era = era(self.connection)?;
        let select =
            "SELECT id, era, signal, items, bytes, filled_at, origins, check_sum FROM spool ORDER BY id";
        let mut select = self.connection.prepare(select)?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let numbers: [i64; 6] =
                [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?];
            let [id, written_in, code, items, bytes, filled_at] = numbers;
            let origins = row.get_ref(6)?.as_blob()?;
            let is_whole = row.get(7) == Ok(spool_check(numbers, origins));
            let (true, Some(signal), Some(origins)) = (is_whole, signal_of(code), decode_origins(origins))
            else {
                self.recovered.damaged.batches += 1;
                self.debris.extend(["spool", "bodies"].map(|table| (table, format!("id = {id}"))));
                continue;
            };
            self.recovered.spool.push(SpoolEntry {
                id: SpoolId(id.cast_unsigned()),
                signal,
                items: items.cast_unsigned(),
                bytes: bytes.cast_unsigned(),
                filled_at: UnixNanos(filled_at),
                origins: if written_in == era { origins } else { Origins::new() },
            });
        }
        Ok(())
    }

    fn settled(&mut self) -> rusqlite::Result<()> {
        let mut select =
            self.connection.prepare("SELECT shard, signal, start, stop, check_sum FROM settled")?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let range: [i64; 4] = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?];
            let [shard, code, start, stop] = range;
            let is_whole = row.get(4) == Ok(settled_check(range));
            let (Ok(number), Some(signal), true) = (u16::try_from(shard), signal_of(code), is_whole) else {
                self.recovered.damaged.settled += 1;
                let place = format!("shard = {shard} AND signal = {code} AND start = {start}");
                self.debris.push(("settled", place));
                continue;
            };
            let ordinals = start.cast_unsigned()..stop.cast_unsigned();
            self.recovered.settled.push((signal, Origin { shard: number, ordinals }));
        }
        let place = |(signal, origin): &(Signal, Origin)| (origin.shard, *signal, origin.ordinals.start);
        self.recovered.settled.sort_unstable_by_key(place);
        Ok(())
    }

    fn heads(&mut self) -> rusqlite::Result<()> {
        let select =
            "SELECT shard, next_span, next_metric, next_record, ordinal_check, check_sum, head FROM heads";
        let mut select = self.connection.prepare(select)?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let (shard, next): (i64, [i64; 3]) = (row.get(0)?, [row.get(1)?, row.get(2)?, row.get(3)?]);
            let head = row.get_ref(6)?.as_blob()?;
            let Ok(number) = u16::try_from(shard) else {
                self.recovered.damaged.heads += 1;
                self.debris.push(("heads", format!("shard = {shard}")));
                continue;
            };
            let has_ordinals = row.get(4) == Ok(ordinal_check(shard, next));
            let is_whole = has_ordinals && row.get(5) == Ok(head_check(shard, next, head));
            // A number that is too large is harmless, one that was used already is not.
            let used = if has_ordinals { ordinals_in(next) } else { self.last_ordinals(number) };
            if !is_whole {
                self.recovered.damaged.heads += 1;
                self.debris.push(("heads", format!("shard = {shard}")));
            }
            let shard = self.shard(number);
            shard.next = used;
            shard.head = is_whole.then(|| head.to_vec());
        }
        Ok(())
    }

    fn rows(&mut self) -> rusqlite::Result<()> {
        let mut select =
            self.connection.prepare("SELECT shard, key, check_sum, value FROM row ORDER BY shard, key")?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let shard: i64 = row.get(0)?;
            let (key, value) = (row.get_ref(1)?.as_blob()?, row.get_ref(3)?.as_blob()?);
            let (Ok(number), true) = (u16::try_from(shard), row.get(2) == Ok(row_check(shard, key, value)))
            else {
                self.recovered.damaged.rows += 1;
                let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
                self.debris.push(("row", format!("shard = {shard} AND key = x'{key}'")));
                continue;
            };
            self.shard(number).rows.push((RowKey::from_slice(key), value.to_vec()));
        }
        Ok(())
    }

    fn journal(&mut self) -> rusqlite::Result<()> {
        let select = "SELECT id, shard, check_sum, records FROM journal ORDER BY id";
        let mut select = self.connection.prepare(select)?;
        let mut rows = select.query(())?;
        let mut torn = BTreeSet::new();
        while let Some(row) = rows.next()? {
            let (id, shard): (i64, i64) = (row.get(0)?, row.get(1)?);
            let records = row.get_ref(3)?.as_blob()?;
            let is_whole = row.get(2) == Ok(journal_check(id, shard, records));
            let (Ok(number), true) = (u16::try_from(shard), is_whole) else {
                self.recovered.damaged.journal += 1;
                self.debris.push(("journal", format!("id = {id}")));
                torn.extend(u16::try_from(shard));
                continue;
            };
            // What happened after something that is not known cannot be made to happen again.
            if torn.contains(&number) {
                self.recovered.damaged.journal += 1;
                continue;
            }
            self.shard(number).journal.push(Bytes::copy_from_slice(records));
        }
        Ok(())
    }

    fn shard(&mut self, number: u16) -> &mut RecoveredShard {
        self.shards
            .entry(number)
            .or_insert_with(|| RecoveredShard { shard: number, ..RecoveredShard::default() })
    }

    /// One past the last ordinals of which anything is known.
    fn last_ordinals(&self, shard: u16) -> Ordinals {
        let mut last = Ordinals::default();
        for (signal, origin) in self.recovered.known_origins().filter(|(_, origin)| origin.shard == shard) {
            last[signal] = last[signal].max(origin.ordinals.end);
        }
        last
    }
}

/// How often shards were forgotten. Origins of batches of an earlier era mean nothing any more.
pub(super) fn era(connection: &Connection) -> rusqlite::Result<i64> {
    meta(connection, "era")
}

/// A number that the store remembers; 0 if it never did.
pub(super) fn meta(connection: &Connection, key: &str) -> rusqlite::Result<i64> {
    use rusqlite::OptionalExtension;
    let value = connection.query_row("SELECT value FROM meta WHERE key = ?", [key], |row| row.get(0));
    Ok(value.optional()?.unwrap_or(0))
}

pub(super) fn sum_check(code: i64, reason: &str, items: i64) -> i64 {
    checksum("sums", &[&code.to_le_bytes(), reason.as_bytes(), &items.to_le_bytes()])
}

pub(super) fn spool_check(numbers: [i64; 6], origins: &[u8]) -> i64 {
    checksum("spool", &[numbers.map(i64::to_le_bytes).as_flattened(), origins])
}

pub(super) fn body_check(id: i64, body: &[u8]) -> i64 {
    checksum("bodies", &[&id.to_le_bytes(), body])
}

pub(super) fn journal_check(id: i64, shard: i64, records: &[u8]) -> i64 {
    checksum("journal", &[&id.to_le_bytes(), &shard.to_le_bytes(), records])
}

/// Ordinals as the columns of the table of heads have them.
pub(super) const fn ordinal_columns(next: Ordinals) -> [i64; 3] {
    let Ordinals { spans, metrics, records } = next;
    [spans.cast_signed(), metrics.cast_signed(), records.cast_signed()]
}

pub(super) const fn ordinals_in([spans, metrics, records]: [i64; 3]) -> Ordinals {
    Ordinals {
        spans: spans.cast_unsigned(),
        metrics: metrics.cast_unsigned(),
        records: records.cast_unsigned(),
    }
}

pub(super) fn ordinal_check(shard: i64, next: [i64; 3]) -> i64 {
    checksum("ordinal", &[&shard.to_le_bytes(), next.map(i64::to_le_bytes).as_flattened()])
}

pub(super) fn head_check(shard: i64, next: [i64; 3], head: &[u8]) -> i64 {
    checksum("heads", &[&shard.to_le_bytes(), next.map(i64::to_le_bytes).as_flattened(), head])
}

pub(super) fn row_check(shard: i64, key: &[u8], value: &[u8]) -> i64 {
    checksum("row", &[&shard.to_le_bytes(), key, value])
}

pub(super) fn settled_check(range: [i64; 4]) -> i64 {
    checksum("settled", &[range.map(i64::to_le_bytes).as_flattened()])
}
