//! The gRPC methods: each only translates. What a stream does once it is open is in [`super::session`].

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use super::admission::{refuse, unauthenticated};
use super::arrivals::Arrivals;
use super::budget::Budgets;
use super::connection::Peer;
use super::identity::{self, Ends, Introduction};
use super::refusals::Unauthenticated;
use super::registry::{Claim, Granted, Refusal, Registry};
use super::session::{OpenStream, Session};
use super::stats::ReceiverStats;
use crate::control::encode::{self, CONTROLS_PER_POLICY};
use crate::control::policies::{Policies, Subject};
use crate::engine::StreamId;
use crate::proto::service::snakepit_bridge_server::SnakepitBridge;
use crate::shard::Shards;
use crate::worker::WorkerKey;

/// The service `SnakepitBridge`.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) host_name: Arc<str>,
    pub(super) shards: Shards,
    pub(super) budgets: Budgets,
    pub(super) registry: Arc<Registry>,
    pub(super) policies: Arc<Policies>,
    pub(super) stats: Arc<ReceiverStats>,
    pub(super) arrivals: Arc<Arrivals>,
    pub(super) sessions: TaskTracker,
    pub(super) draining: CancellationToken,
    pub(super) enough: CancellationToken,
}

#[tonic::async_trait]
impl SnakepitBridge for Service {
    type StreamTelemetryStream = ReceiverStream<Result<Bytes, Status>>;
    type StreamTelemetryBatchesStream = tokio_stream::Empty<Result<Bytes, Status>>;

    async fn stream_telemetry(
        &self,
        request: Request<Streaming<Bytes>>,
    ) -> Result<Response<Self::StreamTelemetryStream>, Status> {
        // Held until the session is spawned, so that a drain that begins in this instant waits for it.
        let _opening = self.sessions.token();
        if self.draining.is_cancelled() {
            self.stats.refused_stream();
            return Err(Status::unavailable("the bridge is shutting down"));
        }
        let stream = self.registry.next_stream();
        let introduction = self.introduction(&request, stream)?;
        let granted = self.claim(&introduction)?;
        Ok(Response::new(self.open(stream, granted, introduction, request.into_inner())))
    }

    async fn stream_telemetry_batches(
        &self,
        _request: Request<Streaming<Bytes>>,
    ) -> Result<Response<Self::StreamTelemetryBatchesStream>, Status> {
        Err(Status::unimplemented("StreamTelemetryBatches comes with a later version; use StreamTelemetry"))
    }
}

impl Service {
    fn introduction<T>(&self, request: &Request<T>, stream: StreamId) -> Result<Introduction, Status> {
        let connection =
            request.extensions().get::<Peer>().ok_or_else(|| Status::internal("no connection"))?;
        let peer = connection.address.ok_or_else(|| {
            // The peer has reset the connection in this instant.
            Status::unavailable("the connection has no peer any more")
        })?;
        let ends = Ends { peer, local: connection.local };
        let introduction = identity::introduction(request.metadata().as_ref(), ends, stream, &self.host_name);
        if !connection.ids.allow(&introduction.id) {
            refuse(&self.stats, Unauthenticated::WorkerId);
            return Err(unauthenticated());
        }
        for complaint in &introduction.complaints {
            tracing::warn!(worker.id = %introduction.id, %peer, "{complaint}");
        }
        Ok(introduction)
    }

    fn claim(&self, introduction: &Introduction) -> Result<Granted, Status> {
        let Introduction { node, id, pid, host, .. } = introduction;
        let granted = self.registry.claim(Claim { node, id, pid: *pid, host: *host });
        match granted {
            Ok(granted) => {
                if granted.suffixed {
                    tracing::warn!(
                        worker = %granted.worker,
                        ?host,
                        "another host has a worker of this id and node; this one gets a suffix"
                    );
                }
                Ok(granted)
            }
            Err(refusal) => {
                let refused_so_far = match refusal {
                    Refusal::TooManyWorkers(_) => self.stats.refused_worker(),
                    Refusal::TooManyStreams | Refusal::TooManyHosts => self.stats.refused_stream(),
                };
                // A worker that tries again and again fills no log: the line comes at the 1st, 2nd, 4th, 8th refusal.
                if refused_so_far.is_power_of_two() {
                    tracing::warn!(worker.id = %id, worker.node = %node, refused_so_far, "refused a stream: {refusal}");
                }
                Err(Status::resource_exhausted(refusal.to_string()))
            }
        }
    }

    /// Queues the controls and starts the session. Nothing here waits: the controls go out with the response's headers,
    /// whatever the shard does.
    fn open(
        &self,
        stream: StreamId,
        granted: Granted,
        introduction: Introduction,
        incoming: Streaming<Bytes>,
    ) -> ReceiverStream<Result<Bytes, Status>> {
        let opened = OpenStream::new(stream, &granted, Arc::clone(&self.registry), Arc::clone(&self.stats));
        let Granted { worker, superseded, suffixed: _ } = granted;
        let WorkerKey { node, .. } = &worker;
        let identity = Arc::new(introduction.identity);
        let policy =
            self.policies.resolve(Subject { worker: &introduction.id, pool: identity.pool.as_deref(), node });
        let (controls, response) = mpsc::channel(CONTROLS_PER_POLICY);
        for control in encode::controls(&policy, identity.dialect).into_iter().flatten() {
            controls.try_send(Ok(control)).expect("the channel is new and holds all controls of a policy");
        }
        let span = tracing::info_span!("stream", stream = stream.0, %worker);
        let shard = self.shards.of(&worker);
        let session = Session {
            incoming,
            controls,
            arrivals: Arc::clone(&self.arrivals),
            opened,
            identity,
            policy,
            superseded,
            budget: self.budgets.of(shard),
            shard: shard.clone(),
            draining: self.draining.child_token(),
            enough: self.enough.clone(),
        };
        self.sessions.spawn(session.run().instrument(span));
        ReceiverStream::new(response)
    }
}
