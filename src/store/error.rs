//! Why a state directory cannot be used, in the words of whoever must see to it at night.

use std::path::PathBuf;

use rusqlite::ErrorCode;

/// A store that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another program holds the directory.
    #[error(
        "another bridge is using the state directory {}; stop it, or give this one a state directory of its own",
        dir.display()
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory or a file in it cannot be made or written.
    #[error("cannot use the state directory {}: {}: {source}", dir.display(), path.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What cannot be made or written.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The state is that of another version of the bridge.
    #[error(
        "the state directory {} was written in format {found}, and this bridge reads format {known} only; let the bridge \
         that wrote it deliver what it holds, or move the directory away to begin a new one (what it holds is not sent then)",
        dir.display()
    )]
    Version {
        /// The directory.
        dir: PathBuf,
        /// The format on disk.
        found: i64,
        /// The format that this program reads.
        known: i64,
    },
    /// The database does not open, though it is not damaged: no room, an I/O error.
    #[error("cannot open the database {}: {source}", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The machine gives no thread.
    #[error("cannot start the thread that writes the state directory: {0}")]
    Thread(std::io::Error),
}

/// Whether the database says that its file is not what it wrote. A new file helps then, and trying again does not.
pub(super) fn is_corruption(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        // A file that may be written and "is read-only" has a damaged version of SQLite's format in its header.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ReadOnly)
    )
}

/// Whether what was read cannot be what was written: corruption that the database found, or that we did.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error;
    is_corruption(error)
        // SQLITE_ERROR is how a schema shows that lost a table or a column.
        || error.sqlite_error_code() == Some(ErrorCode::Unknown)
        || matches!(
            error,
            Error::SqlInputError { .. }
                | Error::FromSqlConversionFailure(..)
                | Error::InvalidColumnType(..)
                | Error::QueryReturnedNoRows
        )
}
