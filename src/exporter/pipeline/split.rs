//! Cuts an encoded request into smaller ones, for a peer that finds it too large.
//!
//! A request is a list of resources (field 1), each with scopes (field 2), each with items (field 2); this holds for spans,
//! metrics and log records alike. The cut goes between items. Whatever else a resource or a scope says stands in every
//! piece that has items of it.
//!
//! Law: the pieces hold every item of the request once, in order, under its resource and scope; no piece exceeds the bound
//! unless it is one item.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::exporter::encode::{varint_len, write_varint};
use crate::exporter::signal::Signal;

/// Bytes of an item's name that the log is told.
const MAX_NAME_BYTES: usize = 255;

/// Upper bound of the key and the length of a field.
const FIELD_HEAD_BYTES: usize = 1 + 5;

const LENGTH: u64 = 2;

/// A part of a request: a whole request again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The encoded request.
    pub body: Bytes,
    /// The items in it.
    pub items: u64,
}

/// Bytes of the request.
type Span = Range<usize>;

/// What a resource or a scope says apart from what is below it, as it stands.
type Head = SmallVec<[Span; 2]>;

#[derive(Debug, Default)]
struct Parsed {
    resources: Vec<Head>,
    /// With the resource that each belongs to.
    scopes: Vec<(usize, Head)>,
    elements: Vec<Element>,
}

/// What is never cut: a span, a metric with its points, a log record.
#[derive(Debug)]
struct Element {
    scope: usize,
    /// With key and length.
    whole: Span,
    payload: Span,
}

#[derive(Debug)]
struct Field {
    number: u64,
    wire_type: u64,
    whole: Span,
    payload: Span,
}

/// Cuts `body` into pieces of at most `max_bytes`, or of one item. Less than two if it cannot be cut.
#[must_use]
pub fn split(signal: Signal, body: &[u8], max_bytes: usize) -> Vec<Piece> {
    let Some(parsed) = parse(body) else { return Vec::new() };
    let mut pieces = Vec::new();
    let mut first = 0;
    let mut size_bytes = 0;
    for (at, element) in parsed.elements.iter().enumerate() {
        let opens_scope = at == first || parsed.elements[at - 1].scope != element.scope;
        let mut added = element.whole.len();
        if opens_scope {
            added += parsed.envelope_bytes(element.scope);
        }
        if at > first && size_bytes + added > max_bytes {
            pieces.push(parsed.piece(signal, body, first..at));
            first = at;
            size_bytes = 0;
            added = element.whole.len() + parsed.envelope_bytes(element.scope);
        }
        size_bytes += added;
    }
    if first < parsed.elements.len() {
        pieces.push(parsed.piece(signal, body, first..parsed.elements.len()));
    }
    pieces
}

/// What the first item calls itself, where its signal has names.
#[must_use]
pub fn first_name(signal: Signal, body: &[u8]) -> Option<String> {
    let parsed = parse(body)?;
    let name_field = match signal {
        Signal::Traces => 5,
        Signal::Metrics => 1,
        Signal::Logs => 12,
    };
    let fields = fields(body, parsed.elements.first()?.payload.clone())?;
    let name = fields.into_iter().find(|field| field.number == name_field && field.wire_type == LENGTH)?;
    let end = name.payload.end.min(name.payload.start + MAX_NAME_BYTES);
    Some(String::from_utf8_lossy(&body[name.payload.start..end]).into_owned())
}

// === impl Parsed ===

impl Parsed {
    /// Upper bound of what stands around the items of a scope, if the scope and its resource are opened for them.
    fn envelope_bytes(&self, scope: usize) -> usize {
        let (resource, head) = &self.scopes[scope];
        len(&self.resources[*resource]) + len(head) + 2 * FIELD_HEAD_BYTES
    }

    fn piece(&self, signal: Signal, body: &[u8], elements: Range<usize>) -> Piece {
        let elements = &self.elements[elements];
        let mut out =
            Vec::with_capacity(elements.iter().map(|element| element.whole.len()).sum::<usize>() + 1024);
        for resource in
            elements.chunk_by(|left, right| self.scopes[left.scope].0 == self.scopes[right.scope].0)
        {
            self.write_resource(&mut out, body, resource);
        }
        let items = elements.iter().map(|element| items_in(signal, body, &element.payload)).sum();
        Piece { body: out.into(), items }
    }

