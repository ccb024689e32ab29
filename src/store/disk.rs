//! Writes groups of ops, each as one transaction, and reads bodies.
//!
//! What each op means for the tables is decided here. Of the tables, a mirror in memory keeps what a write must know: the
//! journal's pieces, the settled ranges. It is read again from the disk after a transaction that failed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::check::{encode_origins, signal_code, signal_of};
use super::database::{Directory, FORGET_ENGINES, shrink};
use super::error::{OpenError, is_damage};
use super::op::{Op, Ordinals, Origin, RowKey, ShardCheckpoint, SpoolId};
use super::ranges::{Change, Ranges};
use super::recovered::{self, Debris, Recovered, recover};
use crate::exporter::signal::Signal;

/// Items by signal and reason; the reason of those that the peer took is empty.
pub(super) type Sums = BTreeMap<(Signal, &'static str), u64>;

/// The state directory, open.
#[derive(Debug)]
pub(super) struct Disk {
    connection: Connection,
    mirror: Mirror,
    /// The mirror may differ from the disk.
    is_stale: bool,
    debris: Vec<Debris>,
    // Last, so that the directory is held until the database is closed.
    directory: Directory,
}

fn forget(connection: &Connection, is_behind: bool) -> rusqlite::Result<()> {
    if is_behind { connection.execute_batch(FORGET_ENGINES) } else { Ok(()) }
}

/// A body that was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    Whole(Vec<u8>),
    Damaged,
    Absent,
}

#[derive(Debug, Default)]
struct Mirror {
    /// The journal's pieces by shard: their ids and sizes, in order.
    journal: BTreeMap<u16, Vec<(i64, u64)>>,
    next_journal_id: i64,
    journal_bytes: u64,
    settled: BTreeMap<(u16, Signal), Ranges>,
    /// Where each shard's last checkpoint stands: what is settled below is of no interest.
    floors: BTreeMap<u16, Ordinals>,
    era: i64,
    next_spool_id: i64,
}

impl Disk {
    /// Holds the directory, opens its database and reads it.
    pub(super) fn open(directory: Directory) -> Result<(Self, Recovered), OpenError> {
        let is_behind = directory.file().exists() && !directory.is_current();
        let opened = match directory.open() {
            Ok(connection) => match forget(&connection, is_behind).and_then(|()| read(&connection)) {
                Ok(read) => Ok((connection, read)),
                Err(error) => Err((error, Some(connection))),
            },
            Err(OpenError::Database { source, .. }) => Err((source, None)),
            Err(other) => return Err(other),
        };
        let (connection, (mirror, mut recovered, debris), aside) = match opened {
            Ok((connection, read)) => (connection, read, None),
            Err((error, damaged)) if is_damage(&error) => {
                let (connection, aside) = directory.salvage(damaged)?;
                tracing::error!(%error, kept_as = %aside.display(), "the state database was damaged: went on with what could be read");
                let read = read(&connection)
                    .map_err(|source| OpenError::Database { path: directory.file(), source })?;
                (connection, read, Some(aside))
            }
            Err((source, _)) => return Err(OpenError::Database { path: directory.file(), source }),
        };
        recovered.set_aside = aside;
        recovered.is_behind = is_behind && recovered.set_aside.is_none();
        let path = directory.file();
        directory.set_current(true).map_err(|source| OpenError::Directory {
            dir: directory.path.clone(),
            path,
            source,
        })?;
        if let Err(error) = shrink(&connection) {
            tracing::warn!(%error, "the state database could not be made smaller");
        }
        Ok((Self { connection, mirror, is_stale: false, debris, directory }, recovered))
    }

    /// Notes whether the disk has what was pushed.
    pub(super) fn set_current(&self, is_current: bool) -> std::io::Result<()> {
        self.directory.set_current(is_current)
    }

