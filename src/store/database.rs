//! The database: its file, its tables, its version, and how a damaged one is set aside.
//!
//! SQLite in WAL mode with `synchronous=FULL`: a transaction is on the disk when its commit returns. One connection, one
//! thread.
//!
//! Measured with 7,000 batches of 150 KiB, a commit for every eight (CPU a span of 350 bytes; two cores, one disk):
//!
//! | | SQLite, 64/16 KiB pages | redb 4, quick repair | fjall 3 |
//! |---|---|---|---|
//! | put; read and delete, ns | 619/949; 454/695 | 456; 201 | 674; 110 |
//! | 1.0 GiB takes, GiB | 1.08/1.01 | 1.71 | 1.03, and 0.1 more once drained |
//! | open after `kill -9`, ms | 2/6 | 2 (592 without) | 76 |
//! | disk full, then room | goes on | must be reopened | must be reopened |
//! | 120 bits flipped in a file | each cost at most a row | 1 panic, 1 lost all | not tried |
//! | threads of its own | none | none | some |
//!
//! redb is the cheapest and SQLite is cheap enough; what decides is how it behaves on a bad day.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::error::OpenError;

/// The version of what is on disk, the engine's rows and the shards' journals included: whatever changes any of them raises
/// it. Other versions are refused whole, so that none is ever misread, nor half of one lost.
pub const FORMAT: u8 = 2;

/// [`FORMAT`], as SQLite keeps it.
const WRITTEN_FORMAT: i64 = FORMAT as i64;

/// The database within the state directory.
pub(super) const FILE: &str = "state.db";

/// Held for as long as the store is open.
const LOCK_FILE: &str = "lock";

/// There while the disk has what was pushed. It is taken away, which needs no room, as soon as the disk falls behind: what
/// the engines were told since then happened without being written, so nothing can be made again from there.
const CURRENT_FILE: &str = "current";

/// What a disk that fell behind knows of the engines, and of what became of things.
pub(super) const FORGET_ENGINES: &str = "BEGIN IMMEDIATE; DELETE FROM journal; DELETE FROM heads; DELETE FROM row; \
     DELETE FROM settled; DELETE FROM sums; COMMIT";

/// A bridge that is just ending is given these tries to let go.
const LOCK_TRIES: u32 = 20;

/// The time between two of them.
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// What a salvage is written to before it takes the place of the damaged file.
const SALVAGE_FILE: &str = "state.db.salvage";

/// Large pages make a batch cheaper (spooling a span takes 745, 613, 500 ns of CPU with 8, 16, 32 KiB), small ones a
/// commit that changes little: it writes some pages, whole, twenty times a second.
pub(super) const PAGE_BYTES: u32 = 16 * 1024;

/// What SQLite keeps in memory of the file.
const CACHE_KIB: u32 = 8 * 1024;

/// The write-ahead log is put into the database when it has grown this large, and cut back to it.
const LOG_BYTES: u32 = 16 * 1024 * 1024;

/// A file that is larger than this and at least three quarters empty is made small at a start.
const SHRINK_BYTES: i64 = 64 * 1024 * 1024;

/// More than this is not copied for it: 32 MiB.
const SHRINK_PAGES: i64 = 32 * 1024 * 1024 / PAGE_BYTES as i64;

/// Damaged files that are kept; a later one replaces the last.
const MAX_SET_ASIDE: u32 = 100;

/// A table: name, columns with their types, key.
struct Table {
    name: &'static str,
    columns: &'static [&'static str],
    options: &'static str,
    key: &'static str,
}

