//! Trace and span ids: given, taken from a correlation id, or derived.
//!
//! Nothing here is random. An id that nobody gave is a stable hash of what identifies the span, so the same events give
//! the same ids, on a replay after a crash as on another machine. `docs/ids.md` fixes the byte layouts, with vectors
//! that the tests below check.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::engine::span::{SpanId, TraceFlags, TraceId};
use crate::event;
use crate::worker::WorkerKey;

/// W3C allows 512 characters of tracestate to be relied upon.
const MAX_TRACE_STATE_BYTES: usize = 512;

/// A span's place in a trace, as it is sent on to its children.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpanContext {
    pub(crate) trace_id: TraceId,
    pub(crate) span_id: SpanId,
    pub(crate) flags: TraceFlags,
    pub(crate) state: Option<Arc<str>>,
}

/// A W3C `traceparent` with its `tracestate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TraceParent {
    pub(crate) trace_id: TraceId,
    pub(crate) parent_id: SpanId,
    pub(crate) flags: TraceFlags,
    pub(crate) state: Option<Arc<str>>,
}

/// Field 16, valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExplicitIdentity {
    pub(crate) context: SpanContext,
    pub(crate) parent: Option<SpanId>,
}

pub(crate) fn id_bytes<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    let id: [u8; N] = bytes.try_into().ok()?;
    (id != [0; N]).then_some(id)
}

fn trace_state(text: &str) -> Option<Arc<str>> {
    (!text.is_empty()
        && text.len() <= MAX_TRACE_STATE_BYTES
        && text.bytes().all(|b| (0x20..0x7f).contains(&b)))
    .then(|| Arc::from(text))
}

impl ExplicitIdentity {
    /// `None` if a length is wrong or an id is all zero.
    pub(crate) fn parse(sent: &event::SpanIdentity<'_>) -> Option<Self> {
        let parent = match sent.parent_span_id {
            [] => None,
            bytes => Some(SpanId(id_bytes(bytes)?)),
        };
        // Most clients cannot tell a 0 from nothing said; taken at its word, all of their spans would vanish.
        let flags = match sent.trace_flags {
            None | Some(0) => TraceFlags::SAMPLED,
            Some(flags) => TraceFlags(flags as u8).decided(),
        };
        let context = SpanContext {
            trace_id: TraceId(id_bytes(sent.trace_id)?),
            span_id: SpanId(id_bytes(sent.span_id)?),
            flags,
            state: trace_state(sent.trace_state),
        };
        Some(Self { context, parent })
    }
}

impl TraceParent {
    /// Reads a `traceparent` header value by W3C Trace Context, section 3.2: version 00 exactly, later versions by
    /// their known beginning.
    pub(crate) fn parse(traceparent: &str, tracestate: &str) -> Option<Self> {
        let bytes = traceparent.as_bytes();
        let (version, rest) = (bytes.get(..2)?, bytes.get(2..)?);
        let [version] = hex_bytes::<1>(version)?;
        let well_ended = match version {
            0xff => false,
            0 => rest.len() == 53,
            _ => rest.len() == 53 || rest.get(53) == Some(&b'-'),
        };
        let dashes =
            rest.first() == Some(&b'-') && rest.get(33) == Some(&b'-') && rest.get(50) == Some(&b'-');
        if !well_ended || !dashes {
            return None;
        }
        let trace_id = hex_bytes::<16>(&rest[1..33])?;
        let parent_id = hex_bytes::<8>(&rest[34..50])?;
        let [flags] = hex_bytes::<1>(&rest[51..53])?;
        Some(Self {
            trace_id: TraceId(id_bytes(&trace_id)?),
            parent_id: SpanId(id_bytes(&parent_id)?),
            flags: TraceFlags(flags),
            state: trace_state(tracestate),
        })
    }
}

/// Lower-case hex digits only, as W3C asks.
pub(crate) fn hex_bytes<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Some(bytes)
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// The trace id that a correlation id *is*: 32 hex digits or a dashed UUID, in any case. `None` if it has to be hashed.
pub(crate) fn verbatim_trace_id(correlation_id: &str) -> Option<TraceId> {
    let bytes = correlation_id.as_bytes();
    let mut digits = [0; 32];
    match bytes.len() {
        32 => digits.copy_from_slice(bytes),
        36 => {
            if [8, 13, 18, 23].iter().any(|&at| bytes[at] != b'-') {
                return None;
            }
            let plain = bytes.iter().enumerate().filter(|(at, _)| ![8, 13, 18, 23].contains(at));
            for (digit, (_, byte)) in digits.iter_mut().zip(plain) {
                *digit = *byte;
            }
        }
        _ => return None,
    }
    digits.make_ascii_lowercase();
    id_bytes(&hex_bytes::<16>(&digits)?).map(TraceId)
}

