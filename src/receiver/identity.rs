//! Who a connection says it is: request headers, else the peer.
//!
//! | what | from |
//! |---|---|
//! | id | `x-snakepit-worker-id`, else the peer's address and the stream's number |
//! | node | `x-snakepit-node`, else the bridge's own host name for peers on its host, else the peer's address |
//! | pid, pool, dialect, capabilities | `x-snakepit-{python-pid,pool,dialect,capabilities}`, else none |
//!
//! Nothing here refuses a worker: what cannot be read is left out and complained about; control characters become `_`;
//! what is too long is cut. Whether the id is free is decided in [`super::registry`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderMap;

use crate::engine::StreamId;
use crate::worker::{Capabilities, Dialect, Identity};

/// Characters of a worker's id, pool or node: what a name may have elsewhere.
pub const MAX_IDENTITY_CHARS: usize = 255;

/// What a new stream says about its worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// The node of its key.
    pub node: Arc<str>,
    /// The id that it claims.
    pub id: Arc<str>,
    /// Its process id.
    pub pid: Option<u32>,
    /// Where it runs.
    pub host: PeerHost,
    /// The rest.
    pub identity: Identity,
    /// What could not be taken as it was sent.
    pub complaints: Vec<String>,
}

/// The host at the other end of a connection, as the network tells it: a worker cannot choose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerHost {
    /// The bridge's own.
    Own,
    /// Another.
    Other(IpAddr),
}

impl PeerHost {
    /// The host that [`introduction`] noted in an identity.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        let address = identity.host.as_ref().filter(|_| !identity.same_host);
        address.and_then(|address| address.parse().ok()).map_or(Self::Own, Self::Other)
    }
}

/// The two ends of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// The worker's.
    pub peer: SocketAddr,
    /// The bridge's.
    pub local: Option<SocketAddr>,
}

impl Ends {
    fn peer_host(self) -> PeerHost {
        let peer = self.peer.ip().to_canonical();
        let is_local = self.local.is_some_and(|local| local.ip().to_canonical() == peer);
        if peer.is_loopback() || is_local { PeerHost::Own } else { PeerHost::Other(peer) }
    }
}

/// Reads what a stream's headers say; `own_host` is the bridge's host name.
#[must_use]
pub fn introduction(headers: &HeaderMap, ends: Ends, stream: StreamId, own_host: &Arc<str>) -> Introduction {
    let mut headers = Headers { headers, complaints: Vec::new() };
    let host = ends.peer_host();
    let host_name = match host {
        PeerHost::Own => Arc::clone(own_host),
        PeerHost::Other(address) => Arc::from(address.to_string()),
    };
    let id = headers.text("x-snakepit-worker-id");
    let node_header = headers.text("x-snakepit-node");
    let identity = Identity {
        id_by_header: id.is_some(),
        pool: headers.text("x-snakepit-pool"),
        host: Some(Arc::clone(&host_name)),
        same_host: host == PeerHost::Own,
        node_header: node_header.clone(),
        dialect: headers.dialect(),
        capabilities: headers.capabilities(),
    };
    Introduction {
        node: node_header.unwrap_or(host_name),
        id: id.unwrap_or_else(|| Arc::from(format!("{}/{}", ends.peer, stream.0))),
        pid: headers.pid(),
        host,
        identity,
        complaints: headers.complaints,
    }
}

struct Headers<'a> {
    headers: &'a HeaderMap,
    complaints: Vec<String>,
}

