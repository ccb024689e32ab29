//! A child process that ends with the test, and whose log is shown when the test fails.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::until;

/// How much of a log is shown: the end says most.
const LOG_TAIL_BYTES: usize = 8 * 1024;

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where the log is; gone with the process.
    _directory: TempDir,
}

impl Process {
    /// Starts the program with its standard error in a log; standard input and output are pipes.
    ///
    /// # Errors
    ///
    /// When the program cannot be started.
    pub(crate) fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let directory = TempDir::new().context("failed to make a directory for a log")?;
        let log = directory.path().join("log");
        let file = File::create(&log).with_context(|| format!("failed to create {}", log.display()))?;
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .with_context(|| format!("failed to start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log, _directory: directory })
    }

    /// The program's standard output, the first time.
    pub(crate) fn take_stdout(&mut self) -> Result<ChildStdout> {
        self.child.stdout.take().with_context(|| format!("the output of {} is taken", self.name))
    }

    /// The program's standard input, the first time; dropping it closes it.
    pub(crate) fn take_stdin(&mut self) -> Result<ChildStdin> {
        self.child.stdin.take().with_context(|| format!("the input of {} is taken", self.name))
    }

    /// # Errors
    ///
    /// When the program has ended, with its log.
    pub(crate) fn ensure_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status}; its log:\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// Waits until the program has ended by itself.
    ///
    /// # Errors
    ///
    /// When it has not within `limit`, with its log.
    pub(crate) async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        let child = &mut self.child;
        let ended = until(&what, limit, async || Ok(child.try_wait()?)).await;
        ended.with_context(|| format!("its log:\n{}", self.log_tail()))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether every thread is stopped by a signal.
    ///
    /// # Errors
    ///
    /// When the program has ended.
    pub(crate) fn stands_still(&self) -> Result<bool> {
        for thread in fs::read_dir(format!("/proc/{}/task", self.id()))? {
            let status = fs::read_to_string(thread?.path().join("status"))?;
            if !status.contains("\nState:\tT") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends a signal by its short name: `TERM`.
    ///
    /// # Errors
    ///
    /// When the signal cannot be sent.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        // The shell's own `kill`: the standard library sends no signals but the one that cannot be caught.
        let command = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &command]).status()?;
        if !status.success() {
            bail!("failed to send SIG{name} to {}", self.name);
        }
        Ok(())
    }

    /// The whole log so far.
    pub(crate) fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let from = log.len().saturating_sub(LOG_TAIL_BYTES);
        let from = (from..=log.len()).find(|&at| log.is_char_boundary(at)).unwrap_or(from);
        log[from..].to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Nobody is left to tell if this fails.
            let _ = writeln!(io::stderr(), "--- log of {}:\n{}", self.name, self.log_tail());
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
