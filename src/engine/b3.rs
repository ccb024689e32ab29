//! The context of a parent as B3 writes it: `b3`, or `x-b3-traceid` and the keys beside it.
//!
//! A trace id may have 64 bits only, and is then filled up with zeros at the left. Who says nothing about sampling is
//! taken to have sampled, and so is who asks for debugging.

use crate::engine::ids::{TraceParent, hex_bytes, id_bytes};
use crate::engine::span::{SpanId, TraceFlags, TraceId};

/// The keys of B3 in an event's metadata.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct B3<'e> {
    single: Option<&'e str>,
    trace_id: Option<&'e str>,
    span_id: Option<&'e str>,
    sampled: Option<&'e str>,
    flags: Option<&'e str>,
}

/// Whether this is one of B3's keys.
pub(crate) fn is_key(key: &str) -> bool {
    B3::default().slot(key).is_some()
}

impl<'e> B3<'e> {
    fn slot(&mut self, key: &str) -> Option<&mut Option<&'e str>> {
        let slots = [
            ("b3", &mut self.single),
            ("x-b3-traceid", &mut self.trace_id),
            ("x-b3-spanid", &mut self.span_id),
            ("x-b3-sampled", &mut self.sampled),
            ("x-b3-flags", &mut self.flags),
        ];
        slots.into_iter().find(|(name, _)| key.eq_ignore_ascii_case(name)).map(|(_, slot)| slot)
    }

    /// Notes a key of the metadata, if it is one of B3's.
    pub(crate) fn note(&mut self, key: &str, value: &'e str) {
        if let Some(slot) = self.slot(key) {
            *slot = Some(value);
        }
    }

    /// The parent. What is malformed is none.
    pub(crate) fn parent(self) -> Option<TraceParent> {
        if let Some(single) = self.single {
            let mut parts = single.split('-');
            let (trace_id, span_id) = (parts.next()?, parts.next()?);
            return parent(trace_id, span_id, parts.next());
        }
        let sampled = if self.flags == Some("1") { Some("d") } else { self.sampled };
        parent(self.trace_id?, self.span_id?, sampled)
    }
}

fn parent(trace_id: &str, span_id: &str, sampled: Option<&str>) -> Option<TraceParent> {
    let trace_id = match trace_id.len() {
        16 => format!("{:0>32}", trace_id.to_ascii_lowercase()),
        _ => trace_id.to_ascii_lowercase(),
    };
    let flags = match sampled {
        None | Some("1" | "d" | "true") => TraceFlags::SAMPLED,
        Some("0" | "false") => TraceFlags(0),
        Some(_) => return None,
    };
    Some(TraceParent {
        trace_id: TraceId(id_bytes(&hex_bytes::<16>(trace_id.as_bytes())?)?),
        parent_id: SpanId(id_bytes(&hex_bytes::<8>(span_id.to_ascii_lowercase().as_bytes())?)?),
        flags,
        state: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
    const SPAN: &str = "e457b5a2e4d86bd1";

    /// Trace, parent and flags.
    fn parsed(pairs: &[(&str, &str)]) -> Option<(String, String, u8)> {
        let mut b3 = B3::default();
        pairs.iter().for_each(|(key, value)| b3.note(key, value));
        let parent = b3.parent()?;
        Some((parent.trace_id.to_string(), parent.parent_id.to_string(), parent.flags.0))
    }

    fn known(flags: u8) -> Option<(String, String, u8)> {
        Some((TRACE.to_owned(), SPAN.to_owned(), flags))
    }

    #[test]
    fn one_key_has_it_all() {
        for (rest, flags) in [("", 1), ("-1", 1), ("-d", 1), ("-0", 0), ("-1-05e3ac9a4f6e3b90", 1)] {
            assert_eq!(parsed(&[("b3", &format!("{TRACE}-{SPAN}{rest}"))]), known(flags), "{rest}");
        }
        let short = parsed(&[("b3", &format!("64fe8b2a57d3eff7-{SPAN}-1"))]).unwrap();
        assert_eq!(short.0, format!("{}64fe8b2a57d3eff7", "0".repeat(16)));
        for junk in [
            "0",
            "1",
            "",
            "x-y",
            &format!("{TRACE}-{SPAN}-x"),
            &format!("{TRACE}-"),
            &format!("{}-{SPAN}", "0".repeat(32)),
        ] {
            assert_eq!(parsed(&[("b3", junk)]), None, "{junk}");
        }
    }

    #[test]
    fn or_each_part_has_its_own() {
        let ids = [("X-B3-TraceId", TRACE), ("x-b3-spanid", SPAN)];
        assert_eq!(parsed(&ids), known(1));
        assert_eq!(parsed(&[&ids[..], &[("x-b3-sampled", "0")]].concat()), known(0));
        assert_eq!(parsed(&[&ids[..], &[("x-b3-sampled", "0"), ("x-b3-flags", "1")]].concat()), known(1));
        assert_eq!(parsed(&ids[..1]), None);
    }
}
