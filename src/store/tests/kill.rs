//! The store of a process that is killed: what it said to be durable is there, and nothing is there in part.
//!
//! The process is the test program itself, asked by a variable to play the part.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::model::Model;
use super::*;

/// The directory in which a child plays its part.
const DIR_VARIABLE: &str = "SNAKEPIT_BRIDGE_TEST_STORE_DIR";

const KILLS: u64 = 20;

/// The push with a number: all kinds of ops, and one exported log record, so that the sums tell how many pushes there
/// were.
pub(super) fn push(number: u64) -> Vec<Op> {
    let shard = (number % 3) as u16;
    let body = vec![number as u8; (number * 7919 % 200_000) as usize];
    let mut ops = vec![
        Op::Settled {
            signal: Signal::Logs,
            spool: number.checked_sub(5).map(SpoolId),
            origins: smallvec![Origin { shard, ordinals: number * 2..number * 2 + 1 }],
            exported: 1,
            refused: smallvec![("too_old", number % 2)],
        },
        journal(shard, &format!("{number} ").repeat((number % 900) as usize)),
        spool(number, &body, shard, number..number + 3),
    ];
    if number.is_multiple_of(11) {
        let row = format!("{}", number % 7);
        let next = Ordinals { spans: number, metrics: 0, records: number };
        ops.push(checkpoint(shard, next, &[(&row, &row.repeat((number % 3000) as usize)), ("x", "y")]));
    }
    if number.is_multiple_of(97) {
        ops.push(Op::ForgetShards);
    }
    ops
}

/// What the first pushes make.
pub(super) fn model(pushes: u64) -> Model {
    let mut model = Model::default();
    (0..pushes).for_each(|number| model.push(&push(number)));
    model
}

pub(super) fn pushes_in(recovered: &Recovered) -> u64 {
    recovered.sums.get(&Signal::Logs).map_or(0, |sums| sums.exported)
}

#[test]
fn what_was_durable_survives_kill_9_and_nothing_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for kill in 0..KILLS {
        let mut part = Part::begin(Command::new(std::env::current_exe().unwrap()), dir.path());
        // Each dies elsewhere: some after little, some after several commits, at any instant within one.
        let lines = 1 + kill % 4;
        let mut durable = 0;
        for _ in 0..lines {
            durable = part.next_number("durable ");
        }
        std::thread::sleep(Duration::from_micros(kill * 7919 % 60_000));
        durable = part.kill().max(durable);
        runtime.block_on(is_whole(dir.path(), durable));
    }
}

/// Room that comes back is used without a restart, and what was committed before there was none is still there.
#[test]
fn a_file_that_may_not_grow_stops_nobody_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let has_prlimit = Command::new("prlimit").arg("--version").stdout(Stdio::null()).status();
    if !has_prlimit.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: there is no prlimit here to give room back");
        return;
    }
    let mut shell = Command::new("sh");
    // 4 MiB, in the shell's blocks of 512 bytes; the signal would end the program.
    shell.args(["-c", "trap '' XFSZ; ulimit -S -f 8192; exec \"$0\" \"$@\""]);
    shell.arg(std::env::current_exe().unwrap());
    let mut part = Part::begin(shell, dir.path());
    let before = part.next_number("failing ");
    let lifted = Command::new("prlimit")
        .args(["--fsize=unlimited", "--pid", &part.child.id().to_string()])
        .status()
        .unwrap();
    assert!(lifted.success());
    let mut works = 0;
    while works <= before {
        works = part.next_number("works ");
    }
    let durable = part.kill().max(works);
    runtime.block_on(is_whole(dir.path(), durable));
}

/// The directory holds the first so many pushes, whole; at least those that were durable.
async fn is_whole(dir: &Path, durable: u64) {
    let (store, recovered) = open(dir);
    let pushes = pushes_in(&recovered);
    assert!(pushes >= durable, "{durable} pushes were durable, and {pushes} are there");
    let model = model(pushes);
    assert!(recovered == model.recovered(), "{pushes} pushes are there, and not whole");
    let mut ids: Vec<_> = model.spool.keys().copied().collect();
    while !ids.is_empty() {
        for (id, body) in store.load(ids.clone()).await {
            assert!(body.as_ref() == Some(&model.spool[&id].1), "the body of {id:?} is torn");
            ids.retain(|other| *other != id);
        }
    }
    assert!(store.close().await);
}

/// Not a test: what the others start as a process of its own, to be killed.
#[test]
fn part_of_the_killed() {
    #[expect(clippy::disallowed_methods, reason = "the test's own variable")]
    let Ok(dir) = std::env::var(DIR_VARIABLE) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (store, recovered) = open(Path::new(&dir));
    let begun_at = pushes_in(&recovered);
    let mut stdout = std::io::stdout();
    let mut say = |line: String| stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).unwrap();
    let (mut number, mut has_failed) = (begun_at, false);
    let mut commits = Vec::new();
    loop {
        commits.push(store.push(push(number)));
        number += 1;
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(2)).await });
        let durable = store.durable();
        let is_failing = durable == Commit(u64::MAX);
        if !is_failing {
            let pushes = begun_at + commits.partition_point(|commit| *commit <= durable) as u64;
            say(format!("\n{} {pushes}\n", if has_failed { "works" } else { "durable" }));
        } else if !has_failed {
            has_failed = true;
            say(format!("\nfailing {number}\n"));
        }
    }
}

/// A process that plays the part.
struct Part {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Part {
    fn begin(mut command: Command, dir: &Path) -> Self {
        let mut child = command
            .args(["--exact", "store::tests::kill::part_of_the_killed", "--nocapture", "--test-threads=1"])
            .env(DIR_VARIABLE, dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    /// The number of the next line that begins so.
    fn next_number(&mut self, beginning: &str) -> u64 {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "the process ended by itself");
            if let Some(number) = line.strip_prefix(beginning) {
                return number.trim().parse().unwrap();
            }
        }
    }

    /// Kills the process. The last number that it said to be durable comes back, 0 for none.
    fn kill(mut self) -> u64 {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).unwrap();
        // The last line may be torn, which is not the store's fault.
        let whole = rest.rfind('\n').map_or("", |end| &rest[..end]);
        let said = |line: &str| line.strip_prefix("durable ").or(line.strip_prefix("works "))?.parse().ok();
        whole.lines().rev().find_map(said).unwrap_or(0)
    }
}