/// The trace id of any other correlation id: the first 16 bytes of the SHA-256 of its UTF-8 bytes.
///
/// With `epoch`, the epoch's number in decimal, after a line feed, is hashed as well.
pub(crate) fn hashed_trace_id(correlation_id: &str, epoch: Option<i64>) -> TraceId {
    let mut hasher = Sha256::new();
    hasher.update(correlation_id.as_bytes());
    if let Some(epoch) = epoch {
        hasher.update(format!("\n{epoch}").as_bytes());
    }
    let digest = hasher.finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&digest[..16]);
    non_zero_trace(id)
}

fn non_zero_trace(mut id: [u8; 16]) -> TraceId {
    if id == [0; 16] {
        id[15] = 1;
    }
    TraceId(id)
}

/// What a derived id is derived from.
#[derive(Debug, Clone)]
pub(crate) struct Derivation {
    bytes: Bytes,
}

/// Usual derivations need no heap.
type Bytes = SmallVec<[u8; 192]>;

/// The beginning of every derivation of one worker, computed once.
pub(crate) fn worker_prefix(worker: &WorkerKey) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(worker.node.len() + worker.id.len() + 8);
    bytes.extend_from_slice(worker.node.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(worker.id.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&worker.pid.unwrap_or(0).to_be_bytes());
    bytes
}

