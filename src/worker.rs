//! Who sent an event: the key that pairing trusts, and the source that exports show.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What identifies a worker: its node, its id and its process, from request headers or from the connection, never from
/// metadata.
///
/// The same id on the same node with another pid is another *incarnation*, and another key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerKey {
    /// The worker's host: by header, else the bridge's host name for loopback peers, else the peer's address.
    pub node: Arc<str>,
    /// By header, else the peer's address and the stream's number. Carries a suffix (`worker_1#2`) where a live key was
    /// claimed a second time from another host.
    pub id: Arc<str>,
    /// The worker's process id, where a header gave it.
    pub pid: Option<u32>,
}

impl WorkerKey {
    /// Whether the id is no more than its connection's: nothing in the headers said who the worker is.
    #[must_use]
    pub fn is_of_connection(&self) -> bool {
        self.id
            .rsplit_once('/')
            .is_some_and(|(peer, stream)| peer.parse::<SocketAddr>().is_ok() && stream.parse::<u64>().is_ok())
    }
}

impl fmt::Display for WorkerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&instance_id(&self.id, &self.node))?;
        self.pid.map_or(Ok(()), |pid| write!(f, "/{pid}"))
    }
}

/// Everything a connection says about its worker, apart from the key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Identity {
    /// `x-snakepit-worker-id` was given. Where not, metadata may fill in what is shown.
    pub id_by_header: bool,
    /// `x-snakepit-pool`.
    pub pool: Option<Arc<str>>,
    /// `host.name` of the worker: the bridge's own for loopback peers, else the peer's address.
    pub host: Option<Arc<str>>,
    /// The worker runs on the bridge's own host.
    pub same_host: bool,
    /// `x-snakepit-node`, as sent.
    pub node_header: Option<Arc<str>>,
    /// Which numbering the connection's controls have.
    pub dialect: Dialect,
    /// `x-snakepit-capabilities`.
    pub capabilities: Capabilities,
}

/// The numbering of control messages on a connection. It is a property of the connection and never guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Dialect {
    /// The design document's: sampling 1, toggle 2, filter 3.
    #[default]
    Design,
    /// The released package's: toggle 1, sampling 2, filter 3.
    Released,
    /// The header named one that this version does not know: events are taken, no controls are sent.
    Unknown,
}

impl Dialect {
    /// The dialect as the API and the header spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Design => "design",
            Self::Released => "released",
            Self::Unknown => "unknown",
        }
    }
}

/// What a worker said that it can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// Honours `event_patterns` of a sampling update.
    pub sampling_patterns: bool,
    /// Samples whole spans, by trace id, so that no pair is torn.
    pub consistent_sampling: bool,
    /// Speaks `StreamTelemetryBatches`.
    pub batches: bool,
}

/// A worker as its exported items show it: the base of an OpenTelemetry resource. Frozen at the first exported item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Unique within a run of the bridge, and across runs with a state directory; two sources with the same serial are the same source.
    pub serial: u64,
    /// `snakepit.worker.id`.
    pub worker_id: Arc<str>,
    /// `snakepit.node`.
    pub node: Arc<str>,
    /// `snakepit.pool`.
    pub pool: Option<Arc<str>>,
    /// `process.pid`.
    pub pid: Option<u32>,
    /// `host.name`.
    pub host: Option<Arc<str>>,
    /// The worker runs on the bridge's own host.
    pub same_host: bool,
}

impl Source {
    /// `service.instance.id`: unique across hosts.
    #[must_use]
    pub fn instance_id(&self) -> String {
        instance_id(&self.worker_id, &self.node)
    }
}

/// A worker's id and its node in one text, of which no other pair has the same: what is before the first `@` is the worker's
/// id, in which `@` and the `%` that stands for it are escaped. Nodes of Elixir have an `@` of their own.
fn instance_id(worker_id: &str, node: &str) -> String {
    if worker_id.contains(['%', '@']) {
        format!("{}@{node}", worker_id.replace('%', "%25").replace('@', "%40"))
    } else {
        format!("{worker_id}@{node}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_at_sign_in_a_workers_id_is_escaped_and_other_ids_stay() {
        assert_eq!(instance_id("worker_1", "b@c"), "worker_1@b@c");
        assert_eq!(instance_id("a@b", "c"), "a%40b@c");
        assert_eq!(instance_id("a%40b", "c%"), "a%2540b@c%");
        let key = WorkerKey { node: "c".into(), id: "a@b".into(), pid: Some(7) };
        assert_eq!(key.to_string(), "a%40b@c/7");
    }

    proptest! {
        /// Two workers have one id only if they are one.
        #[test]
        fn distinct_workers_have_distinct_ids(
            one in ("[ab@%04]{0,5}", "[ab@%04]{0,5}"),
            other in ("[ab@%04]{0,5}", "[ab@%04]{0,5}"),
            // Where the text around the `@` is divided otherwise, a collision is likeliest.
            text in "[ab@%04]{1,6}@[ab@%04]{1,6}",
        ) {
            let id = |(worker, node): &(String, String)| instance_id(worker, node);
            prop_assert_eq!(one == other, id(&one) == id(&other));
            let divided: Vec<_> = text
                .match_indices('@')
                .map(|(at, _)| (text[..at].to_owned(), text[at + 1..].to_owned()))
                .collect();
            let ids: std::collections::BTreeSet<_> = divided.iter().map(id).collect();
            prop_assert_eq!(ids.len(), divided.len());
        }
    }
}
