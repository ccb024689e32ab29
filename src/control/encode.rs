//! A policy as the three control messages that a worker gets on connect, in the numbering of its connection.
//!
//! The two dialects swap the numbers of toggle and sampling: a control in the wrong one mutes a worker without a word,
//! so a connection of an unknown dialect gets none. What is sent when is the receiver's business.

use bytes::Bytes;
use prost::Message;

use super::policy::Policy;
use crate::proto::{self, released, telemetry_control};
use crate::worker::Dialect;

/// Control messages on connect, and so the length of a worker's control queue: later ones replace those of their kind.
pub const CONTROLS_PER_POLICY: usize = 3;

/// Toggle, sampling and filter, in this order; `None` where the dialect is unknown.
#[must_use]
pub fn controls(policy: &Policy, dialect: Dialect) -> Option<[Bytes; CONTROLS_PER_POLICY]> {
    match dialect {
        Dialect::Design => Some(design(policy)),
        Dialect::Released => Some(in_released_numbering(policy)),
        Dialect::Unknown => None,
    }
}

fn design(policy: &Policy) -> [Bytes; CONTROLS_PER_POLICY] {
    [
        telemetry_control::Control::Toggle(proto::TelemetryToggle { enabled: policy.enabled }),
        telemetry_control::Control::Sampling(proto::TelemetrySamplingUpdate {
            sampling_rate: policy.sampling_rate.value(),
            event_patterns: policy.event_patterns.clone(),
        }),
        telemetry_control::Control::Filter(proto::TelemetryEventFilter {
            allowed_events: policy.allowed_events.clone(),
            blocked_events: policy.blocked_events.clone(),
        }),
    ]
    .map(|control| proto::TelemetryControl { control: Some(control) }.encode_to_vec().into())
}

fn in_released_numbering(policy: &Policy) -> [Bytes; CONTROLS_PER_POLICY] {
    use released::telemetry_control::Control;
    [
        Control::Toggle(released::TelemetryToggle { enabled: policy.enabled }),
        Control::Sampling(released::TelemetrySamplingUpdate {
            sampling_rate: policy.sampling_rate.value(),
            event_patterns: policy.event_patterns.clone(),
        }),
        Control::Filter(released::TelemetryEventFilter {
            allow: policy.allowed_events.clone(),
            deny: policy.blocked_events.clone(),
        }),
    ]
    .map(|control| released::TelemetryControl { control: Some(control) }.encode_to_vec().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::policy::Rate;

    #[test]
    fn a_policy_has_these_bytes_in_the_design_numbering() {
        let [toggle, sampling, filter] = controls(&policy(), Dialect::Design).unwrap();

        assert_eq!(toggle, b"\x12\x02\x08\x01".as_slice());
        assert_eq!(sampling, b"\x0a\x09\x09\x00\x00\x00\x00\x00\x00\xe0\x3f".as_slice());
        assert_eq!(filter, b"\x1a\x09\x0a\x03a.*\x12\x02b*".as_slice());
    }

    #[test]
    fn a_policy_has_these_bytes_in_the_released_numbering() {
        let [toggle, sampling, filter] = controls(&policy(), Dialect::Released).unwrap();

        assert_eq!(toggle, b"\x0a\x02\x08\x01".as_slice());
        assert_eq!(sampling, b"\x12\x09\x09\x00\x00\x00\x00\x00\x00\xe0\x3f".as_slice());
        assert_eq!(filter, b"\x1a\x09\x0a\x03a.*\x12\x02b*".as_slice());
    }

    #[test]
    fn off_and_rate_zero_are_present_and_empty() {
        let policy = Policy { enabled: false, sampling_rate: Rate::new(0.0).unwrap(), ..Policy::default() };

        let design = controls(&policy, Dialect::Design).unwrap();
        let released = controls(&policy, Dialect::Released).unwrap();

        assert_eq!(design, [b"\x12\x00".as_slice(), b"\x0a\x00", b"\x1a\x00"]);
        assert_eq!(released, [b"\x0a\x00".as_slice(), b"\x12\x00", b"\x1a\x00"]);
    }

    #[test]
    fn an_unknown_dialect_gets_no_controls() {
        assert_eq!(controls(&policy(), Dialect::Unknown), None);
    }

    fn policy() -> Policy {
        Policy {
            sampling_rate: Rate::new(0.5).unwrap(),
            allowed_events: vec!["a.*".to_owned()],
            blocked_events: vec!["b*".to_owned()],
            ..Policy::default()
        }
    }
}
