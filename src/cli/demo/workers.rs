//! Simulated Python workers that speak real gRPC to the bridge.
//!
//! A worker has one stream, as a real one has: its events go out on it, the bridge's controls come back, and the worker
//! obeys them. It samples whole requests, by a hash of their correlation id, so that no pair is torn. Dropping a worker
//! cuts its connection, as a process that dies does.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic::{Request, Streaming};
use xxhash_rust::xxh3::xxh3_64;

use crate::cli::demo::Clock;
use crate::cli::demo::script::{self, Chapter, Delivery, Moment, MomentKind, Stamps};
use crate::control::policy::{Policy, Rate};
use crate::proto::service::snakepit_bridge_client::SnakepitBridgeClient;
use crate::proto::telemetry_control::Control;
use crate::proto::{TelemetryControl, TelemetryEvent};
use crate::time::Now;

/// Events that wait to be sent; the design document's emitter has room for 1000.
const OUTBOX_CAPACITY: usize = 1000;
/// Toggle, sampling and filter: what the bridge sends before anything else.
const CONTROLS_ON_CONNECT: u32 = 3;
/// How long a worker waits for them before it begins.
const CONTROL_PATIENCE: Duration = Duration::from_millis(500);

/// Who a worker says it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Persona {
    pub(super) id: &'static str,
    pub(super) pool: &'static str,
    pub(super) pid: u32,
}

/// What the bridge told a worker.
#[derive(Debug, Clone, Default)]
struct Told {
    policy: Policy,
    controls: u32,
}

/// A connected worker.
pub(super) struct Worker {
    persona: Persona,
    clock: Clock,
    outbox: mpsc::Sender<Bytes>,
    told: watch::Receiver<Told>,
    /// Reads the controls; aborted when the worker is dropped.
    _reader: JoinSet<()>,
}

impl Worker {
    /// Connects, waits until the bridge has said what it wants, and says that it is ready.
    ///
    /// # Errors
    /// When the bridge cannot be reached, or refuses the stream.
    pub(super) async fn connect(grpc: SocketAddr, persona: Persona, clock: Clock) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{grpc}"))?
            .connect()
            .await
            .with_context(|| format!("failed to connect {} to {grpc}", persona.id))?;
        let (outbox, events) = mpsc::channel(OUTBOX_CAPACITY);
        let mut request = Request::new(ReceiverStream::new(events));
        let headers = request.metadata_mut();
        headers.insert("x-snakepit-worker-id", MetadataValue::from_static(persona.id));
        headers.insert("x-snakepit-pool", MetadataValue::from_static(persona.pool));
        headers.insert("x-snakepit-python-pid", MetadataValue::from(persona.pid));
        headers.insert("x-snakepit-capabilities", MetadataValue::from_static("consistent-sampling"));
        let controls = SnakepitBridgeClient::new(channel)
            .stream_telemetry(request)
            .await
            .with_context(|| format!("failed to open the stream of {}", persona.id))?
            .into_inner();
        let (teller, mut told) = watch::channel(Told::default());
        let mut reader = JoinSet::new();
        reader.spawn(read_controls(controls, teller));
        let all_told = told.wait_for(|told| told.controls >= CONTROLS_ON_CONNECT);
        if let Ok(Err(_)) = timeout(CONTROL_PATIENCE, all_told).await {
            return Err(anyhow!("the bridge ended the stream of {}", persona.id));
        }
        let worker = Self { persona, clock, outbox, told, _reader: reader };
        let ready = script::ready(persona.pid, (worker.clock)().wall.0);
        if worker.policy().enabled && worker.policy().allows("worker.ready") {
            worker.send(&ready).await?;
        }
        Ok(worker)
    }

    pub(super) fn id(&self) -> &'static str {
        self.persona.id
    }

    /// What the bridge wants of the worker.
    pub(super) fn policy(&self) -> Policy {
        self.told.borrow().policy.clone()
    }

    /// Lives through a chapter. Returns the events that were sent, in the order in which they were.
    ///
    /// # Errors
    /// When the stream is over.
    pub(super) async fn perform(
        &self,
        chapter: &'static Chapter,
        correlation_id: &str,
    ) -> anyhow::Result<Vec<TelemetryEvent>> {
        let policy = self.policy();
        if !takes(&policy, correlation_id) {
            return Ok(Vec::new());
        }
        let began = (self.clock)();
        let mut starts = Vec::new();
        let mut sent = Vec::new();
        for moment in chapter.timeline() {
            self.wait_until(began, moment.at).await;
            let event = self.event(&moment, correlation_id, &mut starts);
            if !policy.allows(&moment.name()) {
                continue;
            }
            for _ in 0..moment.copies {
                if chapter.delivery == Delivery::AsTheyHappen {
                    self.send(&event).await?;
                }
                sent.push(event.clone());
            }
        }
        if chapter.delivery == Delivery::Backwards {
            sent.reverse();
            for event in &sent {
                self.send(event).await?;
            }
        }
        Ok(sent)
    }

    async fn wait_until(&self, began: Now, at: Duration) {
        let passed = Duration::from_nanos((self.clock)().mono.since(began.mono));
        sleep(at.saturating_sub(passed)).await;
    }

    /// Reads the clocks where the design document's emitter does: once when it happens, once when the event is built.
    fn event(&self, moment: &Moment, correlation_id: &str, starts: &mut Vec<(usize, Now)>) -> TelemetryEvent {
        let now = (self.clock)();
        let begun = starts.iter().find(|(call, _)| *call == moment.call_number).map(|(_, at)| *at);
        if moment.kind == MomentKind::Start {
            starts.push((moment.call_number, now));
        }
        let duration = begun.map_or(0, |begun| now.mono.since(begun.mono));
        let stamps = Stamps {
            system_time_ns: now.wall.0,
            timestamp_ns: (self.clock)().wall.0,
            duration_ns: i64::try_from(duration).unwrap_or(i64::MAX),
        };
        moment.event(correlation_id, stamps)
    }

    async fn send(&self, event: &TelemetryEvent) -> anyhow::Result<()> {
        let message = Bytes::from(event.encode_to_vec());
        self.outbox
            .send(message)
            .await
            .map_err(|_| anyhow!("the bridge ended the stream of {}", self.persona.id))
    }
}

