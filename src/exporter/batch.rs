//! Collects encoded items (spans, metrics, log records) of many workers into export requests: many resources, one request.
//!
//! A batch is full when it holds `max_items`, when the next item would take it past that or past `max_bytes`, or when
//! `delay` has passed since its first item. What is taken at a time may count several items: a metric counts its points. The requests of all signals are built alike: resources in field 1, with their scopes in
//! field 2, with their items in field 2. This part does no input or output; it is told the time.
//!
//! Laws: every item that was taken is in exactly one batch; no batch exceeds either bound, unless one metric has more
//! points; the items of one worker keep their order.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use hashbrown::HashMap;
use prost::Message;

use crate::exporter::encode::{varint_len, write_varint};
use crate::exporter::resource::{ResourceSettings, Resources, scope};
use crate::store::{Commit, Origin, Origins};
use crate::time::Monotonic;
use crate::worker::Source;

/// Default of [`BatchSettings::max_items`], from the OpenTelemetry specification.
pub const DEFAULT_MAX_BATCH_ITEMS: u64 = 512;
/// Default of [`BatchSettings::delay`], from the OpenTelemetry specification.
pub const DEFAULT_SCHEDULE_DELAY: Duration = Duration::from_secs(5);
/// Default of [`BatchSettings::max_bytes`]: gRPC servers, the Collector's among them, receive up to 4 MiB.
pub const DEFAULT_MAX_BATCH_BYTES: usize = (4 << 20) - (64 << 10);

/// Buffers that are kept for the next batch's workers, and the bytes that each may hold: growing them anew for each batch
/// would copy every span once more.
const MAX_SPARE_BUFFERS: usize = 32;
const MAX_SPARE_BYTES: usize = 256 << 10;

/// Upper bound of what stands around one worker's items in a request, its resource and the scope apart: the keys and
/// lengths of `ResourceSpans`, `Resource` and `ScopeSpans`.
const GROUP_OVERHEAD_BYTES: usize = 3 * (1 + 5);

/// When a batch is full.
#[derive(Debug, Clone)]
pub struct BatchSettings {
    /// Items a request, where they are bounded. At least 1.
    pub max_items: Option<u64>,
    /// Bytes a request, uncompressed.
    pub max_bytes: usize,
    /// The longest that an item waits for others.
    pub delay: Duration,
}

impl Default for BatchSettings {
    fn default() -> Self {
        Self {
            max_items: Some(DEFAULT_MAX_BATCH_ITEMS),
            max_bytes: DEFAULT_MAX_BATCH_BYTES,
            delay: DEFAULT_SCHEDULE_DELAY,
        }
    }
}

/// A request, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// An encoded `Export…ServiceRequest`.
    pub body: Bytes,
    /// The items in it; at least 1.
    pub items: u64,
    /// What must be durable before it is sent.
    pub needs: Commit,
    /// Whose outputs they are.
    pub origins: Origins,
}

/// Where an item comes from, as far as the disk is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Provenance {
    /// The shard and the number of its output; nothing where nobody will ask again.
    pub origin: Option<(u16, u64)>,
    /// What holds the inputs that it was made of. It is not sent before that is durable.
    pub needs: Commit,
}

/// An item that no request can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("one item of {item_bytes} bytes does not fit into a request of {max_bytes}")]
pub struct ItemTooLarge {
    /// Its size, with its resource.
    pub item_bytes: usize,
    /// The bound.
    pub max_bytes: usize,
}

/// The batch being filled.
#[derive(Debug)]
pub struct Batcher {
    settings: BatchSettings,
    /// Bytes that only an item that is larger alone may take a batch past.
    fills_at: usize,
    resources: Resources,
    /// The encoded `InstrumentationScope`, as field 1 of `ScopeSpans`.
    scope_field: Vec<u8>,
    groups: Vec<Group>,
    /// Where a source's group is, by its serial.
    index: HashMap<u64, usize>,
    spare: Vec<Vec<u8>>,
    items: u64,
    needs: Commit,
    origins: Origins,
    /// Upper bound of the request's size.
    size_bytes: usize,
    /// When the first item has waited long enough.
    due: Option<Monotonic>,
}

