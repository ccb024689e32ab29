//! An OTLP peer that misbehaves by a script: gRPC and HTTP (protobuf and JSON), all three signals.
//!
//! It records every request, whatever it answers, and knows which spans it counts as accepted: those of requests whose
//! play takes them, though the answer be lost. So a test can compare sets, and not only sums.
//!
//! What is played to a request is, first that applies: the next of the script (chosen when the request's head is there,
//! so that it may be cut), the rule (chosen when the request is known), [`Play::Take`].

mod answer;
mod connection;
mod request;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::HeaderMap;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use tonic::Status;

pub(crate) use request::{Arrived, ArrivedRecord, Payload};

use super::points::Points;
use super::{START_LIMIT, locked, until};

/// What the peer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// HTTP/2 without TLS, for gRPC.
    Grpc,
    /// HTTP/1.1, for protobuf and JSON.
    Http,
}

/// What is done to one request.
#[derive(Debug, Clone)]
pub(crate) enum Play {
    /// All is taken.
    Take,
    /// All but the first spans is taken; more than there are is all. Below zero is as none.
    Partial { rejected: i64, message: &'static str },
    /// A gRPC error.
    Grpc(Status),
    /// An HTTP status.
    Http { status: u16, retry_after: Option<String>, body: ErrorBody },
    /// All is taken, and said in bytes that are no answer.
    Garbage,
    /// Success, in an answer larger than any client may read.
    Huge,
    /// Success, in an answer that has no end.
    Endless,
    /// All is taken; the answer comes byte by byte and never to its end.
    Drip,
    /// The request is read, and nothing is ever said.
    Silent,
    /// All is taken, and the connection is reset before a word of it.
    LoseAnswer,
    /// All is taken, and the connection is reset after the answer's head.
    CutAnswer,
    /// The connection is reset while the request is still on its way.
    CutRequest,
    /// Another play, after a while.
    After(Duration, Box<Play>),
    /// Another play, and the connection takes no more requests.
    GoAway(Box<Play>),
}

/// The body of an HTTP error. All hold the same words.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ErrorBody {
    Empty,
    Text,
    StatusProtobuf,
    StatusJson,
    /// Tens of megabytes.
    Huge,
}

/// The words of [`ErrorBody`].
pub(crate) const ERROR_WORDS: &str = "the scripted peer says no";

/// What is done to one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum OnConnect {
    /// It is accepted, and nothing is read from it.
    NeverRead,
    /// It is reset at once.
    Reset,
    /// It is answered with what is no HTTP, whatever comes.
    Babble,
    /// It is served, at this many bytes in each period.
    ReadSlowly(usize, Duration),
}

type Rule = Box<dyn FnMut(&Received) -> Option<Play> + Send>;

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// When it was there as a whole.
    pub(crate) at: Instant,
    /// 0 is the first connection.
    pub(crate) connection: usize,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    /// Its body as it came, gRPC's five bytes included.
    pub(crate) wire_bytes: usize,
    /// Its body, uncompressed.
    pub(crate) bytes: usize,
    /// None if it was cut, or could not be read.
    pub(crate) payload: Option<Payload>,
    pub(crate) play: Play,
    /// How many of its spans the peer did not take.
    pub(crate) rejected: usize,
}

/// A running peer. It ends with this.
pub(crate) struct FaultyPeer {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    server: Mutex<Option<JoinSet<()>>>,
}

/// What all connections know.
struct Shared {
    transport: Transport,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    received: Vec<Received>,
    script: VecDeque<Play>,
    rule: Option<Rule>,
    on_connect: VecDeque<OnConnect>,
    connections: usize,
}

// === impl FaultyPeer ===

impl FaultyPeer {
    /// A peer on a free port.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(crate) fn start(transport: Transport) -> Result<Self> {
        let shared = Arc::new(Shared { transport, state: Mutex::new(State::default()) });
        let listener = listen("127.0.0.1:0".parse()?)?;
        let address = listener.local_addr()?;
        let server = Mutex::new(Some(connection::serve(listener, Arc::clone(&shared))));
        Ok(Self { address, shared, server })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Refuses connections from now on, and drops those that there are.
    pub(crate) async fn close(&self) {
        let server = locked(&self.server).take();
        if let Some(mut server) = server {
            server.shutdown().await;
        }
    }

    /// Listens again, on the same port.
    ///
    /// # Errors
    ///
    /// When another has taken it.
    pub(crate) async fn open(&self) -> Result<()> {
        // A connection of any program may hold the port for a moment, as its own end.
        let listener = until("the peer's port", START_LIMIT, async || Ok(listen(self.address).ok())).await?;
        *locked(&self.server) = Some(connection::serve(listener, Arc::clone(&self.shared)));
        Ok(())
    }

    /// What is played to the next requests, one play each.
    pub(crate) fn play(&self, plays: impl IntoIterator<Item = Play>) {
        locked(&self.shared.state).script.extend(plays);
    }

    /// What is played to requests beyond the script. `rule` may look at the payload.
    pub(crate) fn rule(&self, rule: impl FnMut(&Received) -> Option<Play> + Send + 'static) {
        locked(&self.shared.state).rule = Some(Box::new(rule));
    }