async fn read_controls(mut controls: Streaming<Bytes>, teller: watch::Sender<Told>) {
    // An error is the end of the stream, which the next event will find.
    while let Ok(Some(message)) = controls.message().await {
        if let Ok(control) = TelemetryControl::decode(message) {
            teller.send_modify(|told| {
                obey(&mut told.policy, control);
                told.controls = told.controls.saturating_add(1);
            });
        }
    }
}

/// What a control changes.
fn obey(policy: &mut Policy, control: TelemetryControl) {
    let current = std::mem::take(policy);
    *policy = match control.control {
        None => current,
        Some(Control::Toggle(toggle)) => Policy { enabled: toggle.enabled, ..current },
        Some(Control::Sampling(update)) => Policy {
            sampling_rate: Rate::new(update.sampling_rate).unwrap_or(current.sampling_rate),
            event_patterns: update.event_patterns,
            ..current
        },
        Some(Control::Filter(filter)) => {
            // A policy's filter is compiled once, so another filter is another policy.
            let (allowed_events, blocked_events) = (filter.allowed_events, filter.blocked_events);
            let mut next = Policy { allowed_events, blocked_events, ..Policy::default() };
            next.enabled = current.enabled;
            next.sampling_rate = current.sampling_rate;
            next.event_patterns = current.event_patterns;
            next
        }
    };
}

/// Whether the requests of this correlation id are among those that the policy samples.
fn takes(policy: &Policy, correlation_id: &str) -> bool {
    // 53 bits are a double's exact integers.
    let draw = (xxh3_64(correlation_id.as_bytes()) >> 11) as f64 / (1_u64 << 53) as f64;
    policy.enabled && draw < policy.sampling_rate.value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{TelemetryEventFilter, TelemetrySamplingUpdate, TelemetryToggle};

    fn control(control: Control) -> TelemetryControl {
        TelemetryControl { control: Some(control) }
    }

    #[test]
    fn a_worker_obeys_what_it_is_told() {
        let mut policy = Policy::default();
        obey(&mut policy, control(Control::Toggle(TelemetryToggle { enabled: false })));
        let update = TelemetrySamplingUpdate { sampling_rate: 0.25, event_patterns: Vec::new() };
        obey(&mut policy, control(Control::Sampling(update)));
        let nonsense = TelemetrySamplingUpdate { sampling_rate: 7.0, event_patterns: Vec::new() };
        obey(&mut policy, control(Control::Sampling(nonsense)));
        let filter =
            TelemetryEventFilter { allowed_events: Vec::new(), blocked_events: vec!["debug.*".to_owned()] };
        obey(&mut policy, control(Control::Filter(filter)));
        obey(&mut policy, TelemetryControl { control: None });
        let expected = Policy {
            enabled: false,
            sampling_rate: Rate::new(0.25).unwrap(),
            blocked_events: vec!["debug.*".to_owned()],
            ..Policy::default()
        };
        assert_eq!(policy, expected);
    }

    #[test]
    fn whole_requests_are_sampled_by_their_correlation_id() {
        let quarter = Policy { sampling_rate: Rate::new(0.25).unwrap(), ..Policy::default() };
        let taken = (0..4000).filter(|number| takes(&quarter, &format!("request-{number}"))).count();
        assert!((900..1100).contains(&taken), "{taken}");
        let off = Policy { enabled: false, ..Policy::default() };
        let none = Policy { sampling_rate: Rate::new(0.0).unwrap(), ..Policy::default() };
        for number in 0..1000 {
            let id = format!("request-{number}");
            assert!(takes(&Policy::default(), &id) && !takes(&off, &id) && !takes(&none, &id));
        }
    }
}
