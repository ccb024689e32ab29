//! Collects encoded spans of many workers into export requests: many resources, one request.
//!
//! A batch is full when it holds `max_spans`, when the next span would take it past `max_bytes`, or when `delay` has
//! passed since its first span. This part does no input or output; it is told the time.
//!
//! Laws: every span that was taken is in exactly one batch; no batch exceeds either bound; the spans of one worker keep
//! their order.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use hashbrown::HashMap;
use prost::Message;

use crate::exporter::encode::{varint_len, write_varint};
use crate::exporter::resource::{ResourceSettings, Resources, scope};
use crate::time::Monotonic;
use crate::worker::Source;

/// Default of [`BatchSettings::max_spans`], from the OpenTelemetry specification.
pub const DEFAULT_MAX_BATCH_SPANS: u64 = 512;
/// Default of [`BatchSettings::delay`], from the OpenTelemetry specification.
pub const DEFAULT_SCHEDULE_DELAY: Duration = Duration::from_secs(5);
/// Default of [`BatchSettings::max_bytes`]: gRPC servers, the Collector's among them, receive up to 4 MiB.
pub const DEFAULT_MAX_BATCH_BYTES: usize = (4 << 20) - (64 << 10);

/// Upper bound of what stands around one worker's spans in a request, its resource and the scope apart: the keys and
/// lengths of `ResourceSpans`, `Resource` and `ScopeSpans`.
const GROUP_OVERHEAD_BYTES: usize = 3 * (1 + 5);

/// When a batch is full.
#[derive(Debug, Clone)]
pub struct BatchSettings {
    /// Spans a request. At least 1.
    pub max_spans: u64,
    /// Bytes a request, uncompressed.
    pub max_bytes: usize,
    /// The longest that a span waits for others.
    pub delay: Duration,
}

impl Default for BatchSettings {
    fn default() -> Self {
        Self {
            max_spans: DEFAULT_MAX_BATCH_SPANS,
            max_bytes: DEFAULT_MAX_BATCH_BYTES,
            delay: DEFAULT_SCHEDULE_DELAY,
        }
    }
}

/// A request, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// An encoded `ExportTraceServiceRequest`.
    pub body: Bytes,
    /// The spans in it; at least 1.
    pub spans: u64,
}

/// A span that no request can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("one span of {span_bytes} bytes does not fit into a request of {max_bytes}")]
pub struct SpanTooLarge {
    /// Its size, with its resource.
    pub span_bytes: usize,
    /// The bound.
    pub max_bytes: usize,
}

/// The batch being filled.
#[derive(Debug)]
pub struct Batcher {
    settings: BatchSettings,
    resources: Resources,
    /// The encoded `InstrumentationScope`, as field 1 of `ScopeSpans`.
    scope_field: Vec<u8>,
    groups: Vec<Group>,
    /// Where a source's group is, by its serial.
    index: HashMap<u64, usize>,
    spans: u64,
    /// Upper bound of the request's size.
    size_bytes: usize,
    /// When the first span has waited long enough.
    due: Option<Monotonic>,
}

/// The spans of one worker in the batch being filled.
#[derive(Debug)]
struct Group {
    serial: u64,
    resource: Bytes,
    spans: Vec<u8>,
}

impl Batcher {
    /// Nothing is collected yet.
    #[must_use]
    pub fn new(mut settings: BatchSettings, resources: ResourceSettings) -> Self {
        settings.max_spans = settings.max_spans.max(1);
        let mut scope_field = vec![0x0a];
        scope().encode_length_delimited(&mut scope_field).expect("a vector grows");
        Self {
            settings,
            resources: Resources::new(resources),
            scope_field,
            groups: Vec::new(),
            index: HashMap::new(),
            spans: 0,
            size_bytes: 0,
            due: None,
        }
    }

    /// Takes a span as [`write_span`](crate::exporter::encode::write_span) wrote it. Returns the batches that are full:
    /// the one that has no room for it, the one that it fills.
    ///
    /// # Errors
    /// If the span alone exceeds the byte bound. Nothing changes then.
    pub fn push(
        &mut self,
        source: &Source,
        span: &[u8],
        now: Monotonic,
    ) -> Result<[Option<Batch>; 2], SpanTooLarge> {
        let mut resource = Bytes::new();
        let mut added = span.len();
        if self.group_of(source).is_none() {
            resource = self.resources.encoded(source);
            added += self.group_bytes(&resource);
        }
        let mut before = None;
        if self.size_bytes + added > self.settings.max_bytes {
            resource = self.resources.encoded(source);
            added = span.len() + self.group_bytes(&resource);
            if added > self.settings.max_bytes {
                return Err(SpanTooLarge { span_bytes: added, max_bytes: self.settings.max_bytes });
            }
            before = self.flush();
        }

        let at = self.group_of(source).unwrap_or_else(|| {
            self.index.insert(source.serial, self.groups.len());
            self.groups.push(Group { serial: source.serial, resource, spans: Vec::new() });
            self.groups.len() - 1
        });
        self.groups[at].spans.extend_from_slice(span);
        self.spans += 1;
        self.size_bytes += added;
        self.due.get_or_insert_with(|| now.after(self.settings.delay));
        let full = if self.spans >= self.settings.max_spans { self.flush() } else { None };
        Ok([before, full])
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        self.due
    }