    /// Writes a group as one transaction: what was carried past a gap first, then its ops in order.
    ///
    /// Guarantee: when this returns without an error, the group is on the disk; with one, nothing of it is.
    pub(super) fn write(
        &mut self,
        ops: &[Op],
        carried_sums: &Sums,
        carried_ids: &[SpoolId],
    ) -> rusqlite::Result<()> {
        let is_stale = std::mem::replace(&mut self.is_stale, true);
        let Self { connection, mirror, debris, .. } = self;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (table, place) in debris.iter() {
            transaction.execute_batch(&format!("DELETE FROM {table} WHERE {place}"))?;
        }
        if is_stale || !debris.is_empty() {
            *mirror = Mirror::read(&transaction)?;
        }
        let mut group = GroupWriter { transaction, mirror, sums: carried_sums.clone() };
        carried_ids.iter().try_for_each(|id| group.delete_batch(*id))?;
        ops.iter().try_for_each(|op| group.op(op))?;
        group.finish()?;
        self.debris.clear();
        self.is_stale = false;
        Ok(())
    }

    /// The body of a batch.
    pub(super) fn body(&self, id: SpoolId) -> rusqlite::Result<Body> {
        let mut select = self.connection.prepare_cached("SELECT check_sum, body FROM bodies WHERE id = ?")?;
        let id = id.0.cast_signed();
        let found = select
            .query_row([id], |row| {
                let body = row.get_ref(1)?.as_blob()?;
                Ok((row.get::<_, i64>(0)? == recovered::body_check(id, body)).then(|| body.to_vec()))
            })
            .optional();
        match found {
            Ok(Some(Some(body))) => Ok(Body::Whole(body)),
            Ok(Some(None)) => Ok(Body::Damaged),
            Ok(None) => Ok(Body::Absent),
            Err(error) if is_damage(&error) => Ok(Body::Damaged),
            Err(error) => Err(error),
        }
    }

    /// Begins a new database with what can be read of this one, which is kept under another name.
    pub(super) fn salvage(&mut self) -> Result<PathBuf, OpenError> {
        // The salvage closes the damaged database, so that this one must be given away; memory stands in for it.
        let unopened = Connection::open_in_memory()
            .map_err(|source| OpenError::Database { path: self.directory.file(), source })?;
        let damaged = std::mem::replace(&mut self.connection, unopened);
        self.is_stale = true;
        let (connection, aside) = self.directory.salvage(Some(damaged)).or_else(|error| {
            self.connection = self.directory.open()?;
            Err(error)
        })?;
        self.connection = connection;
        Ok(aside)
    }

    /// One more than the largest name of a batch that was ever written.
    pub(super) const fn next_spool_id(&self) -> u64 {
        self.mirror.next_spool_id.cast_unsigned()
    }

    pub(super) const fn journal_bytes(&self) -> u64 {
        self.mirror.journal_bytes
    }

    /// Puts the log into the database and closes both.
    pub(super) fn close(self) -> rusqlite::Result<()> {
        self.connection.close().map_err(|(_, error)| error)
    }
}

fn read(connection: &Connection) -> rusqlite::Result<(Mirror, Recovered, Vec<Debris>)> {
    let (recovered, debris) = recover(connection)?;
    Ok((Mirror::read(connection)?, recovered, debris))
}

impl Mirror {
    fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut mirror = Self {
            era: recovered::era(connection)?,
            next_spool_id: recovered::meta(connection, "next_spool_id")?,
            ..Self::default()
        };
        // A name that is on the disk must not be given again, whatever else is damaged.
        let last: Option<i64> = connection.query_row("SELECT max(id) FROM spool", (), |row| row.get(0))?;
        mirror.next_spool_id = mirror.next_spool_id.max(last.map_or(0, |id| id.saturating_add(1)));
        let mut select = connection.prepare("SELECT id, shard, length(records) FROM journal ORDER BY id")?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let (id, shard, bytes): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            mirror.next_journal_id = id.saturating_add(1);
            if let Ok(shard) = u16::try_from(shard) {
                mirror.journal_bytes += bytes.cast_unsigned();
                mirror.journal.entry(shard).or_default().push((id, bytes.cast_unsigned()));
            }
        }
        let mut select = connection.prepare("SELECT shard, signal, start, stop FROM settled")?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let (shard, code): (i64, i64) = (row.get(0)?, row.get(1)?);
            let (start, stop): (i64, i64) = (row.get(2)?, row.get(3)?);
            if let (Ok(shard), Some(signal)) = (u16::try_from(shard), signal_of(code)) {
                let ranges = mirror.settled.entry((shard, signal)).or_default();
                ranges.insert(start.cast_unsigned()..stop.cast_unsigned());
            }
        }
        let mut select =
            connection.prepare("SELECT shard, next_span, next_metric, next_record FROM heads")?;
        let mut rows = select.query(())?;
        while let Some(row) = rows.next()? {
            let (shard, next): (i64, _) = (row.get(0)?, [row.get(1)?, row.get(2)?, row.get(3)?]);
            if let Ok(shard) = u16::try_from(shard) {
                mirror.floors.insert(shard, recovered::ordinals_in(next));
            }
        }
        Ok(mirror)
    }
}