const TABLES: [Table; 8] = [
    Table {
        name: "meta",
        columns: &["key TEXT NOT NULL PRIMARY KEY", "value INTEGER NOT NULL"],
        options: "WITHOUT ROWID, STRICT",
        key: "key",
    },
    Table {
        name: "sums",
        columns: &[
            "signal INTEGER NOT NULL",
            "reason TEXT NOT NULL",
            "items INTEGER NOT NULL",
            "check_sum INTEGER NOT NULL",
            "PRIMARY KEY (signal, reason)",
        ],
        options: "WITHOUT ROWID, STRICT",
        key: "signal, reason",
    },
    // What a start must know of a batch stands apart from its body, so that it is read without the gigabyte.
    Table {
        name: "spool",
        columns: &[
            "id INTEGER PRIMARY KEY",
            "era INTEGER NOT NULL",
            "signal INTEGER NOT NULL",
            "items INTEGER NOT NULL",
            "bytes INTEGER NOT NULL",
            "filled_at INTEGER NOT NULL",
            "origins BLOB NOT NULL",
            "check_sum INTEGER NOT NULL",
        ],
        options: "STRICT",
        key: "id",
    },
    Table {
        name: "bodies",
        columns: &["id INTEGER PRIMARY KEY", "check_sum INTEGER NOT NULL", "body BLOB NOT NULL"],
        options: "STRICT",
        key: "id",
    },
    Table {
        name: "journal",
        columns: &[
            "id INTEGER PRIMARY KEY",
            "shard INTEGER NOT NULL",
            "check_sum INTEGER NOT NULL",
            "records BLOB NOT NULL",
        ],
        options: "STRICT",
        key: "id",
    },
    Table {
        name: "heads",
        columns: &[
            "shard INTEGER PRIMARY KEY",
            "next_span INTEGER NOT NULL",
            "next_metric INTEGER NOT NULL",
            "next_record INTEGER NOT NULL",
            "ordinal_check INTEGER NOT NULL",
            "check_sum INTEGER NOT NULL",
            "head BLOB NOT NULL",
        ],
        options: "STRICT",
        key: "shard",
    },
    Table {
        name: "row",
        columns: &[
            "shard INTEGER NOT NULL",
            "key BLOB NOT NULL",
            "check_sum INTEGER NOT NULL",
            "value BLOB NOT NULL",
            "PRIMARY KEY (shard, key)",
        ],
        options: "WITHOUT ROWID, STRICT",
        key: "shard, key",
    },
    Table {
        name: "settled",
        columns: &[
            "shard INTEGER NOT NULL",
            "signal INTEGER NOT NULL",
            "start INTEGER NOT NULL",
            "stop INTEGER NOT NULL",
            "check_sum INTEGER NOT NULL",
            "PRIMARY KEY (shard, signal, start)",
        ],
        options: "WITHOUT ROWID, STRICT",
        key: "shard, signal, start",
    },
];