impl Derivation {
    /// Node, 0, id, 0, pid (4 bytes, 0 if unknown), trace id (16 bytes, zero if it is to be derived too), operation,
    /// 0, start (8 bytes); all integers big-endian.
    pub(crate) fn new(
        worker_prefix: &[u8],
        trace_id: Option<TraceId>,
        operation: &str,
        start_ns: i64,
    ) -> Self {
        let mut bytes = Bytes::new();
        bytes.extend_from_slice(worker_prefix);
        bytes.extend_from_slice(&trace_id.map_or([0; 16], |id| id.0));
        bytes.extend_from_slice(operation.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(&start_ns.to_be_bytes());
        Self { bytes }
    }

    /// Equal spans have equal bases; their ordinals tell them apart.
    pub(crate) fn base(&self) -> u64 {
        xxh3_64(&self.bytes)
    }

    /// XXH3-64 of the derivation, the ordinal (4 bytes) and `suffix`, big-endian.
    pub(crate) fn span_id(&self, ordinal: u32, suffix: &str) -> SpanId {
        let id = xxh3_64(&self.with_ordinal(ordinal, suffix));
        SpanId(if id == 0 { 1 } else { id }.to_be_bytes())
    }

    /// XXH3-128 of the derivation, the ordinal (4 bytes) and `trace`, big-endian.
    pub(crate) fn trace_id(&self, ordinal: u32) -> TraceId {
        non_zero_trace(xxh3_128(&self.with_ordinal(ordinal, "trace")).to_be_bytes())
    }

    fn with_ordinal(&self, ordinal: u32, suffix: &str) -> Bytes {
        let mut bytes = self.bytes.clone();
        bytes.extend_from_slice(&ordinal.to_be_bytes());
        bytes.extend_from_slice(suffix.as_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_NS: i64 = 1_790_000_000_000_000_000;
    const OPERATION: &str = "snakepit.python.tool.execution";

    fn worker(pid: Option<u32>) -> Vec<u8> {
        worker_prefix(&WorkerKey { node: Arc::from("node-1"), id: Arc::from("worker_1"), pid })
    }

    fn trace(id: Option<TraceId>) -> String {
        id.map_or_else(|| "none".to_owned(), |id| id.to_string())
    }

    #[test]
    fn hashed_trace_ids_are_those_of_the_documentation() {
        assert_eq!(hashed_trace_id("abc-123", None).to_string(), "5942d94f524882e0f29bf0a1e5a6dcc9");
        assert_eq!(hashed_trace_id("Anfrage-ü", None).to_string(), "63bd38a4879062de404070c475444dce");
        assert_eq!(hashed_trace_id("abc-123", Some(497_222)).to_string(), "c98627eb3c22b576e047a3848050a81b");
    }

    #[test]
    fn a_correlation_id_that_is_a_trace_id_stands_as_it_is() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace(verbatim_trace_id(id)), id);
        assert_eq!(trace(verbatim_trace_id(&id.to_uppercase())), id);
        assert_eq!(trace(verbatim_trace_id("4bf92f35-77b3-4da6-a3ce-929d0e0e4736")), id);
        for other in [
            "",
            "abc-123",
            "4bf92f3577b34da6a3ce929d0e0e473",
            "4bf92f3577b34da6a3ce929d0e0e473x",
            &"0".repeat(32),
        ] {
            assert_eq!(trace(verbatim_trace_id(other)), "none", "{other:?}");
        }
        assert_eq!(trace(verbatim_trace_id("4bf92f357-7b3-4da6-a3ce-929d0e0e4736")), "none");
        assert_eq!(trace(verbatim_trace_id("4bf92f35-77b3-4da6-a3ce-929d0e0eü36")), "none");
    }

    #[test]
    fn derived_ids_are_those_of_the_documentation() {
        let root = hashed_trace_id("abc-123", None);
        let derivation = Derivation::new(&worker(Some(4711)), Some(root), OPERATION, START_NS);
        assert_eq!(
            hex::encode(&derivation.bytes),
            "6e6f64652d3100776f726b65725f3100000012675942d94f524882e0f29bf0a1e5a6dcc9\
             736e616b657069742e707974686f6e2e746f6f6c2e657865637574696f6e0018d75b8423f30000"
        );
        assert_eq!(derivation.span_id(0, "").to_string(), "3c0e5cb219edd0f8");
        assert_eq!(derivation.span_id(1, "").to_string(), "b611e889bcc84a50");
        assert_eq!(derivation.span_id(1, "late_end").to_string(), "169aa51dd6e58ff3");

        let alone = Derivation::new(&worker(None), None, OPERATION, START_NS);
        assert_eq!(alone.trace_id(0).to_string(), "399d9f89ef3652656a656960c204f1e7");
        assert_eq!(alone.span_id(0, "").to_string(), "b74800e2d4425814");
    }

    #[test]
    fn traceparents_are_read_as_w3c_says() {
        let (trace_id, parent_id) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let parent = TraceParent::parse(&format!("00-{trace_id}-{parent_id}-00"), "vendor=1").unwrap();
        assert_eq!(parent.trace_id.to_string(), trace_id);
        assert_eq!(parent.parent_id.to_string(), parent_id);
        assert_eq!((parent.flags, parent.state.as_deref()), (TraceFlags(0), Some("vendor=1")));

        let is_read = |text: &str| TraceParent::parse(text, "").is_some();
        assert!(is_read(&format!("cc-{trace_id}-{parent_id}-01-what-comes-later")));
        assert!(!is_read(&format!("00-{trace_id}-{parent_id}-01-")), "version 00 has nothing more");
        assert!(!is_read(&format!("ff-{trace_id}-{parent_id}-01")), "there is no version ff");
        assert!(!is_read(&format!("00-{}-{parent_id}-01", trace_id.to_uppercase())), "lower case only");
        assert!(!is_read(&format!("00-{}-{parent_id}-01", "0".repeat(32))));
        assert!(!is_read(&format!("00-{trace_id}-{}-01", "0".repeat(16))));
        assert!(!is_read("00-4bf9") && !is_read("ü0") && !is_read(""));
    }

    #[test]
    fn identity_is_valid_or_none() {
        let (trace_id, span_id) = ([7; 16], [8; 8]);
        let sent =
            event::SpanIdentity { trace_id: &trace_id, span_id: &span_id, ..event::SpanIdentity::default() };
        let identity = ExplicitIdentity::parse(&sent).unwrap();
        assert_eq!((identity.context.trace_id.0, identity.context.span_id.0), (trace_id, span_id));
        assert_eq!((identity.parent, identity.context.flags), (None, TraceFlags::SAMPLED));

        let parse = |sent: &event::SpanIdentity<'_>| ExplicitIdentity::parse(sent);
        assert_eq!(parse(&event::SpanIdentity { trace_id: &[7; 15], ..sent }), None);
        assert_eq!(parse(&event::SpanIdentity { span_id: &[0; 8], ..sent }), None);
        assert_eq!(parse(&event::SpanIdentity { parent_span_id: &[1; 7], ..sent }), None);
    }
}
