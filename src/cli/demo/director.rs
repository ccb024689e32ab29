//! Lets the simulated workers play: which chapter on which worker, when.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::cli::demo::Clock;
use crate::cli::demo::script::{Chapter, DEATH, NESTED, ROUND, SHARED, STUCK};
use crate::cli::demo::workers::{Persona, Worker};
use crate::control::policy::Policy;
use crate::proto::TelemetryEvent;
use crate::time::Monotonic;

/// Between two chapters, so that a person can follow.
const PAUSE: Duration = Duration::from_millis(550);
/// How long the worker that dies still lives after its last event.
const LAST_BREATH: Duration = Duration::from_millis(220);

const STEADY: Persona = Persona { id: "worker_1", pool: "default", pid: 4101 };
const OTHER: Persona = Persona { id: "worker_2", pool: "default", pid: 4102 };
const MORTAL: Persona = Persona { id: "worker_3", pool: "gpu", pid: 4103 };

/// What there is to tell a person who looks on.
pub(super) enum Scene {
    /// The workers are connected, and were told this.
    Connected {
        /// Their ids.
        workers: Vec<&'static str>,
        /// What the first of them was told.
        policy: Box<Policy>,
    },
    /// A chapter begins.
    Begins {
        /// Its correlation id.
        correlation_id: String,
        /// What there is to see in it.
        caption: &'static str,
    },
    /// A worker sent these for the first chapter.
    Sent(Vec<TelemetryEvent>),
}

/// How long to play.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    /// No chapter begins after this; `None`: until told to stop.
    pub(super) last_begin: Option<Monotonic>,
    /// How long a worker that died stays away.
    pub(super) absence: Duration,
}

/// The workers when the play is over; they stay connected until they are dropped.
pub(super) struct Cast {
    _steady: Worker,
    _other: Worker,
    _mortal: Worker,
}

struct Director {
    clock: Clock,
    scenes: mpsc::Sender<Scene>,
    schedule: Schedule,
    stop: CancellationToken,
    /// What the correlation ids of this run begin with.
    run: String,
    requests: u32,
}

/// Plays until the schedule or `stop` says that it is enough.
///
/// # Errors
/// When a worker cannot connect, or its stream is ended.
pub(super) async fn play(
    grpc: SocketAddr,
    clock: Clock,
    scenes: mpsc::Sender<Scene>,
    schedule: Schedule,
    stop: CancellationToken,
) -> anyhow::Result<Cast> {
    let steady = Worker::connect(grpc, STEADY, clock.clone()).await?;
    let other = Worker::connect(grpc, OTHER, clock.clone()).await?;
    let mortal = Worker::connect(grpc, MORTAL, clock.clone()).await?;
    let seconds = clock().wall.0.div_euclid(1_000_000_000);
    let mut director = Director {
        clock: clock.clone(),
        scenes,
        schedule,
        stop,
        run: format!("demo-{seconds:x}"),
        requests: 0,
    };
    let workers = vec![steady.id(), other.id(), mortal.id()];
    director.tell(Scene::Connected { workers, policy: Box::new(steady.policy()) }).await;

    director.perform(&other, &STUCK).await?;
    let sent = director.perform(&steady, &NESTED).await?;
    director.tell(Scene::Sent(sent)).await;
    director.pause().await;

    let mut lives = JoinSet::new();
    let mut rests = Some(mortal);
    let mut pid = MORTAL.pid;
    // On a slow machine there may be no time for a round. A worker dies nevertheless, for that is half of what is to be seen.
    loop {
        if let Some(worker) = rests.take_if(|_| !director.stop.is_cancelled()) {
            pid += 1;
            let correlation_id = director.begin(DEATH.caption).await;
            let absence = director.schedule.absence;
            let next = Persona { pid, ..MORTAL };
            lives.spawn(die_and_return(worker, correlation_id, absence, grpc, next, clock.clone()));
        }
        director.round(&steady, &other).await?;
        if let Some(back) = lives.try_join_next() {
            rests = Some(back.context("a worker's life ended in a panic")??);
        }
        if !director.has_time() {
            break;
        }
    }
    let mortal = match rests {
        Some(worker) => worker,
        None => lives.join_next().await.context("a worker is either here or away")?.context("a panic")??,
    };
    Ok(Cast { _steady: steady, _other: other, _mortal: mortal })
}

/// Begins a call, dies, and comes back as another process.
async fn die_and_return(
    worker: Worker,
    correlation_id: String,
    absence: Duration,
    grpc: SocketAddr,
    next: Persona,
    clock: Clock,
) -> anyhow::Result<Worker> {
    worker.perform(&DEATH, &correlation_id).await?;
    sleep(LAST_BREATH).await;
    drop(worker);
    sleep(absence).await;
    Worker::connect(grpc, next, clock).await
}

impl Director {
    async fn round(&mut self, steady: &Worker, other: &Worker) -> anyhow::Result<()> {
        for (number, chapter) in ROUND.iter().enumerate() {
            if !self.has_time() {
                return Ok(());
            }
            self.perform(if number % 2 == 0 { other } else { steady }, chapter).await?;
            self.pause().await;
        }
        if self.has_time() {
            let correlation_id = self.begin(SHARED[0].caption).await;
            let (here, there) = tokio::join!(
                steady.perform(&SHARED[0], &correlation_id),
                other.perform(&SHARED[1], &correlation_id)
            );
            here?;
            there?;
            self.pause().await;
        }
        Ok(())
    }

    async fn perform(
        &mut self,
        worker: &Worker,
        chapter: &'static Chapter,
    ) -> anyhow::Result<Vec<TelemetryEvent>> {
        let correlation_id = self.begin(chapter.caption).await;
        worker.perform(chapter, &correlation_id).await
    }

    /// A new request's correlation id.
    async fn begin(&mut self, caption: &'static str) -> String {
        self.requests = self.requests.wrapping_add(1);
        let correlation_id = format!("{}-{}", self.run, self.requests);
        self.tell(Scene::Begins { correlation_id: correlation_id.clone(), caption }).await;
        correlation_id
    }

    async fn tell(&self, scene: Scene) {
        // Nobody listens any more: the play is about to be ended from outside.
        let _ = self.scenes.send(scene).await;
    }

    fn has_time(&self) -> bool {
        !self.stop.is_cancelled() && self.schedule.last_begin.is_none_or(|last| (self.clock)().mono < last)
    }

    async fn pause(&self) {
        // Stopped or not, what comes next asks whether there is time.
        let _ = self.stop.run_until_cancelled(sleep(PAUSE)).await;
    }
}