/// The directory, held by this program alone until this is dropped or the program ends in any way.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Makes the directory if there is none, and holds it.
    pub(super) fn hold(dir: &Path) -> Result<Self, OpenError> {
        let failed = |path: &Path| {
            let (dir, path) = (dir.to_owned(), path.to_owned());
            move |source| OpenError::Directory { dir, path, source }
        };
        // The parent is not made: a mistyped path or a disk that is not mounted would go unnoticed.
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(failed(dir)(error));
            }
            Ok(()) | Err(_) => {}
        }
        let path = dir.join(LOCK_FILE);
        let lock = private_file().create(true).truncate(false).open(&path).map_err(failed(&path))?;
        for _ in 0..LOCK_TRIES {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { path: dir.to_owned(), _lock: lock }),
                Err(fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_RETRY_INTERVAL),
                Err(fs::TryLockError::Error(error)) => return Err(failed(&path)(error)),
            }
        }
        Err(OpenError::InUse { dir: dir.to_owned() })
    }

    /// Whether the disk has what was pushed.
    pub(super) fn is_current(&self) -> bool {
        self.path.join(CURRENT_FILE).exists()
    }

    /// Notes that the disk has what was pushed, or that it has not any more.
    pub(super) fn set_current(&self, is_current: bool) -> std::io::Result<()> {
        let path = self.path.join(CURRENT_FILE);
        if is_current {
            private_file().create(true).truncate(false).open(path).map(drop)
        } else {
            fs::remove_file(path)
        }
    }

    pub(super) fn file(&self) -> PathBuf {
        self.path.join(FILE)
    }

    /// Opens the database, which is made if there is none.
    pub(super) fn open(&self) -> Result<Connection, OpenError> {
        let path = self.file();
        let salvage = self.path.join(SALVAGE_FILE);
        // A salvage that was complete, but for its name, when the program ended.
        if !path.exists() && salvage.exists() {
            self.rename(&salvage, &path)?;
        }
        self.open_file(&path)
    }

    fn open_file(&self, path: &Path) -> Result<Connection, OpenError> {
        if !path.exists() {
            let made =
                private_file().create_new(true).open(path).and_then(|_| File::open(&self.path)?.sync_all());
            made.map_err(|source| self.failed(path, source))?;
        }
        // SQLite's own words for a file that it may not write say less than the system's.
        private_file().open(path).map_err(|source| self.failed(path, source))?;
        let failed = |source| OpenError::Database { path: path.to_owned(), source };
        let mut connection = connect(path).map_err(failed)?;
        let found = user_version(&connection).map_err(failed)?;
        if found == 0 && is_empty(&connection).map_err(failed)? {
            create(&mut connection).map_err(failed)?;
            return Ok(connection);
        }
        let noted: Result<i64, _> =
            connection.query_row("SELECT value FROM meta WHERE key = 'format'", (), |row| row.get(0));
        match noted {
            Ok(WRITTEN_FORMAT) if found == WRITTEN_FORMAT => Ok(connection),
            // The version is written twice: where the two differ, a bit has flipped.
            Ok(WRITTEN_FORMAT) => Err(failed(damaged("the version of the file is damaged"))),
            Ok(_) | Err(_) if found != WRITTEN_FORMAT && found != 0 => {
                Err(OpenError::Version { dir: self.path.clone(), found, known: WRITTEN_FORMAT })
            }
            Ok(_) => Err(failed(damaged("the version of the file is damaged"))),
            Err(error) => Err(failed(error)),
        }
    }

    /// Keeps the database under another name and begins a new one with what can still be read of it.
    pub(super) fn salvage(&self, damaged: Option<Connection>) -> Result<(Connection, PathBuf), OpenError> {
        let (path, salvage) = (self.file(), self.path.join(SALVAGE_FILE));
        let failed = |source| OpenError::Database { path: salvage.clone(), source };
        for stale in [salvage.clone(), log_of(&salvage)] {
            remove(&stale).map_err(|source| self.failed(&stale, source))?;
        }
        let mut fresh = self.open_file(&salvage)?;
        if let Some(damaged) = &damaged {
            copy(damaged, &mut fresh).map_err(failed)?;
        }
        fresh.close().map_err(|(_, source)| failed(source))?;
        drop(damaged);
        let aside = self.name_aside();
        self.rename(&path, &aside)?;
        if log_of(&path).exists() {
            self.rename(&log_of(&path), &log_of(&aside))?;
        }
        self.rename(&salvage, &path)?;
        Ok((self.open_file(&path)?, aside))
    }

    fn name_aside(&self) -> PathBuf {
        let named = |number| self.path.join(format!("{FILE}.damaged-{number}"));
        (1..MAX_SET_ASIDE).map(named).find(|path| !path.exists()).unwrap_or_else(|| named(MAX_SET_ASIDE))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), OpenError> {
        let renamed = fs::rename(from, to).and_then(|()| File::open(&self.path)?.sync_all());
        renamed.map_err(|source| self.failed(from, source))
    }

    fn failed(&self, path: &Path, source: std::io::Error) -> OpenError {
        OpenError::Directory { dir: self.path.clone(), path: path.to_owned(), source }
    }
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