    fn write_resource(&self, out: &mut Vec<u8>, body: &[u8], elements: &[Element]) {
        const RESOURCE: u8 = 1 << 3 | 2;
        const SCOPE: u8 = 2 << 3 | 2;
        let scopes = || elements.chunk_by(|left, right| left.scope == right.scope);
        let scope_len = |scope: &[Element]| {
            len(&self.scopes[scope[0].scope].1) + scope.iter().map(|item| item.whole.len()).sum::<usize>()
        };
        let head = &self.resources[self.scopes[elements[0].scope].0];
        let scopes_len: usize = scopes()
            .map(|scope| {
                let len = scope_len(scope);
                1 + varint_len(len as u64) + len
            })
            .sum();
        out.push(RESOURCE);
        write_varint(out, (len(head) + scopes_len) as u64);
        head.iter().for_each(|span| out.extend_from_slice(&body[span.clone()]));
        for scope in scopes() {
            out.push(SCOPE);
            write_varint(out, scope_len(scope) as u64);
            for span in &self.scopes[scope[0].scope].1 {
                out.extend_from_slice(&body[span.clone()]);
            }
            scope.iter().for_each(|item| out.extend_from_slice(&body[item.whole.clone()]));
        }
    }
}

fn len(head: &Head) -> usize {
    head.iter().map(ExactSizeIterator::len).sum()
}

// === Reading ===

/// Nothing if `body` is no protobuf.
fn parse(body: &[u8]) -> Option<Parsed> {
    let mut parsed = Parsed::default();
    for resource in fields(body, 0..body.len())? {
        if (resource.number, resource.wire_type) != (1, LENGTH) {
            continue;
        }
        let resource_at = parsed.resources.len();
        let mut head = Head::new();
        for scope in fields(body, resource.payload)? {
            if (scope.number, scope.wire_type) != (2, LENGTH) {
                head.push(scope.whole);
                continue;
            }
            let scope_at = parsed.scopes.len();
            let mut head = Head::new();
            for item in fields(body, scope.payload)? {
                if (item.number, item.wire_type) == (2, LENGTH) {
                    parsed.elements.push(Element {
                        scope: scope_at,
                        whole: item.whole,
                        payload: item.payload,
                    });
                } else {
                    head.push(item.whole);
                }
            }
            parsed.scopes.push((resource_at, head));
        }
        parsed.resources.push(head);
    }
    Some(parsed)
}

/// What the ledger counts: spans, log records, and of a metric its points.
fn items_in(signal: Signal, body: &[u8], element: &Span) -> u64 {
    match signal {
        Signal::Traces | Signal::Logs => 1,
        Signal::Metrics => {
            // Gauge, sum, histogram, exponential histogram, summary; the points are field 1 of each.
            let data = fields(body, element.clone()).unwrap_or_default();
            let data = data.into_iter().filter(|field| matches!(field.number, 5 | 7 | 9 | 10 | 11));
            let points = data.filter_map(|data| fields(body, data.payload)).flatten();
            points.filter(|point| (point.number, point.wire_type) == (1, LENGTH)).count() as u64
        }
    }
}

fn fields(body: &[u8], within: Span) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    let mut at = within.start;
    while at < within.end {
        let start = at;
        let key = read_varint(body, &mut at, within.end)?;
        let wire_type = key & 7;
        let payload = match wire_type {
            0 => {
                let start = at;
                read_varint(body, &mut at, within.end)?;
                start..at
            }
            1 => at..at.checked_add(8)?,
            LENGTH => {
                let len = usize::try_from(read_varint(body, &mut at, within.end)?).ok()?;
                at..at.checked_add(len)?
            }
            5 => at..at.checked_add(4)?,
            _ => return None,
        };
        if payload.end > within.end {
            return None;
        }
        at = payload.end;
        fields.push(Field { number: key >> 3, wire_type, whole: start..at, payload });
    }
    Some(fields)
}

