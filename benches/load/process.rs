//! A child process, and what the kernel says of it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

const LOG_CHARACTERS: usize = 2_000;

/// A running program. Dropping it kills it; its log is shown where it says nothing.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    directory: TempDir,
}

impl Process {
    /// Starts the program with its standard error in a log.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub(crate) fn spawn(name: &'static str, command: &mut Command) -> Result<Self> {
        let directory = TempDir::new().context("failed to make a directory for a log")?;
        let log = fs::File::create(directory.path().join("log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("failed to start {name}"))?;
        Ok(Self { name, child, directory })
    }

    /// The first line that it prints; what follows is dropped.
    ///
    /// # Errors
    ///
    /// When it ends without one, with its log.
    pub(crate) fn first_line(&mut self) -> Result<String> {
        let stdout = self.child.stdout.take().context("the first line was read before")?;
        let mut reader = BufReader::new(stdout);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        anyhow::ensure!(!line.is_empty(), "{} printed nothing; its log:\n{}", self.name, self.log());
        std::thread::spawn(move || reader.lines().for_each(drop));
        Ok(line.trim_end().to_owned())
    }

    /// How its log begins: the first complaint says most.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        log.chars().take(LOG_CHARACTERS).collect()
    }

    /// CPU time so far, of all its threads, in user space and in the kernel.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = self.proc_file("stat")?;
        // The name in parentheses may hold spaces; user and system time are the 12th and 13th fields after it.
        let fields = stat.rsplit_once(") ").context("no name in /proc/PID/stat")?.1;
        let mut fields = fields.split(' ').skip(11);
        let mut ticks = || -> Result<u64> { Ok(fields.next().context("/proc/PID/stat is short")?.parse()?) };
        let ticks = ticks()? + ticks()?;
        Ok(Duration::from_micros(ticks * 1_000_000 / ticks_per_second()?))
    }

    /// Resident memory in MiB.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub(crate) fn resident_mib(&self) -> Result<f64> {
        let status = self.proc_file("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }

    fn proc_file(&self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.child.id());
        fs::read_to_string(&path).with_context(|| format!("failed to read {path}; log:\n{}", self.log()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ticks_per_second() -> Result<u64> {
    let output = Command::new("getconf").arg("CLK_TCK").output().context("failed to run getconf")?;
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}
