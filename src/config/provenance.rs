//! Where a value comes from, and what is wrong with one.

use std::fmt;
use std::sync::Arc;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// The configuration file.
    File {
        /// As it was given.
        path: Arc<str>,
        /// Counted from 1; 0 where only the file is known.
        line: u64,
    },
    /// An environment variable.
    Variable(&'static str),
    /// A command-line flag.
    Flag(&'static str),
}

impl Source {
    /// The line of the file; 0 where there is none.
    #[must_use]
    pub const fn line(&self) -> u64 {
        match self {
            Self::File { line, .. } => *line,
            Self::Default | Self::Variable(_) | Self::Flag(_) => 0,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0 } => f.write_str(path),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Variable(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A value that counts, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// The key path in the file: `bridge.span_timeout`.
    pub key: String,
    /// As `check` shows it; secrets are masked before they get here.
    pub value: serde_json::Value,
    /// Who said so.
    pub source: Source,
}

/// Something that stops the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub source: Source,
    /// The key path, where there is one.
    pub key: Option<String>,
    /// The value and what is wrong with it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Default => {}
            source @ (Source::File { .. } | Source::Variable(_) | Source::Flag(_)) => {
                write!(f, "{source}: ")?;
            }
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)
    }
}