fn read_varint(body: &[u8], at: &mut usize, end: usize) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        if *at >= end {
            return None;
        }
        let byte = body[*at];
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
    use opentelemetry_proto::tonic::metrics::v1::{
        Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data,
    };
    use opentelemetry_proto::tonic::resource::v1::Resource;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn span() -> impl Strategy<Value = Span> {
        ("[a-z]{0,300}", any::<u64>()).prop_map(|(name, start_time_unix_nano)| Span {
            name,
            start_time_unix_nano,
            ..Span::default()
        })
    }

    fn request() -> impl Strategy<Value = ExportTraceServiceRequest> {
        let scope = ("[a-z]{0,9}", vec(span(), 1..6)).prop_map(|(name, spans)| ScopeSpans {
            scope: Some(InstrumentationScope { name: name.clone(), ..InstrumentationScope::default() }),
            spans,
            schema_url: name,
        });
        let resource =
            (any::<u32>(), vec(scope, 1..4)).prop_map(|(dropped_attributes_count, scope_spans)| {
                ResourceSpans {
                    resource: Some(Resource { dropped_attributes_count, ..Resource::default() }),
                    scope_spans,
                    schema_url: dropped_attributes_count.to_string(),
                }
            });
        vec(resource, 1..4).prop_map(|resource_spans| ExportTraceServiceRequest { resource_spans })
    }

    type Whole = (Option<Resource>, String, Option<InstrumentationScope>, String, Span);

    /// Every span with all that stands around it.
    fn flat(body: &[u8]) -> Vec<Whole> {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        let mut spans = Vec::new();
        for resource in request.resource_spans {
            for scope in resource.scope_spans {
                for span in scope.spans {
                    spans.push((
                        resource.resource.clone(),
                        resource.schema_url.clone(),
                        scope.scope.clone(),
                        scope.schema_url.clone(),
                        span,
                    ));
                }
            }
        }
        spans
    }

    proptest! {
        /// The pieces hold every span once, in order, with its resource and scope, within the bound unless it is one.
        #[test]
        fn the_pieces_are_the_whole(request in request(), divisor in 1_usize..8) {
            let body = request.encode_to_vec();
            let max_bytes = body.len() / divisor;
            let pieces = split(Signal::Traces, &body, max_bytes);
            let spans: Vec<_> = pieces.iter().flat_map(|piece| flat(&piece.body)).collect();
            prop_assert_eq!(spans, flat(&body));
            for piece in &pieces {
                prop_assert_eq!(piece.items, flat(&piece.body).len() as u64);
                prop_assert!(piece.items == 1 || piece.body.len() <= max_bytes);
                prop_assert!(piece.body.len() <= body.len());
            }
            if divisor > 1 && flat(&body).len() > 1 {
                prop_assert!(pieces.len() > 1);
            }
        }

        /// Bytes that are no request are not cut, and nothing panics.
        #[test]
        fn anything_may_be_tried(body in vec(any::<u8>(), 0..200), max_bytes in 0_usize..100) {
            for signal in Signal::ALL {
                prop_assert!(split(signal, &body, max_bytes).len() <= body.len());
                prop_assert!(first_name(signal, &body).is_none_or(|name| name.len() <= 3 * MAX_NAME_BYTES));
            }
        }
    }

    #[test]
    fn metrics_count_points_and_stay_whole() {
        let metric = |name: &str, points: usize| Metric {
            name: name.to_owned(),
            data: Some(Data::Gauge(Gauge { data_points: vec![NumberDataPoint::default(); points] })),
            ..Metric::default()
        };
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                scope_metrics: vec![ScopeMetrics {
                    metrics: vec![metric("a", 3), metric("b", 2)],
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        };
        let body = request.encode_to_vec();
        let pieces = split(Signal::Metrics, &body, 1);
        assert_eq!(pieces.iter().map(|piece| piece.items).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(first_name(Signal::Metrics, &pieces[1].body).as_deref(), Some("b"));
    }

    #[test]
    fn a_span_is_named() {
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                scope_spans: vec![ScopeSpans {
                    spans: vec![Span { name: "huge".to_owned(), ..Span::default() }],
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        };
        assert_eq!(first_name(Signal::Traces, &request.encode_to_vec()).as_deref(), Some("huge"));
        assert_eq!(first_name(Signal::Traces, b""), None);
    }
}
