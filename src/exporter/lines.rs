//! Items as lines, on standard output or in a file: for people (`console`), and as OTLP/JSON (`otlp/stdout`), a request a
//! line.
//!
//! Whoever writes may have to wait: for a pipe that nobody reads, or a disk that is away. Then a request is given up for
//! the time being, but its write goes on; when the request comes again, it learns what became of that, so no line is
//! written twice. There is one write at a time, so that lines do not mix.
//!
//! A write that fails midway leaves the start of a line; the next one begins on a line of its own. A file is opened for
//! each request: whoever renames it away finds no more lines in it, and those that follow in a new one.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Mutex;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use xxhash_rust::xxh3::xxh3_128;

use crate::exporter::console;
use crate::exporter::json;
use crate::exporter::refusal::Refusal;
use crate::exporter::retry::Outcome;
use crate::exporter::settings::FileTarget;
use crate::exporter::signal::Signal;

/// Fates of writes whose requests have not come again. More are forgotten, the oldest first: their requests were given up.
const MAX_REMEMBERED: usize = 64;
/// For the owner alone: what workers said may be confidential.
const FILE_MODE: u32 = 0o600;

/// Whether the last that went to standard output was not a whole line. It is one for all signals.
static STDOUT_IS_TORN: AtomicBool = AtomicBool::new(false);

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// An item of a request, for people.
    Console(Signal),
    /// A request, as OTLP/JSON.
    Json(Signal),
}

/// Writes requests as lines.
#[derive(Debug)]
pub(crate) struct LineSink {
    format: Format,
    target: FileTarget,
    /// Held while waiting for a write, so that there is one at a time.
    writes: Mutex<Writes>,
}

#[derive(Debug, Default)]
struct Writes {
    /// Outlives the request that gave up waiting for it.
    going_on: Option<(RequestKey, JoinHandle<io::Result<()>>)>,
    ended: VecDeque<(RequestKey, io::Result<()>)>,
}

/// A request is known again by its bytes: it may have been on disk meanwhile.
type RequestKey = u128;

impl LineSink {
    /// Writes nothing yet.
    pub(crate) fn new(format: Format, target: FileTarget) -> Self {
        Self { format, target, writes: Mutex::default() }
    }

    /// Writes one request, or learns what became of it since it was last given here.
    ///
    /// Guarantee: may be dropped at any time, and called again with the same request, without doubling a line.
    pub(crate) async fn send(&self, body: &[u8]) -> Outcome {
        let key = xxh3_128(body);
        let mut writes = self.writes.lock().await;
        writes.settle().await;
        if let Some(fate) = writes.take_fate(key) {
            return self.outcome(fate);
        }
        let text = match self.text(body) {
            Ok(text) => text,
            Err(error) => return Outcome::Refused { refusal: Refusal::Internal, error },
        };
        let target = self.target.clone();
        writes.going_on = Some((key, spawn_blocking(move || write(&target, &text))));
        writes.settle().await;
        let fate = writes.take_fate(key).unwrap_or(Ok(()));
        self.outcome(fate)
    }

    fn text(&self, body: &[u8]) -> Result<Vec<u8>, String> {
        match self.format {
            Format::Console(signal) => {
                console::lines(signal, body).map(String::into_bytes).map_err(|error| error.to_string())
            }
            Format::Json(signal) => {
                let json = json::transcode(signal, body).map_err(|error| error.to_string())?;
                let mut line = Vec::from(json);
                line.push(b'\n');
                Ok(line)
            }
        }
    }

    fn outcome(&self, fate: io::Result<()>) -> Outcome {
        match fate {
            Ok(()) => Outcome::Accepted { rejected_items: 0, message: String::new() },
            Err(error) => {
                let message = format!("writing to {}: {error}", self.target);
                if self.target == FileTarget::Stdout && error.kind() == ErrorKind::BrokenPipe {
                    // Nobody will ever read it.
                    return Outcome::Refused { refusal: Refusal::Internal, error: message };
                }
                Outcome::Retry { delay: None, error: message }
            }
        }
    }
}

impl Writes {
    /// Waits for the write that goes on, if one does. What has been waited for is remembered before anything else.
    async fn settle(&mut self) {
        let Some((key, write)) = &mut self.going_on else { return };
        let fate = write.await.unwrap_or_else(|error: JoinError| Err(io::Error::other(error)));
        let key = *key;
        self.going_on = None;
        if self.ended.len() == MAX_REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back((key, fate));
    }

    fn take_fate(&mut self, key: RequestKey) -> Option<io::Result<()>> {
        let at = self.ended.iter().position(|(ended, _)| *ended == key)?;
        self.ended.remove(at).map(|(_, fate)| fate)
    }
}

// === Writing ===

fn write(target: &FileTarget, text: &[u8]) -> io::Result<()> {
    match target {
        FileTarget::Stdout => write_to_stdout(&mut io::stdout().lock(), text),
        FileTarget::Path(path) => write_to_file(path, text),
    }
}

fn write_to_stdout(out: &mut impl Write, text: &[u8]) -> io::Result<()> {
    // The lock on standard output is held, so nobody writes in between.
    let written = write_after(out, STDOUT_IS_TORN.load(Ordering::Relaxed), text).and_then(|()| out.flush());
    STDOUT_IS_TORN.store(written.is_err(), Ordering::Relaxed);
    written
}

fn write_to_file(path: &Path, text: &[u8]) -> io::Result<()> {
    let is_torn = ends_within_a_line(path)?;
    // Not for reading: a pipe must wait for its reader.
    let mut file = OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)?;
    write_after(&mut file, is_torn, text)
}

fn write_after(out: &mut impl Write, is_torn: bool, text: &[u8]) -> io::Result<()> {
    if is_torn {
        out.write_all(b"\n")?;
    }
    out.write_all(text)
}

/// Whether somebody, perhaps this program before a crash, has left a line unfinished. What is no regular file cannot tell.
fn ends_within_a_line(path: &Path) -> io::Result<bool> {
    let metadata = match path.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        metadata => metadata?,
    };
    if !metadata.is_file() || metadata.len() == 0 {
        return Ok(false);
    }
    let mut file = File::open(path)?;
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}