    /// The batch whose first span has waited long enough.
    pub fn handle_timeout(&mut self, now: Monotonic) -> Option<Batch> {
        if self.due.is_some_and(|due| due <= now) { self.flush() } else { None }
    }

    /// Whatever has been collected.
    pub fn flush(&mut self) -> Option<Batch> {
        if self.spans == 0 {
            return None;
        }
        let mut body = BytesMut::with_capacity(self.size_bytes);
        for group in &self.groups {
            write_group(&mut body, group, &self.scope_field);
        }
        debug_assert!(body.len() <= self.size_bytes, "the size is an upper bound");
        let batch = Batch { body: body.freeze(), spans: self.spans };
        self.groups.clear();
        self.index.clear();
        self.spans = 0;
        self.size_bytes = 0;
        self.due = None;
        Some(batch)
    }

    /// Spans collected.
    #[must_use]
    pub fn spans(&self) -> u64 {
        self.spans
    }

    /// What they take.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// What a worker's first span adds to the request, apart from itself.
    fn group_bytes(&self, resource: &Bytes) -> usize {
        resource.len() + self.scope_field.len() + GROUP_OVERHEAD_BYTES
    }

    fn group_of(&self, source: &Source) -> Option<usize> {
        // Spans come in runs of one worker.
        match self.groups.last() {
            Some(last) if last.serial == source.serial => Some(self.groups.len() - 1),
            _ => self.index.get(&source.serial).copied(),
        }
    }
}

