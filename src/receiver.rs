//! The gRPC side that workers see: streams, their identity, their limits. It does not know what an event means.
//!
//! Its laws: no worker is hurt by telemetry (a stream is never ended while the bridge serves, what cannot be read costs
//! only itself), no worker hurts another (a slow shard, a silent connection, an endless message), and all that a worker
//! has sent is passed on or counted.

mod admission;
pub mod arrivals;
mod budget;
mod connection;
pub mod credentials;
pub mod identity;
pub mod listen;
pub mod oversize;
pub mod refusals;
pub mod registry;
mod service;
mod session;
pub mod stats;
pub mod tls;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::util::MapRequestLayer;

use crate::control::policies::Policies;
use crate::proto;
use crate::proto::service::snakepit_bridge_server::{SERVICE_NAME, SnakepitBridgeServer};
use crate::shard::{OVERSIZED_MARKER, Shards};
use admission::AskForToken;
use arrivals::Arrivals;
use budget::Budgets;
use credentials::Credentials;
use listen::{Connections, Door, MAX_HANDSHAKES};
use oversize::WithoutOversized;
use registry::Registry;
use service::Service;
use stats::ReceiverStats;

/// Default of [`Settings::max_message_bytes`]: a design document's event has about 300 bytes.
pub const DEFAULT_MAX_MESSAGE_BYTES: u32 = 1 << 20;
/// Default of `limits.max_workers`, for [`Registry::new`].
pub const DEFAULT_MAX_WORKERS: usize = 10_000;
/// Default of [`Settings::max_connections`]: one for each worker, and half as many again for those that come back before
/// the loss of their old connection is noticed, and for probes.
pub const DEFAULT_MAX_CONNECTIONS: usize = 15_000;

/// What a stream may have on the wire unread. Small, because a stalled stream holds it.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;

/// What a connection may have on the wire unread: 64 stalled streams do not starve their neighbours.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Streams on one connection: all workers of a host may share one channel.
const MAX_STREAMS_PER_CONNECTION: u32 = 10_000;

/// While draining, how long a worker that goes on sending is read, at most: what it sent before came long ago.
const DRAIN_READING: Duration = Duration::from_secs(1);

/// How long connections have to close once their streams are over. Silent ones never do (hyper #4170).
const CLOSING_DEADLINE: Duration = Duration::from_millis(500);

/// The method whose messages are limited here; the others' are by tonic.
const STREAM_TELEMETRY: &str = "/SnakepitBridge/StreamTelemetry";

/// The receiver's settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// A longer message is skipped, and counted.
    pub max_message_bytes: u32,
    /// The bridge's own host name: the node of workers on its host that give none.
    pub host_name: Arc<str>,
    /// What protects the port.
    pub credentials: Credentials,
    /// A connection beyond these is closed, and counted.
    pub max_connections: usize,
}

/// What the receiver works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Where events go.
    pub shards: Shards,
    /// The known workers; [`Registry::forget`] is called for those that the engine forgets.
    pub registry: Arc<Registry>,
    /// What is sent on connect, and enforced.
    pub policies: Arc<Policies>,
    /// What is counted.
    pub stats: Arc<ReceiverStats>,
}

/// Why a receiver cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The address cannot be had.
    #[error("listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
    /// The descriptors in the program are damaged.
    #[error("set up gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A receiver that listens, and serves once [`Receiver::serve`] is awaited.
pub struct Receiver {
    /// Where it listens.
    pub local_addr: SocketAddr,
    /// Serves until it has been drained.
    pub serve: Pin<Box<dyn Future<Output = Result<(), tonic::transport::Error>> + Send>>,
    /// Ends it.
    pub drain: Drain,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("local_addr", &self.local_addr).finish_non_exhaustive()
    }
}

/// The way to end a receiver.
#[derive(Clone)]
pub struct Drain {
    health: HealthReporter,
    sessions: TaskTracker,
    draining: CancellationToken,
    enough: CancellationToken,
    closing: CancellationToken,
}