    /// Takes everything from now on.
    pub(crate) fn relent(&self) {
        let mut state = locked(&self.shared.state);
        state.script.clear();
        state.rule = None;
        state.on_connect.clear();
    }

    /// What is done to the next connections, each its own; those after them are served.
    pub(crate) fn on_connect(&self, plays: impl IntoIterator<Item = OnConnect>) {
        locked(&self.shared.state).on_connect.extend(plays);
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        locked(&self.shared.state).connections
    }

    /// All requests so far, in the order in which they were there as a whole.
    pub(crate) fn received(&self) -> Vec<Received> {
        locked(&self.shared.state).received.clone()
    }

    /// How many requests there were so far.
    pub(crate) fn requests(&self) -> usize {
        locked(&self.shared.state).received.len()
    }

    /// Waits for so many requests.
    ///
    /// # Errors
    ///
    /// When they do not come within `limit`.
    pub(crate) async fn requested(&self, count: usize, limit: Duration) -> Result<()> {
        until("requests at the peer", limit, async || Ok((self.requests() >= count).then_some(()))).await
    }

    /// The spans that the peer counts as accepted, by (trace id, span id), in order of arrival.
    pub(crate) fn taken(&self) -> Taken {
        let mut taken = Taken::default();
        for received in &locked(&self.shared.state).received {
            for arrived in received.taken() {
                let id = (arrived.span.trace_id.clone(), arrived.span.span_id.clone());
                taken.spans.entry(id).or_default().push(arrived);
            }
        }
        taken
    }

    /// The data points of requests that the peer counts as accepted.
    pub(crate) fn points(&self) -> Points {
        let mut points = Points::default();
        for received in locked(&self.shared.state).received.iter().filter(|received| received.play.takes()) {
            received.payload.iter().for_each(|payload| payload.add_to(&mut points));
        }
        points
    }

    /// The log records of requests that the peer counts as accepted, in order of arrival.
    pub(crate) fn records(&self) -> Vec<ArrivedRecord> {
        let state = locked(&self.shared.state);
        let taken = state.received.iter().filter(|received| received.play.takes());
        taken.filter_map(|received| received.payload.as_ref()).flat_map(Payload::records).collect()
    }
}

impl std::fmt::Debug for FaultyPeer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyPeer").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A listener on a port that connections of an earlier one may still be using.
fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    // Small, so that a peer that does not read is felt soon. Connections inherit it.
    socket.set_recv_buffer_size(16 << 10)?;
    socket.bind(address).with_context(|| format!("failed to listen on {address}"))?;
    Ok(socket.listen(128)?)
}

// === impl Play ===

impl Play {
    /// Another play after a while.
    pub(crate) fn after(self, delay: Duration) -> Self {
        Self::After(delay, Box::new(self))
    }

    /// Another play, and then GOAWAY or `connection: close`.
    pub(crate) fn then_go_away(self) -> Self {
        Self::GoAway(Box::new(self))
    }

    /// An HTTP status with words.
    pub(crate) fn http(status: u16) -> Self {
        Self::Http { status, retry_after: None, body: ErrorBody::StatusProtobuf }
    }

    /// Whether a request is taken that holds no spans.
    fn takes(&self) -> bool {
        self.rejects(1) == 0
    }

    /// How many of so many spans are not taken.
    fn rejects(&self, spans: usize) -> usize {
        match self {
            Self::Take | Self::Garbage | Self::Drip | Self::LoseAnswer | Self::CutAnswer => 0,
            Self::Partial { rejected, .. } => usize::try_from(*rejected).unwrap_or(0).min(spans),
            Self::Grpc(_)
            | Self::Http { .. }
            | Self::Huge
            | Self::Endless
            | Self::Silent
            | Self::CutRequest => spans,
            Self::After(_, play) | Self::GoAway(play) => play.rejects(spans),
        }
    }
}

// === impl Received ===

impl Received {
    /// Its spans, in order.
    pub(crate) fn spans(&self) -> Vec<Arrived> {
        self.payload.as_ref().map(Payload::spans).unwrap_or_default()
    }

    /// Those of its spans that were taken.
    pub(crate) fn taken(&self) -> Vec<Arrived> {
        self.spans().split_off(self.rejected)
    }
}

/// Accepted spans.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    spans: BTreeMap<(Vec<u8>, Vec<u8>), Vec<Arrived>>,
}

impl Taken {
    /// How many different ones.
    pub(crate) fn distinct(&self) -> u64 {
        self.spans.len() as u64
    }

    /// How many came, repetitions included.
    pub(crate) fn arrivals(&self) -> u64 {
        self.spans.values().map(|arrivals| arrivals.len() as u64).sum()
    }

    /// Each once, as it first came.
    pub(crate) fn each(&self) -> impl Iterator<Item = &Arrived> {
        self.spans.values().map(|arrivals| &arrivals[0])
    }

    /// # Errors
    ///
    /// When a span came more than `times`, or not the same each time.
    pub(crate) fn ensure_at_most(&self, times: usize) -> Result<()> {
        for arrivals in self.spans.values() {
            let first: &Span = &arrivals[0].span;
            ensure!(arrivals.len() <= times, "{} times {first:?}", arrivals.len());
            for again in arrivals {
                ensure!(again == &arrivals[0], "first {:?}, then {again:?}", arrivals[0]);
            }
        }
        Ok(())
    }
}