impl Headers<'_> {
    /// A header's first value, made safe to show; `None` if nothing is left of it.
    fn text(&mut self, name: &str) -> Option<Arc<str>> {
        let value = String::from_utf8_lossy(self.headers.get(name)?.as_bytes());
        let mut characters = value.trim().chars();
        let text: String = characters
            .by_ref()
            .take(MAX_IDENTITY_CHARS)
            .map(|character| if character.is_control() { '_' } else { character })
            .collect();
        if characters.next().is_some() {
            self.complaints.push(format!("header {name} is cut to {MAX_IDENTITY_CHARS} characters"));
        }
        (!text.is_empty()).then(|| Arc::from(text))
    }

    fn pid(&mut self) -> Option<u32> {
        let text = self.text("x-snakepit-python-pid")?;
        let pid = text.parse().ok();
        if pid.is_none() {
            self.complaints.push(format!("header x-snakepit-python-pid is not a process id: {text:?}"));
        }
        pid
    }

    fn dialect(&mut self) -> Dialect {
        let Some(text) = self.text("x-snakepit-dialect") else { return Dialect::Design };
        match &*text.to_ascii_lowercase() {
            "design" => Dialect::Design,
            "released" => Dialect::Released,
            _ => {
                self.complaints.push(format!(
                    "header x-snakepit-dialect is {text:?}, neither \"design\" nor \"released\"; this worker gets no \
                     controls, because in the wrong numbering they would mute it"
                ));
                Dialect::Unknown
            }
        }
    }

    /// Capabilities of a later version are no concern of this one.
    fn capabilities(&mut self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        let text = self.text("x-snakepit-capabilities").unwrap_or_default();
        for capability in text.split(',').map(str::trim) {
            match capability {
                "sampling-patterns" => capabilities.sampling_patterns = true,
                "consistent-sampling" => capabilities.consistent_sampling = true,
                "batches" => capabilities.batches = true,
                _ => {}
            }
        }
        capabilities
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn headers_say_who_it_is() {
        let introduction = introduce(
            &[
                ("x-snakepit-worker-id", b"worker_1"),
                ("x-snakepit-pool", b"gpu"),
                ("x-snakepit-python-pid", b"4711"),
                ("x-snakepit-node", b"node-a"),
                ("x-snakepit-dialect", b"released"),
                ("x-snakepit-capabilities", b"sampling-patterns, batches,telepathy"),
            ],
            "10.0.0.7:5000",
        );

        assert_eq!(
            introduction,
            Introduction {
                node: "node-a".into(),
                id: "worker_1".into(),
                pid: Some(4711),
                host: PeerHost::Other([10, 0, 0, 7].into()),
                identity: Identity {
                    id_by_header: true,
                    pool: Some("gpu".into()),
                    host: Some("10.0.0.7".into()),
                    same_host: false,
                    node_header: Some("node-a".into()),
                    dialect: Dialect::Released,
                    capabilities: Capabilities {
                        sampling_patterns: true,
                        consistent_sampling: false,
                        batches: true
                    },
                },
                complaints: vec![],
            }
        );
    }

    #[test]
    fn without_headers_the_peer_and_the_stream_say_who_it_is() {
        let introduction = introduce(&[], "10.0.0.7:5000");

        assert_eq!(&*introduction.id, "10.0.0.7:5000/3");
        assert_eq!(&*introduction.node, "10.0.0.7");
        assert_eq!(introduction.identity.dialect, Dialect::Design);
        assert!(!introduction.identity.id_by_header);
        assert_eq!(introduction.complaints, [""; 0]);
    }

    #[test]
    fn peers_on_the_bridges_own_host_have_its_name() {
        for peer in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "192.168.0.2:1"] {
            let introduction = introduce(&[], peer);
            assert_eq!(introduction.host, PeerHost::Own, "{peer}");
            assert_eq!(&*introduction.node, "bridge-host", "{peer}");
            assert!(introduction.identity.same_host, "{peer}");
        }
        assert_eq!(introduce(&[], "[::ffff:10.0.0.7]:1").host, PeerHost::Other([10, 0, 0, 7].into()));
    }

    #[test]
    fn control_characters_and_what_is_not_utf8_become_harmless() {
        let introduction = introduce(&[("x-snakepit-worker-id", b" a\tb\xff\xc2\x9b31mc ")], "10.0.0.7:5000");
        assert_eq!(&*introduction.id, "a_b\u{fffd}_31mc");
    }

    #[test]
    fn empty_headers_are_no_headers() {
        let introduction =
            introduce(&[("x-snakepit-worker-id", b"  "), ("x-snakepit-pool", b"")], "10.0.0.7:5000");
        assert_eq!(&*introduction.id, "10.0.0.7:5000/3");
        assert_eq!(introduction.identity.pool, None);
    }

    #[test]
    fn long_headers_are_cut_and_complained_about() {
        let introduction = introduce(&[("x-snakepit-pool", &[b'p'; 300])], "10.0.0.7:5000");
        assert_eq!(introduction.identity.pool.as_deref(), Some(&*"p".repeat(255)));
        assert_eq!(introduction.complaints, ["header x-snakepit-pool is cut to 255 characters"]);
    }

    #[test]
    fn a_pid_that_is_none_is_left_out() {
        for pid in ["x", "-1", "4294967296"] {
            let introduction = introduce(&[("x-snakepit-python-pid", pid.as_bytes())], "10.0.0.7:5000");
            assert_eq!(introduction.pid, None);
            assert_eq!(introduction.complaints.len(), 1, "{pid}");
        }
    }

    #[test]
    fn a_dialect_that_nobody_knows_is_not_guessed() {
        let introduction = introduce(&[("x-snakepit-dialect", b"v2")], "10.0.0.7:5000");
        assert_eq!(introduction.identity.dialect, Dialect::Unknown);
        assert_eq!(introduction.complaints.len(), 1);
    }

    fn introduce(headers: &[(&'static str, &[u8])], peer: &str) -> Introduction {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (http::HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
            })
            .collect();
        let ends = Ends { peer: peer.parse().unwrap(), local: Some("192.168.0.2:50061".parse().unwrap()) };
        introduction(&headers, ends, StreamId(3), &"bridge-host".into())
    }
}