/// The bytes of the database and its log.
pub(super) fn bytes_on_disk(dir: &Path) -> u64 {
    let path = dir.join(FILE);
    [log_of(&path), path].iter().filter_map(|path| fs::metadata(path).ok()).map(|meta| meta.len()).sum()
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn damaged(why: &str) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    rusqlite::Error::SqliteFailure(code, Some(why.to_owned()))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    let log_pages = LOG_BYTES / PAGE_BYTES;
    // Exclusive, and before the mode: the log's index is in memory then, and not in another file.
    connection.execute_batch(&format!(
        "PRAGMA locking_mode = EXCLUSIVE;
         PRAGMA page_size = {PAGE_BYTES};
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -{CACHE_KIB};
         PRAGMA wal_autocheckpoint = {log_pages};
         PRAGMA journal_size_limit = {LOG_BYTES};
         PRAGMA cell_size_check = ON;
         PRAGMA trusted_schema = OFF;"
    ))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Gives back the room that an outage once took, if what is left is little: it is copied as a whole.
pub(super) fn shrink(connection: &Connection) -> rusqlite::Result<()> {
    let number = |name| connection.query_row(&format!("PRAGMA {name}"), (), |row| row.get::<_, i64>(0));
    let (pages, free) = (number("page_count")?, number("freelist_count")?);
    if pages * i64::from(PAGE_BYTES) <= SHRINK_BYTES || free < pages / 4 * 3 || pages - free > SHRINK_PAGES {
        return Ok(());
    }
    connection.execute_batch("VACUUM")
}

fn user_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", (), |row| row.get(0))
}

fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", (), |row| row.get(0))
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for Table { name, columns, options, .. } in &TABLES {
        transaction.execute_batch(&format!("CREATE TABLE {name} ({}) {options}", columns.join(", ")))?;
    }
    transaction.execute_batch(&format!(
        "INSERT INTO meta VALUES ('format', {FORMAT}); PRAGMA user_version = {FORMAT};"
    ))?;
    transaction.commit()
}

/// Copies what can be read: every table from its beginning up to what is damaged, and from its end down to it.
fn copy(damaged: &Connection, fresh: &mut Connection) -> rusqlite::Result<()> {
    for table in &TABLES {
        for order in ["ASC", "DESC"] {
            if copy_rows(damaged, fresh, table, order)? {
                break;
            }
        }
    }
    // A body whose batch is not known any more can neither be sent nor deleted.
    fresh.execute_batch("DELETE FROM bodies WHERE id NOT IN (SELECT id FROM spool)")
}

/// Whether every row could be read. Fails if the copy cannot be written.
fn copy_rows(
    damaged: &Connection,
    fresh: &mut Connection,
    table: &Table,
    order: &str,
) -> rusqlite::Result<bool> {
    let Table { name, key, .. } = table;
    let keys: Vec<_> = key.split(", ").map(|part| format!("{part} {order}")).collect();
    let Ok(mut rows) = damaged.prepare(&format!("SELECT * FROM {name} ORDER BY {}", keys.join(", "))) else {
        return Ok(false);
    };
    let width = rows.column_count();
    let places = vec!["?"; width].join(", ");
    let transaction = fresh.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut is_whole = true;
    {
        // The new database's own rows come first.
        let mut insert = transaction.prepare(&format!("INSERT OR IGNORE INTO {name} VALUES ({places})"))?;
        let mut rows = rows.query(())?;
        loop {
            let values = match rows.next() {
                Ok(Some(row)) => {
                    (0..width).map(|column| row.get::<_, rusqlite::types::Value>(column)).collect()
                }
                Ok(None) => break,
                Err(error) => Err(error),
            };
            let Ok::<Vec<_>, _>(values) = values else {
                is_whole = false;
                break;
            };
            match insert.execute(rusqlite::params_from_iter(values)) {
                // A row that breaks a rule of its table is damaged itself.
                Err(error) if error.sqlite_error_code() != Some(ErrorCode::ConstraintViolation) => {
                    return Err(error);
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
    transaction.commit()?;
    Ok(is_whole)
}
