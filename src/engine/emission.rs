//! What leaves the engine: finished spans, with what is made of them, and log records.
//!
//! A span is measured as its halves said it, before any limit that is set for spans and before it is sampled.
//!
//! A span's exceptions become records where that is opted into and records are made at all; they carry the span's ids.

use crate::engine::Output;
use crate::engine::compose::{EXCEPTION, Finished};
use crate::engine::ids::SpanContext;
use crate::engine::record::{Draft, RecordTrace};
use crate::engine::settings::ExceptionSignal;
use crate::engine::state::{Shared, WorkerState};

impl WorkerState {
    /// Gives a finished span to the exporter. `incomplete` says why it lacks a half, if it does.
    pub(crate) fn emit(&mut self, cx: &mut Shared<'_>, mut finished: Finished, incomplete: Option<&str>) {
        let tickets = self.measure_span(cx, &finished, incomplete);
        if cx.record_reader.is_some() {
            self.emit_exceptions(cx, &mut finished);
        }
        let source = self.source(cx.next_source);
        let (span, cut) = finished.into_span(source, &cx.settings.limits);
        self.ledger.notes.attributes_cut += cut;
        cx.offer_span(&tickets, &span);
        cx.outputs.push_back(Output::Span(span));
    }

    fn emit_exceptions(&mut self, cx: &mut Shared<'_>, finished: &mut Finished) {
        let is_exception = |event: &crate::engine::span::SpanEvent| *event.name == *EXCEPTION;
        let exceptions: Vec<_> = match cx.settings.exception_signal {
            ExceptionSignal::SpanEvent => return,
            ExceptionSignal::Record => finished.events.extract_if(.., |event| is_exception(event)).collect(),
            ExceptionSignal::Both => {
                finished.events.iter().filter(|event| is_exception(event)).cloned().collect()
            }
        };
        let limits = &cx.settings.limits;
        for mut exception in exceptions {
            let (max, chars) = (limits.max_record_attributes, limits.max_record_attribute_chars);
            self.ledger.notes.attributes_cut += u64::from(exception.attributes.keep_within(max, chars));
            let mut draft = Draft::of_exception(&finished.name.title, exception, cx.now.wall);
            draft.trace = Some(RecordTrace::of(&finished.context));
            self.emit_record(cx, draft);
        }
    }

    pub(crate) fn emit_record(&mut self, cx: &mut Shared<'_>, draft: Draft) {
        self.ledger.records_made += 1;
        let source = self.source(cx.next_source);
        cx.outputs.push_back(Output::Record(draft.into_record(source)));
    }
}

impl RecordTrace {
    /// Within this span.
    pub(crate) fn of(span: &SpanContext) -> Self {
        Self { trace_id: span.trace_id, span_id: Some(span.span_id), flags: span.flags.defined() }
    }
}
