//! A receiver that serves over loopback, its workers, and the shards behind it, all in the hands of a test.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::Streaming;
use tonic::metadata::{AsciiMetadataKey, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::control::policies::{Policies, PolicySettings, Rule};
use crate::control::policy::{Policy, Rate};
use crate::engine::StreamId;
use crate::proto::service::snakepit_bridge_client::SnakepitBridgeClient;
use crate::receiver::credentials::Credentials;
use crate::receiver::registry::Registry;
use crate::receiver::{
    DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_MAX_WORKERS, Drain, Parts, Settings, build,
};
use crate::shard::{ShardMessage, Shards};
use crate::worker::{Identity, WorkerKey};

/// Longer than anything here takes, on a busy machine too.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Options {
    pub(super) shards: usize,
    pub(super) shard_capacity: usize,
    pub(super) max_workers: usize,
    pub(super) max_message_bytes: u32,
    pub(super) policies: PolicySettings,
    pub(super) credentials: Credentials,
    pub(super) max_connections: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shards: 1,
            shard_capacity: 256,
            max_workers: DEFAULT_MAX_WORKERS,
            max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
            policies: PolicySettings::default(),
            credentials: Credentials::default(),
            max_connections: DEFAULT_MAX_CONNECTIONS,
        }
    }
}

/// A receiver that serves, and the other ends of its shards' channels.
pub(super) struct Rig {
    pub(super) address: SocketAddr,
    pub(super) shards: Vec<mpsc::Receiver<ShardMessage>>,
    pub(super) parts: Parts,
    pub(super) drain: Drain,
    pub(super) server: JoinSet<Result<(), tonic::transport::Error>>,
    /// For each shard the id of a worker that it has.
    pub(super) workers: BTreeMap<usize, String>,
}

/// What [`ShardMessage::Opened`] says.
pub(super) struct Opened {
    pub(super) stream: StreamId,
    pub(super) worker: WorkerKey,
    pub(super) identity: Arc<Identity>,
    pub(super) policy: Arc<Policy>,
}

impl Rig {
    pub(super) async fn start(options: Options) -> Self {
        let (senders, shards): (Vec<_>, Vec<_>) =
            (0..options.shards).map(|_| mpsc::channel(options.shard_capacity)).unzip();
        let to_shards = Shards::new(senders.clone());
        let workers = (0..100)
            .map(|number| format!("w{number}"))
            .map(|id| {
                let key = WorkerKey { node: "bridge-host".into(), id: id.as_str().into(), pid: None };
                let shard = to_shards.of(&key);
                let index = senders.iter().position(|sender| sender.same_channel(shard)).unwrap();
                (index, id)
            })
            .collect();
        let parts = Parts {
            shards: to_shards,
            registry: Arc::new(Registry::new(options.max_workers)),
            policies: Arc::new(Policies::new(&options.policies).unwrap()),
            stats: Arc::default(),
        };
        let settings = Settings {
            listen: "127.0.0.1:0".parse().unwrap(),
            max_message_bytes: options.max_message_bytes,
            host_name: "bridge-host".into(),
            credentials: options.credentials,
            max_connections: options.max_connections,
        };
        // The shards' senders live on in the parts: a rig drops a receiver to play a shard that is gone.
        let receiver = build(settings, parts.clone()).await.unwrap();
        let mut server = JoinSet::new();
        server.spawn(receiver.serve);
        Self { address: receiver.local_addr, shards, parts, drain: receiver.drain, server, workers }
    }