/// A transaction that is being filled.
struct GroupWriter<'a> {
    transaction: Transaction<'a>,
    mirror: &'a mut Mirror,
    /// Written once, at the end.
    sums: Sums,
}

impl GroupWriter<'_> {
    fn op(&mut self, op: &Op) -> rusqlite::Result<()> {
        match op {
            Op::Journal { shard, records } => self.journal(*shard, records),
            Op::Spool { .. } => self.spool(op),
            Op::Settled { signal, spool, origins, exported, refused } => {
                spool.iter().try_for_each(|id| self.delete_batch(*id))?;
                add(&mut self.sums, *signal, *exported, refused);
                origins.iter().try_for_each(|origin| self.settle(*signal, origin))
            }
            Op::Checkpoint { shard, state } => self.checkpoint(*shard, state),
            Op::ForgetShards => self.forget_shards(),
        }
    }

    fn journal(&mut self, shard: u16, records: &[u8]) -> rusqlite::Result<()> {
        let (id, number, bytes) = (self.mirror.next_journal_id, i64::from(shard), records.len() as u64);
        self.run(
            "INSERT INTO journal VALUES (?, ?, ?, ?)",
            params![id, number, recovered::journal_check(id, number, records), records],
        )?;
        self.mirror.next_journal_id += 1;
        self.mirror.journal_bytes += bytes;
        self.mirror.journal.entry(shard).or_default().push((id, bytes));
        Ok(())
    }

    fn spool(&mut self, op: &Op) -> rusqlite::Result<()> {
        let Op::Spool { id, signal, items, body, filled_at, origins } = op else { return Ok(()) };
        let id = id.0.cast_signed();
        let origins = encode_origins(origins);
        let numbers = [
            id,
            self.mirror.era,
            signal_code(*signal),
            items.cast_signed(),
            (body.len() as u64).cast_signed(),
            filled_at.0,
        ];
        let [_, era, code, items, bytes, filled_at] = numbers;
        let check = recovered::spool_check(numbers, &origins);
        self.run(
            "INSERT OR REPLACE INTO spool VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            params![id, era, code, items, bytes, filled_at, origins, check],
        )?;
        let body: &[u8] = body;
        self.run(
            "INSERT OR REPLACE INTO bodies VALUES (?, ?, ?)",
            params![id, recovered::body_check(id, body), body],
        )?;
        if id >= self.mirror.next_spool_id {
            self.mirror.next_spool_id = id.saturating_add(1);
            self.set_meta("next_spool_id", self.mirror.next_spool_id)?;
        }
        Ok(())
    }

    fn delete_batch(&mut self, id: SpoolId) -> rusqlite::Result<()> {
        let id = id.0.cast_signed();
        self.run("DELETE FROM spool WHERE id = ?", [id])?;
        self.run("DELETE FROM bodies WHERE id = ?", [id])
    }

    fn settle(&mut self, signal: Signal, origin: &Origin) -> rusqlite::Result<()> {
        let Origin { shard, ordinals } = origin;
        let floor = self.mirror.floors.get(shard).map_or(0, |floors| floors[signal]);
        let ranges = self.mirror.settled.entry((*shard, signal)).or_default();
        let change = ranges.insert(ordinals.start.max(floor)..ordinals.end);
        self.follow(*shard, signal, change)
    }

    fn checkpoint(&mut self, shard: u16, state: &ShardCheckpoint) -> rusqlite::Result<()> {
        let number = i64::from(shard);
        let ShardCheckpoint { next, head, replaces_all, puts, deletes } = state;
        if *replaces_all {
            self.run("DELETE FROM row WHERE shard = ?", [number])?;
        }
        for (key, value) in puts {
            let check = recovered::row_check(number, key, value);
            let key: &RowKey = key;
            self.run(
                "INSERT OR REPLACE INTO row VALUES (?, ?, ?, ?)",
                params![number, &key[..], check, value],
            )?;
        }
        for key in deletes {
            self.run("DELETE FROM row WHERE shard = ? AND key = ?", params![number, &key[..]])?;
        }
        let columns = recovered::ordinal_columns(*next);
        let check = recovered::head_check(number, columns, head);
        let [span, metric, record] = columns;
        self.run(
            "INSERT OR REPLACE INTO heads VALUES (?, ?, ?, ?, ?, ?, ?)",
            params![number, span, metric, record, recovered::ordinal_check(number, columns), check, head],
        )?;
        self.mirror.floors.insert(shard, *next);
        for signal in Signal::ALL {
            let change = self.mirror.settled.entry((shard, signal)).or_default().forget_below(next[signal]);
            self.follow(shard, signal, change)?;
        }
        for (id, bytes) in self.mirror.journal.remove(&shard).unwrap_or_default() {
            self.run("DELETE FROM journal WHERE id = ?", [id])?;
            self.mirror.journal_bytes -= bytes;
        }
        Ok(())
    }

    fn forget_shards(&mut self) -> rusqlite::Result<()> {
        for table in ["journal", "row", "heads", "settled"] {
            self.run(&format!("DELETE FROM {table}"), ())?;
        }
        let Mirror { next_journal_id, era, next_spool_id, .. } = *self.mirror;
        *self.mirror = Mirror { next_journal_id, next_spool_id, era: era + 1, ..Mirror::default() };
        self.set_meta("era", era + 1)
    }

    /// Makes the table of settled ranges what the mirror is.
    fn follow(&mut self, shard: u16, signal: Signal, change: Change) -> rusqlite::Result<()> {
        let (shard, code) = (i64::from(shard), signal_code(signal));
        for start in change.gone {
            self.run(
                "DELETE FROM settled WHERE shard = ? AND signal = ? AND start = ?",
                [shard, code, start.cast_signed()],
            )?;
        }
        let Some(new) = change.new else { return Ok(()) };
        let range = [shard, code, new.start.cast_signed(), new.end.cast_signed()];
        let [_, _, start, stop] = range;
        self.run(
            "INSERT OR REPLACE INTO settled VALUES (?, ?, ?, ?, ?)",
            [shard, code, start, stop, recovered::settled_check(range)],
        )
    }

    fn finish(mut self) -> rusqlite::Result<()> {
        for ((signal, reason), items) in std::mem::take(&mut self.sums) {
            let code = signal_code(signal);
            let before = self
                .transaction
                .prepare_cached("SELECT items FROM sums WHERE signal = ? AND reason = ?")?
                .query_row(params![code, reason], |row| row.get::<_, i64>(0))
                .optional()?;
            let items = before.unwrap_or(0).cast_unsigned().saturating_add(items).cast_signed();
            self.run(
                "INSERT OR REPLACE INTO sums VALUES (?, ?, ?, ?)",
                params![code, reason, items, recovered::sum_check(code, reason, items)],
            )?;
        }
        self.transaction.commit()
    }

    fn set_meta(&self, key: &str, value: i64) -> rusqlite::Result<()> {
        self.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", params![key, value])
    }

    fn run(&self, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<()> {
        self.transaction.prepare_cached(sql)?.execute(params).map(|_| ())
    }
}

/// Adds what became of some items.
pub(super) fn add(sums: &mut Sums, signal: Signal, exported: u64, refused: &[(&'static str, u64)]) {
    for (reason, items) in [("", exported)].iter().chain(refused) {
        if *items > 0 {
            let sum: &mut u64 = sums.entry((signal, reason)).or_default();
            *sum = sum.saturating_add(*items);
        }
    }
}