/// One `ResourceSpans` with one `ScopeSpans`.
fn write_group(body: &mut BytesMut, group: &Group, scope_field: &[u8]) {
    const RESOURCE_SPANS: u8 = 0x0a;
    const RESOURCE: u8 = 0x0a;
    const SCOPE_SPANS: u8 = 0x12;
    let scope_spans_len = scope_field.len() + group.spans.len();
    let resource_field_len = 1 + varint_len(group.resource.len() as u64) + group.resource.len();
    let scope_spans_field_len = 1 + varint_len(scope_spans_len as u64) + scope_spans_len;

    let mut head = Vec::with_capacity(GROUP_OVERHEAD_BYTES);
    head.push(RESOURCE_SPANS);
    write_varint(&mut head, (resource_field_len + scope_spans_field_len) as u64);
    head.push(RESOURCE);
    write_varint(&mut head, group.resource.len() as u64);
    body.put_slice(&head);
    body.put_slice(&group.resource);

    head.clear();
    head.push(SCOPE_SPANS);
    write_varint(&mut head, scope_spans_len as u64);
    body.put_slice(&head);
    body.put_slice(scope_field);
    body.put_slice(&group.spans);
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::exporter::encode::write_span;
    use crate::exporter::resource::resource;
    use crate::exporter::testing::{plain_span, source, span_of};

    const START: Monotonic = Monotonic(1_000_000_000);

    fn batcher(max_spans: u64, max_bytes: usize) -> Batcher {
        Batcher::new(
            BatchSettings { max_spans, max_bytes, delay: Duration::from_secs(5) },
            ResourceSettings::default(),
        )
    }

    fn push(batcher: &mut Batcher, serial: u64, name: &str) -> Result<Vec<Batch>, SpanTooLarge> {
        let source = source(serial);
        let mut span = Vec::new();
        write_span(&mut span, &span_of(&source, name));
        Ok(batcher.push(&source, &span, START)?.into_iter().flatten().collect())
    }

    fn names(batch: &Batch) -> Vec<String> {
        let request = ExportTraceServiceRequest::decode(batch.body.clone()).unwrap();
        request
            .resource_spans
            .into_iter()
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans)
            .map(|span| span.name)
            .collect()
    }

    #[test]
    fn many_workers_share_one_request() {
        let mut batcher = batcher(100, DEFAULT_MAX_BATCH_BYTES);
        for (serial, name) in [(1, "a"), (2, "b"), (1, "c")] {
            assert_eq!(push(&mut batcher, serial, name), Ok(vec![]));
        }
        let batch = batcher.flush().unwrap();
        let resource_spans = |serial, names: &[&str]| ResourceSpans {
            resource: Some(resource(&source(serial), &ResourceSettings::default())),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope()),
                spans: names.iter().map(|name| plain_span(&span_of(&source(serial), name))).collect(),
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        };
        let expected = ExportTraceServiceRequest {
            resource_spans: vec![resource_spans(1, &["a", "c"]), resource_spans(2, &["b"])],
        };
        assert_eq!(ExportTraceServiceRequest::decode(batch.body.clone()).unwrap(), expected);
        assert_eq!(batch.spans, 3);
        assert_eq!(batcher.flush(), None);
        assert_eq!((batcher.spans(), batcher.size_bytes()), (0, 0));
    }

    #[test]
    fn a_batch_is_full_at_the_count() {
        let mut batcher = batcher(2, DEFAULT_MAX_BATCH_BYTES);
        assert_eq!(push(&mut batcher, 1, "a"), Ok(vec![]));
        let full = push(&mut batcher, 1, "b").unwrap();
        assert_eq!(full.iter().map(names).collect::<Vec<_>>(), [["a", "b"]]);
        assert_eq!(batcher.poll_timeout(), None);
    }

    #[test]
    fn a_batch_waits_for_its_delay_from_its_first_span() {
        let mut batcher = batcher(100, DEFAULT_MAX_BATCH_BYTES);
        assert_eq!(batcher.poll_timeout(), None);
        push(&mut batcher, 1, "a").unwrap();
        let due = START.after(Duration::from_secs(5));
        assert_eq!(batcher.poll_timeout(), Some(due));
        assert_eq!(batcher.handle_timeout(Monotonic(due.0 - 1)), None);
        assert_eq!(batcher.handle_timeout(due).map(|batch| batch.spans), Some(1));
        assert_eq!(batcher.handle_timeout(due), None);
    }

    #[test]
    fn a_span_without_room_goes_into_the_next_batch() {
        let mut batcher = batcher(100, 1000);
        push(&mut batcher, 1, &"a".repeat(300)).unwrap();
        let full = push(&mut batcher, 1, &"b".repeat(400)).unwrap();
        assert_eq!(full.iter().map(names).collect::<Vec<_>>(), [["a".repeat(300)]]);
        assert_eq!(batcher.flush().as_ref().map(names), Some(vec!["b".repeat(400)]));
    }

    #[test]
    fn a_span_beyond_the_bound_alone_is_refused_and_changes_nothing() {
        let mut batcher = batcher(100, 1000);
        push(&mut batcher, 1, "a").unwrap();
        let before = batcher.size_bytes();
        assert!(push(&mut batcher, 1, &"b".repeat(1000)).is_err());
        assert!(push(&mut batcher, 2, &"b".repeat(1000)).is_err());
        assert_eq!(batcher.size_bytes(), before);
        assert_eq!(batcher.flush().as_ref().map(names), Some(vec!["a".to_owned()]));
    }

    proptest! {
        /// Every span that was taken is in exactly one batch, within both bounds, each worker's in order.
        #[test]
        fn every_span_is_in_one_batch_within_the_bounds(
            spans in vec((0_u64..4, 0_usize..700), 0..60),
            max_spans in 1_u64..10,
        ) {
            let mut batcher = batcher(max_spans, 1200);
            let mut taken = Vec::new();
            let mut batches = Vec::new();
            for (number, (serial, name_len)) in spans.into_iter().enumerate() {
                let name = format!("{serial}:{number:04}:{}", "x".repeat(name_len));
                if let Ok(full) = push(&mut batcher, serial, &name) {
                    taken.push(name);
                    batches.extend(full);
                }
            }
            batches.extend(batcher.flush());
            for batch in &batches {
                prop_assert!(batch.body.len() <= 1200);
                prop_assert!(batch.spans <= max_spans);
                prop_assert_eq!(batch.spans, names(batch).len() as u64);
            }
            let mut sent: Vec<_> = batches.iter().flat_map(names).collect();
            for serial in 0..4 {
                let of = |names: &[String]| -> Vec<String> {
                    names.iter().filter(|name| name.starts_with(&format!("{serial}:"))).cloned().collect()
                };
                prop_assert_eq!(of(&sent), of(&taken));
            }
            sent.sort();
            taken.sort();
            prop_assert_eq!(sent, taken);
        }
    }
}