/// The items of one worker in the batch being filled.
#[derive(Debug)]
struct Group {
    serial: u64,
    resource: Bytes,
    items: Vec<u8>,
}

impl Batcher {
    /// Nothing is collected yet.
    #[must_use]
    pub fn new(mut settings: BatchSettings, resources: ResourceSettings) -> Self {
        settings.max_items = settings.max_items.map(|max| max.max(1));
        let mut scope_field = vec![0x0a];
        scope().encode_length_delimited(&mut scope_field).expect("a vector grows");
        Self {
            settings,
            fills_at: usize::MAX,
            resources: Resources::new(resources),
            scope_field,
            groups: Vec::new(),
            index: HashMap::new(),
            spare: Vec::new(),
            items: 0,
            needs: Commit::default(),
            origins: Origins::new(),
            size_bytes: 0,
            due: None,
        }
    }

    /// Takes an element of its scope, key and length included, as [`encode`](crate::exporter::encode) writes it, that counts
    /// `items`. Returns the batches that are full: the one that has no room for it, the one that it fills.
    ///
    /// # Errors
    /// If the element alone exceeds the byte bound. Nothing changes then.
    pub fn push(
        &mut self,
        source: &Source,
        element: &[u8],
        items: u64,
        provenance: Provenance,
        now: Monotonic,
    ) -> Result<[Option<Batch>; 2], ItemTooLarge> {
        let mut group = self.group_of(source);
        let mut resource = Bytes::new();
        let mut added = element.len();
        if group.is_none() {
            resource = self.resources.encoded(source);
            added += self.group_bytes(&resource);
        }
        let mut before = None;
        let is_beyond = self.items > 0
            && (self.settings.max_items.is_some_and(|max| self.items + items > max)
                || self.size_bytes + added > self.fills_at);
        if is_beyond || self.size_bytes + added > self.settings.max_bytes {
            resource = self.resources.encoded(source);
            added = element.len() + self.group_bytes(&resource);
            if added > self.settings.max_bytes {
                return Err(ItemTooLarge { item_bytes: added, max_bytes: self.settings.max_bytes });
            }
            before = self.flush();
            group = None;
        }

        let at = group.unwrap_or_else(|| {
            self.index.insert(source.serial, self.groups.len());
            let items = self.spare.pop().unwrap_or_default();
            self.groups.push(Group { serial: source.serial, resource, items });
            self.groups.len() - 1
        });
        self.groups[at].items.extend_from_slice(element);
        Ok([before, self.note(items, added, provenance, now)])
    }

    /// Changes the bound of bytes, for what comes next.
    pub fn set_max_bytes(&mut self, max_bytes: usize) {
        self.settings.max_bytes = max_bytes;
    }

    /// Has batches of several items filled with so many bytes at most, whatever else a request may hold.
    pub fn set_fills_at(&mut self, bytes: usize) {
        self.fills_at = bytes;
    }