impl std::fmt::Debug for Drain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drain").field("sessions", &self.sessions.len()).finish_non_exhaustive()
    }
}

/// Builds a receiver. It listens at once; connections wait until it serves.
///
/// # Errors
/// When the address cannot be bound.
///
/// # Panics
/// Outside a tokio runtime.
pub async fn build(settings: Settings, parts: Parts) -> Result<Receiver, BuildError> {
    let Settings { listen, max_message_bytes, host_name, credentials, max_connections } = settings;
    let Parts { shards, registry, policies, stats } = parts;
    let door = Door {
        credentials: credentials.clone(),
        max_connections,
        max_handshakes: MAX_HANDSHAKES,
        stats: Arc::clone(&stats),
    };
    let connections =
        Connections::bind(listen, door).map_err(|error| BuildError::Listen { address: listen, error })?;
    let local_addr = connections.local_addr();
    let sessions = TaskTracker::new();
    let draining = CancellationToken::new();
    let enough = CancellationToken::new();
    let closing = CancellationToken::new();
    let ask_for_token = AskForToken { credentials: credentials.clone(), stats: Arc::clone(&stats) };
    let arrivals = Arc::new(Arrivals::default());
    let service = Service {
        arrivals: Arc::clone(&arrivals),
        host_name,
        budgets: Budgets::new(&shards),
        shards,
        registry,
        policies,
        stats,
        sessions: sessions.clone(),
        draining: draining.clone(),
        enough: enough.clone(),
    };

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status(SERVICE_NAME, ServingStatus::Serving).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(SERVICE_NAME)
            .with_service_name("grpc.health.v1.Health")
    };
    let bridge = SnakepitBridgeServer::new(service)
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(largest_message_bytes(max_message_bytes));
    let router = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
        .layer(ask_for_token)
        .layer(MapRequestLayer::new(move |request| without_oversized(request, max_message_bytes)))
        .add_service(bridge)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);

    let closed = closing.clone();
    let serve = async move {
        let serving = router.serve_with_incoming_shutdown(connections, closed.clone().cancelled_owned());
        let deadline = async {
            closed.cancelled().await;
            tokio::time::sleep(CLOSING_DEADLINE).await;
        };
        tokio::select! {
            served = serving => served,
            () = deadline => Ok(()),
            () = credentials.keep_fresh() => Ok(()),
            () = arrivals.keep_counting() => Ok(()),
        }
    };
    let drain = Drain { health, sessions, draining, enough, closing };
    Ok(Receiver { local_addr, serve: Box::pin(serve), drain })
}

impl Drain {
    /// Takes no new streams, reads what is on the wire already, ends the responses, closes the connections. Returns how
    /// many streams were given up because their shard took nothing.
    ///
    /// Guarantee: it ends `within` that time, whatever workers do. Those that go on sending are read for half of it.
    pub async fn run(&self, within: Duration) -> usize {
        for service in ["", SERVICE_NAME] {
            self.health.set_service_status(service, ServingStatus::NotServing).await;
        }
        self.draining.cancel();
        self.sessions.close();
        let reading = DRAIN_READING.min(within / 2);
        if tokio::time::timeout(reading, self.sessions.wait()).await.is_err() {
            self.enough.cancel();
            // Timing out is told by the number of sessions that are left.
            let _ = tokio::time::timeout(within - reading, self.sessions.wait()).await;
        }
        self.closing.cancel();
        self.sessions.len()
    }
}

/// tonic must let the marker through, whatever the limit.
fn largest_message_bytes(max_message_bytes: u32) -> usize {
    usize::try_from(max_message_bytes).unwrap_or(usize::MAX).max(OVERSIZED_MARKER.len())
}

fn without_oversized(request: http::Request<Body>, max_message_bytes: u32) -> http::Request<Body> {
    if request.uri().path() == STREAM_TELEMETRY {
        request.map(|body| Body::new(WithoutOversized::new(body, max_message_bytes)))
    } else {
        request
    }
}