    pub(super) fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy()
    }

    /// A client with a connection of its own.
    pub(super) fn client(&self) -> SnakepitBridgeClient<Channel> {
        SnakepitBridgeClient::new(self.channel())
    }

    pub(super) async fn worker(&self, headers: &[(&str, &str)]) -> Worker {
        open(&self.client(), headers).await.unwrap()
    }

    pub(super) fn worker_of_shard(&self, shard: usize) -> &str {
        &self.workers[&shard]
    }

    /// What the first shard is told next.
    pub(super) async fn next(&mut self) -> ShardMessage {
        tokio::time::timeout(PATIENCE, self.shards[0].recv())
            .await
            .expect("the shard is told nothing")
            .unwrap()
    }

    pub(super) async fn opened(&mut self) -> Opened {
        let message = self.next().await;
        let ShardMessage::Opened { stream, worker, identity, policy } = message else {
            panic!("{message:?}")
        };
        Opened { stream, worker, identity, policy }
    }

    pub(super) async fn closed(&mut self, expected: StreamId) {
        let message = self.next().await;
        let ShardMessage::Closed { stream } = message else { panic!("{message:?}") };
        assert_eq!(stream, expected);
    }

    /// At least this many messages, all of this stream.
    pub(super) async fn messages(&mut self, expected: StreamId, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        while all.len() < count {
            let message = self.next().await;
            let ShardMessage::Messages { stream, messages } = message else { panic!("{message:?}") };
            assert_eq!(stream, expected);
            all.extend(messages.iter().map(text));
        }
        all
    }

    pub(super) fn drain_ready(&mut self) {
        while self.shards[0].try_recv().is_ok() {}
    }
}

/// A worker's end of a stream.
pub(super) struct Worker {
    pub(super) events: mpsc::Sender<Bytes>,
    pub(super) controls: Streaming<Bytes>,
}

impl Worker {
    pub(super) async fn send(&self, event: &[u8]) {
        let sent = self.events.send(Bytes::copy_from_slice(event));
        tokio::time::timeout(PATIENCE, sent).await.expect("the bridge does not read").unwrap();
    }

    pub(super) async fn control(&mut self) -> Bytes {
        tokio::time::timeout(PATIENCE, self.controls.message()).await.expect("no control").unwrap().unwrap()
    }

    /// No more events; the answers can still be read.
    pub(super) fn half_close(&mut self) {
        self.events = mpsc::channel(1).0;
    }

    /// No more events; nobody reads the answers.
    pub(super) fn half_close_only(self) {
        let Self { events, controls } = self;
        drop(events);
        std::mem::forget(controls);
    }

    /// All controls until the bridge ends the response, and how it does.
    pub(super) async fn answer(&mut self) -> Result<Vec<Bytes>, Status> {
        let mut controls = Vec::new();
        tokio::time::timeout(PATIENCE, async {
            while let Some(control) = self.controls.message().await? {
                controls.push(control);
            }
            Ok(controls)
        })
        .await
        .expect("the response does not end")
    }
}

pub(super) async fn open(
    client: &SnakepitBridgeClient<Channel>,
    headers: &[(&str, &str)],
) -> Result<Worker, Status> {
    let (events, outgoing) = mpsc::channel(64);
    let mut request = Request::new(ReceiverStream::new(outgoing));
    for (name, value) in headers {
        let name: AsciiMetadataKey = name.parse().unwrap();
        request.metadata_mut().insert(name, MetadataValue::try_from(*value).unwrap());
    }
    let mut client = client.clone();
    let answer = tokio::time::timeout(PATIENCE, client.stream_telemetry(request));
    let controls = answer.await.expect("the stream does not open")?.into_inner();
    Ok(Worker { events, controls })
}

pub(super) fn text(message: &Bytes) -> String {
    String::from_utf8(message.to_vec()).unwrap()
}

/// Lets everything else run until `condition` holds.
pub(super) async fn eventually(mut condition: impl FnMut() -> bool) {
    tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the condition never holds");
}

pub(super) fn half_and_filtered() -> PolicySettings {
    PolicySettings {
        default_sampling_rate: Rate::new(0.5).unwrap(),
        rules: vec![Rule { blocked_events: vec!["debug.*".to_owned()], ..Rule::default() }],
        ..PolicySettings::default()
    }
}