    /// What an item would add, its worker's resource included.
    #[must_use]
    pub fn cost(&mut self, source: &Source, item_bytes: usize) -> usize {
        if self.group_of(source).is_some() {
            return item_bytes;
        }
        let resource = self.resources.encoded(source);
        item_bytes + self.group_bytes(&resource)
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Monotonic> {
        self.due
    }

    /// The batch whose first item has waited long enough.
    pub fn handle_timeout(&mut self, now: Monotonic) -> Option<Batch> {
        if self.due.is_some_and(|due| due <= now) { self.flush() } else { None }
    }

    /// Whatever has been collected.
    pub fn flush(&mut self) -> Option<Batch> {
        if self.items == 0 {
            return None;
        }
        let mut body = BytesMut::with_capacity(self.size_bytes);
        for group in &self.groups {
            write_group(&mut body, group, &self.scope_field);
        }
        debug_assert!(body.len() <= self.size_bytes, "the size is an upper bound");
        for mut group in self.groups.drain(..) {
            group.items.clear();
            if self.spare.len() < MAX_SPARE_BUFFERS && group.items.capacity() <= MAX_SPARE_BYTES {
                self.spare.push(group.items);
            }
        }
        self.index.clear();
        self.size_bytes = 0;
        self.due = None;
        Some(Batch {
            body: body.freeze(),
            items: std::mem::take(&mut self.items),
            needs: std::mem::take(&mut self.needs),
            origins: std::mem::take(&mut self.origins),
        })
    }

    /// Items collected.
    #[must_use]
    pub fn items(&self) -> u64 {
        self.items
    }

    /// What they take.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Counts what was taken. Returns the batch if that makes it full.
    fn note(&mut self, items: u64, added: usize, provenance: Provenance, now: Monotonic) -> Option<Batch> {
        self.items += items;
        self.size_bytes += added;
        self.needs = self.needs.max(provenance.needs);
        if let Some((shard, ordinal)) = provenance.origin {
            extend(&mut self.origins, shard, ordinal);
        }
        self.due.get_or_insert_with(|| now.after(self.settings.delay));
        if self.settings.max_items.is_some_and(|max| self.items >= max) { self.flush() } else { None }
    }

    /// What a worker's first item adds to the request, apart from itself.
    fn group_bytes(&self, resource: &Bytes) -> usize {
        resource.len() + self.scope_field.len() + GROUP_OVERHEAD_BYTES
    }

    fn group_of(&self, source: &Source) -> Option<usize> {
        // Items come in runs of one worker.
        match self.groups.last() {
            Some(last) if last.serial == source.serial => Some(self.groups.len() - 1),
            _ => self.index.get(&source.serial).copied(),
        }
    }
}

/// One range a shard: its outputs come in order.
fn extend(origins: &mut Origins, shard: u16, ordinal: u64) {
    match origins.iter_mut().find(|origin| origin.shard == shard) {
        Some(origin) => {
            origin.ordinals.start = origin.ordinals.start.min(ordinal);
            origin.ordinals.end = origin.ordinals.end.max(ordinal + 1);
        }
        None => origins.push(Origin { shard, ordinals: ordinal..ordinal + 1 }),
    }
}

/// One `Resource…` with one `Scope…`.
fn write_group(body: &mut BytesMut, group: &Group, scope_field: &[u8]) {
    const GROUP: u8 = 0x0a;
    const RESOURCE: u8 = 0x0a;
    const SCOPE: u8 = 0x12;
    let scope_len = scope_field.len() + group.items.len();
    let resource_field_len = 1 + varint_len(group.resource.len() as u64) + group.resource.len();
    let scope_field_len = 1 + varint_len(scope_len as u64) + scope_len;

    let mut head = Vec::with_capacity(GROUP_OVERHEAD_BYTES);
    head.push(GROUP);
    write_varint(&mut head, (resource_field_len + scope_field_len) as u64);
    head.push(RESOURCE);
    write_varint(&mut head, group.resource.len() as u64);
    body.put_slice(&head);
    body.put_slice(&group.resource);

    head.clear();
    head.push(SCOPE);
    write_varint(&mut head, scope_len as u64);
    body.put_slice(&head);
    body.put_slice(scope_field);
    body.put_slice(&group.items);
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

    fn batcher(max_items: u64, max_bytes: usize) -> Batcher {
        Batcher::new(
            BatchSettings { max_items: Some(max_items), max_bytes, delay: Duration::from_secs(5) },
            ResourceSettings::default(),
        )
    }

    fn push(batcher: &mut Batcher, serial: u64, name: &str) -> Result<Vec<Batch>, ItemTooLarge> {
        let source = source(serial);
        let mut span = Vec::new();
        write_span(&mut span, &span_of(&source, name));
        Ok(batcher.push(&source, &span, 1, Provenance::default(), START)?.into_iter().flatten().collect())
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
        assert_eq!(batch.items, 3);
        assert_eq!(batcher.flush(), None);
        assert_eq!((batcher.items(), batcher.size_bytes()), (0, 0));
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
    fn a_batch_waits_for_its_delay_from_its_first_item() {
        let mut batcher = batcher(100, DEFAULT_MAX_BATCH_BYTES);
        assert_eq!(batcher.poll_timeout(), None);
        push(&mut batcher, 1, "a").unwrap();
        let due = START.after(Duration::from_secs(5));
        assert_eq!(batcher.poll_timeout(), Some(due));
        assert_eq!(batcher.handle_timeout(Monotonic(due.0 - 1)), None);
        assert_eq!(batcher.handle_timeout(due).map(|batch| batch.items), Some(1));
        assert_eq!(batcher.handle_timeout(due), None);
    }

    #[test]
    fn an_item_without_room_goes_into_the_next_batch() {
        let mut batcher = batcher(100, 1000);
        push(&mut batcher, 1, &"a".repeat(300)).unwrap();
        let full = push(&mut batcher, 1, &"b".repeat(400)).unwrap();
        assert_eq!(full.iter().map(names).collect::<Vec<_>>(), [["a".repeat(300)]]);
        assert_eq!(batcher.flush().as_ref().map(names), Some(vec!["b".repeat(400)]));
    }

    #[test]
    fn an_item_beyond_the_bound_alone_is_refused_and_changes_nothing() {
        let mut batcher = batcher(100, 1000);
        push(&mut batcher, 1, "a").unwrap();
        let before = batcher.size_bytes();
        assert!(push(&mut batcher, 1, &"b".repeat(1000)).is_err());
        assert!(push(&mut batcher, 2, &"b".repeat(1000)).is_err());
        assert_eq!(batcher.size_bytes(), before);
        assert_eq!(batcher.flush().as_ref().map(names), Some(vec!["a".to_owned()]));
    }

    /// Points count one by one, and a metric is never cut: it goes into the next batch where it would take this one past its
    /// bound, and has one of its own where it exceeds the bound alone.
    #[test]
    fn what_counts_several_items_stays_whole() {
        let mut batcher = batcher(5, DEFAULT_MAX_BATCH_BYTES);
        let mut push = |items| {
            let full = batcher.push(&source(1), &[0x12, 0], items, Provenance::default(), START).unwrap();
            full.into_iter().flatten().map(|batch| batch.items).collect::<Vec<u64>>()
        };
        assert!(push(3).is_empty());
        assert_eq!(push(3), [3]);
        assert_eq!(push(2), [5]);
        assert!(push(1).is_empty());
        assert_eq!(push(9), [1, 9]);
        assert_eq!(batcher.flush(), None);
    }

    #[test]
    fn batches_may_be_smaller_than_requests_where_their_items_are() {
        let mut batcher = batcher(100, 5000);
        batcher.set_fills_at(1000);
        let mut sizes = Vec::new();
        for length in [300, 300, 300, 3000, 300, 300] {
            let full = push(&mut batcher, 1, &"a".repeat(length)).unwrap();
            sizes.extend(full.iter().map(|batch| batch.body.len()));
        }
        sizes.extend(batcher.flush().map(|batch| batch.body.len()));
        let large: Vec<_> = sizes.iter().filter(|size| **size > 1000).collect();
        assert!(large.len() == 1 && *large[0] > 3000 && sizes.len() >= 4, "{sizes:?}");
        assert!(push(&mut batcher, 1, &"b".repeat(5000)).is_err());
    }

    #[test]
    fn without_a_bound_of_items_the_bytes_alone_decide() {
        let mut batcher = batcher(1, 1000);
        batcher.settings.max_items = None;
        let mut push = |items| {
            let full = batcher.push(&source(1), &[0; 100], items, Provenance::default(), START).unwrap();
            full.into_iter().flatten().map(|batch| batch.items).collect::<Vec<u64>>()
        };
        let full: Vec<_> = (0..10).map(|_| push(1_000_000)).collect();
        let filled: Vec<_> = full.iter().flatten().collect();
        assert!(filled.len() < 4 && filled.iter().all(|items| **items >= 3_000_000), "{filled:?}");
    }

    proptest! {
        /// Every span that was taken is in exactly one batch, within both bounds, each worker's in order.
        #[test]
        fn every_span_is_in_one_batch_within_the_bounds(
            spans in vec((0_u64..4, 0_usize..700), 0..60),
            max_items in 1_u64..10,
        ) {
            let mut batcher = batcher(max_items, 1200);
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
                prop_assert!(batch.items <= max_items);
                prop_assert_eq!(batch.items, names(batch).len() as u64);
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
