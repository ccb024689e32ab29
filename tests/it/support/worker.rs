//! A worker in the test's own process: raw messages over real gRPC, so that it can send what no proper client would.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use prost::Message as _;
use snakepit_otel_bridge::proto::service::snakepit_bridge_client::SnakepitBridgeClient;
use snakepit_otel_bridge::proto::telemetry_value::Value;
use snakepit_otel_bridge::proto::{TelemetryEvent, TelemetryValue};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

/// Longest wait for an answer of the bridge.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// Messages on their way to the transport.
const OUTGOING: usize = 64;

/// An open stream. Dropping it cancels it.
#[derive(Debug)]
pub(crate) struct Worker {
    outgoing: mpsc::Sender<Bytes>,
    incoming: Streaming<Bytes>,
}

/// How a worker connects.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    headers: Vec<(&'static str, Vec<u8>)>,
    gzip: bool,
}

impl Connector {
    /// A worker of this id.
    pub(crate) fn named(id: &str) -> Self {
        Self::anonymous().header("x-snakepit-worker-id", id.as_bytes())
    }

    pub(crate) const fn anonymous() -> Self {
        Self { headers: Vec::new(), gzip: false }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &[u8]) -> Self {
        self.headers.push((name, value.to_vec()));
        self
    }

    pub(crate) fn pid(self, pid: u32) -> Self {
        self.header("x-snakepit-python-pid", pid.to_string().as_bytes())
    }

    pub(crate) fn gzip(mut self) -> Self {
        self.gzip = true;
        self
    }

    /// Opens a stream on a connection of its own.
    ///
    /// # Errors
    ///
    /// When the bridge refuses it.
    pub(crate) async fn connect(self, address: &str) -> Result<Worker> {
        let channel = channel(address).await?;
        Ok(self.open(&channel).await?)
    }

    /// Opens a stream on this connection.
    pub(crate) async fn open(self, channel: &Channel) -> Result<Worker, Status> {
        let mut client = SnakepitBridgeClient::new(channel.clone());
        if self.gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        let mut request = Request::new(ReceiverStream::new(messages));
        for (name, value) in self.headers {
            let value = HeaderValue::from_bytes(&value).expect("a header's value");
            request.metadata_mut().as_mut().insert(HeaderName::from_static(name), value);
        }
        let opened = tokio::time::timeout(ANSWER_LIMIT, client.stream_telemetry(request));
        let response = opened.await.map_err(|_| Status::deadline_exceeded("the stream does not open"))?;
        Ok(Worker { outgoing, incoming: response?.into_inner() })
    }
}

/// A connection to the bridge.
///
/// # Errors
///
/// When there is none to be had.
pub(crate) async fn channel(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    endpoint.connect().await.context("failed to connect to the bridge")
}

impl Worker {
    /// Sends one event.
    ///
    /// # Errors
    ///
    /// When the stream is over.
    pub(crate) async fn send(&self, event: &TelemetryEvent) -> Result<()> {
        self.send_raw(event.encode_to_vec().into()).await
    }

    /// Sends events in their order.
    ///
    /// # Errors
    ///
    /// When the stream is over.
    pub(crate) async fn send_all(&self, events: impl IntoIterator<Item = TelemetryEvent>) -> Result<()> {
        for event in events {
            self.send(&event).await?;
        }
        Ok(())
    }

    /// Sends any bytes as one message.
    ///
    /// # Errors
    ///
    /// When the stream is over, or the bridge takes nothing.
    pub(crate) async fn send_raw(&self, message: Bytes) -> Result<()> {
        let sent = tokio::time::timeout(ANSWER_LIMIT, self.outgoing.send(message));
        sent.await.context("the bridge takes nothing")?.context("the stream is over")
    }

    /// The next control, as bytes.
    ///
    /// # Errors
    ///
    /// When the response ends instead.
    pub(crate) async fn control(&mut self) -> Result<Bytes> {
        let message = tokio::time::timeout(ANSWER_LIMIT, self.incoming.message()).await?;
        message?.context("the response has ended")
    }

    /// Half-closes, and waits for the bridge's OK after whatever controls come.
    ///
    /// # Errors
    ///
    /// When the answer is another.
    pub(crate) async fn close(self) -> Result<()> {
        let Self { outgoing, mut incoming } = self;
        drop(outgoing);
        let ending = async {
            while incoming.message().await?.is_some() {}
            Ok::<_, Status>(())
        };
        tokio::time::timeout(ANSWER_LIMIT, ending).await.context("no answer to the half-close")??;
        Ok(())
    }

    /// Waits until the bridge ends the stream; answers how.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub(crate) async fn ended_by_bridge(mut self) -> Result<Code> {
        loop {
            match tokio::time::timeout(ANSWER_LIMIT, self.incoming.message()).await? {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(Code::Ok),
                Err(status) => return Ok(status.code()),
            }
        }
    }

    /// Whether the stream is still open after its controls.
    ///
    /// # Errors
    ///
    /// When the bridge has ended it.
    pub(crate) async fn ensure_open(&mut self) -> Result<()> {
        // Whoever ends a stream is heard at once; 50 ms are for the way.
        while let Ok(message) = tokio::time::timeout(Duration::from_millis(50), self.incoming.message()).await
        {
            ensure!(message?.is_some(), "the bridge has ended the stream");
        }
        Ok(())
    }
}

/// Nanoseconds since the epoch.
#[expect(clippy::disallowed_methods, reason = "workers have a clock")]
pub(crate) fn wall() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(since.as_nanos()).expect("the clock is before 2262")
}

/// An event of this dotted name and correlation id, at this time.
pub(crate) fn event(name: &str, correlation_id: &str, at: i64) -> TelemetryEvent {
    TelemetryEvent {
        event_parts: name.split('.').map(str::to_owned).collect(),
        timestamp_ns: at,
        correlation_id: correlation_id.to_owned(),
        ..TelemetryEvent::default()
    }
}

/// Both halves of a span.
pub(crate) fn pair(operation: &str, correlation_id: &str, from: i64, duration: i64) -> [TelemetryEvent; 2] {
    let start = event(&format!("{operation}.start"), correlation_id, from);
    let stop = event(&format!("{operation}.stop"), correlation_id, from + duration);
    [start, stop.measured("duration", duration)]
}

/// What an event says besides its name.
pub(crate) trait Says: Sized {
    fn meta(self, key: &str, value: &str) -> Self;
    fn value(self, key: &str, value: Value) -> Self;

    fn measured(self, key: &str, value: i64) -> Self {
        self.value(key, Value::IntValue(value))
    }
}

impl Says for TelemetryEvent {
    fn meta(mut self, key: &str, value: &str) -> Self {
        self.metadata.insert(key.to_owned(), value.to_owned());
        self
    }

    fn value(mut self, key: &str, value: Value) -> Self {
        self.measurements.insert(key.to_owned(), TelemetryValue { value: Some(value) });
        self
    }
}
