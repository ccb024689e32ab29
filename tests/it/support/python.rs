//! Python processes as workers: ours, foreign emitters, hostile clients (`tests/python/`).

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::process::Process;
use super::{repository, script_output};

/// The exit status by which a Python program says that it was not told where the foreign code is.
const SKIPPED: i32 = 77;

/// The tests' interpreter with gRPC, and stubs of our proto for it.
#[derive(Debug)]
pub(crate) struct Python {
    interpreter: PathBuf,
    directory: TempDir,
}

impl Python {
    /// Finds the interpreter and makes the stubs.
    ///
    /// # Errors
    ///
    /// When the environment is not made (the message says what to run), or the proto does not compile.
    pub(crate) fn set_up() -> Result<Self> {
        let interpreter = PathBuf::from(script_output("scripts/python-env.sh", "--where")?.trim_end());
        let python = Self { interpreter, directory: TempDir::new()? };
        let mut command = python.command("stubs.py");
        let output = command.arg(repository("proto/snakepit_bridge.proto")).arg(python.stubs()).output()?;
        ensure!(output.status.success(), "failed to make stubs: {}", String::from_utf8_lossy(&output.stderr));
        Ok(python)
    }

    /// Where a worker may write its truth.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts our own worker; `arguments` as `worker.py --help` has them.
    ///
    /// # Errors
    ///
    /// When the process cannot be started.
    pub(crate) fn worker(&self, address: &str, truth: &Path, arguments: &[&str]) -> Result<Client> {
        let mut command = self.command("worker.py");
        command
            .args(["--address", address, "--truth"])
            .arg(truth)
            .arg("--stubs")
            .arg(self.stubs())
            .args(arguments);
        Client::start("worker.py", &mut command)
    }

    /// Starts the worker that is measured; `arguments` as `measured.py --help` has them.
    ///
    /// # Errors
    ///
    /// When the process cannot be started.
    pub(crate) fn measured(&self, address: &str, truth: &Path, arguments: &[&str]) -> Result<Client> {
        let mut command = self.command("measured.py");
        command
            .args(["--address", address, "--truth"])
            .arg(truth)
            .arg("--stubs")
            .arg(self.stubs())
            .args(arguments);
        Client::start("measured.py", &mut command)
    }

    /// Starts a program that runs foreign code as a worker.
    ///
    /// # Errors
    ///
    /// When the process cannot be started.
    pub(crate) fn foreign(&self, program: &str, address: &str, truth: &Path) -> Result<Client> {
        let mut command = self.command(program);
        command.args(["--address", address, "--truth"]).arg(truth);
        Client::start(program, &mut command)
    }

    /// Starts a hostile client that stays until `Client::release`; `arguments` as `hostile.py --help` has them.
    ///
    /// # Errors
    ///
    /// When the process cannot be started.
    pub(crate) fn hostile(&self, behaviour: &str, address: &str, arguments: &[&str]) -> Result<Client> {
        let mut command = self.command("hostile.py");
        command.args([behaviour, "--address", address, "--hold"]).args(arguments);
        Client::start(behaviour, &mut command)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(&self.interpreter);
        // No `__pycache__` in the work tree.
        command.arg("-B").arg(repository("tests/python").join(program)).env("GRPC_VERBOSITY", "ERROR");
        command
    }

    fn stubs(&self) -> PathBuf {
        self.directory.path().join("stubs")
    }
}

/// A running Python process.
#[derive(Debug)]
pub(crate) struct Client {
    process: Process,
    lines: std::sync::mpsc::Receiver<String>,
    stdin: Option<std::process::ChildStdin>,
}

/// How a program that runs foreign code has ended.
#[derive(Debug, PartialEq)]
pub(crate) enum Foreign {
    /// It ran to its end.
    Ran,
    /// It was not told where the foreign code is; its own words.
    Skipped(String),
}

impl Client {
    fn start(name: &str, command: &mut Command) -> Result<Self> {
        let mut process = Process::spawn(name, command)?;
        let stdout = process.take_stdout()?;
        let stdin = Some(process.take_stdin()?);
        let (send, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody listens any more if the test is over.
                let _ = send.send(line);
            }
        });
        Ok(Self { process, lines, stdin })
    }

    /// The next line that the process prints.
    ///
    /// # Errors
    ///
    /// When the process ends without one, or says nothing for `limit`; with its log.
    pub(crate) async fn line(&mut self, limit: Duration) -> Result<String> {
        let Self { process, lines, .. } = self;
        super::until("a line", limit, async || match lines.try_recv() {
            Ok(line) => Ok(Some(line)),
            Err(_) => process.ensure_running().map(|()| None),
        })
        .await
        .with_context(|| format!("its log:\n{}", self.process.log()))
    }

    /// Tells a waiting worker to begin.
    ///
    /// # Errors
    ///
    /// When the process has gone.
    pub(crate) fn go(&mut self) -> Result<()> {
        self.tell("go")
    }

    /// Tells the worker that is measured that it has been measured for long enough.
    ///
    /// # Errors
    ///
    /// When the process has gone.
    pub(crate) fn enough(&mut self) -> Result<()> {
        self.tell("enough")
    }

    fn tell(&mut self, word: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the process's input is closed")?;
        writeln!(stdin, "{word}").with_context(|| format!("failed to tell a worker {word:?}"))
    }

    /// Closes the process's standard input, which ends one that holds on, and waits for its end.
    ///
    /// # Errors
    ///
    /// When it does not end within `limit`.
    pub(crate) async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.stdin = None;
        self.process.ended(limit).await
    }

    /// Waits for the end of our own worker.
    ///
    /// # Errors
    ///
    /// When it fails, with its log.
    pub(crate) async fn succeeded(&mut self, limit: Duration) -> Result<()> {
        let status = self.ended(limit).await?;
        ensure!(status.success(), "a worker ended with {status}; its log:\n{}", self.process.log());
        Ok(())
    }

    /// Waits for the end of a program that runs foreign code.
    ///
    /// # Errors
    ///
    /// When it fails, with its log.
    pub(crate) async fn foreign(mut self, limit: Duration) -> Result<Foreign> {
        let status = self.ended(limit).await?;
        if status.code() == Some(SKIPPED) {
            // It has ended, so its lines end as well.
            return Ok(Foreign::Skipped(self.lines.iter().collect::<Vec<_>>().join("\n")));
        }
        ensure!(status.success(), "it ended with {status}; its log:\n{}", self.process.log());
        Ok(Foreign::Ran)
    }
}
