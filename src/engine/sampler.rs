//! Decides which finished spans are kept: the standard samplers, consistent for a trace.
//!
//! A ratio is decided by *R*, 56 random bits that all spans of a trace share: `rv` of the trace state's entry `ot`, else
//! the last 14 hex digits of the trace id. A span is kept if R is at least the threshold T = (1 - ratio) * 2^56, rounded
//! to four significant hex digits as the specification recommends, and carries T as `ot=th:…`, so that a backend can
//! scale counts. Every bridge and every SDK that samples so has the same answer for a trace.
//!
//! | the span | decided by |
//! |---|---|
//! | root, or inferred child of one: nobody decided before | the root sampler |
//! | remote parent (`traceparent`) | its sampled flag |
//! | flags that the worker gave with the span's identity, and inferred children of either | that flag |
//! | identity without flags, or with 0, which most clients send for "none" | as a root |
//!
//! A span that carries `th` was thinned before: its threshold is only ever raised. `th` is erased where it does not fit
//! the decision, because it would say what is not true; one that does not fit R leaves unknown how the span was thinned,
//! so that nothing takes its place. Nothing here is random or remembered.

use std::borrow::Cow;
use std::sync::Arc;

use crate::engine::span::{Span, TraceFlags, TraceId};
use crate::engine::trace_state::{Entry, erase_threshold, may_have_threshold, set_threshold};

/// 2^56: R and T are below.
pub(crate) const RANGE: u64 = 1 << 56;
/// Significant hex digits of a threshold, by the specification's recommendation.
const PRECISION: i32 = 4;
/// Digits of a threshold at most.
const MAX_DIGITS: i32 = 12;
/// `parent_based` within `parent_based` in a file; deeper ones are refused.
pub const MAX_DEPTH: usize = 8;

/// What is to be kept.
#[derive(Debug, Clone, PartialEq)]
pub enum SamplerSettings {
    /// Everything.
    AlwaysOn,
    /// Nothing.
    AlwaysOff,
    /// This part of all traces.
    Ratio(Ratio),
    /// What the parent decided.
    ParentBased(Box<ParentBased>),
}

/// Which sampler decides where.
#[derive(Debug, Clone, PartialEq)]
pub struct ParentBased {
    /// Without a parent that decided.
    pub root: SamplerSettings,
    /// Below a remote parent that is sampled.
    pub remote_sampled: SamplerSettings,
    /// Below a remote parent that is not.
    pub remote_not_sampled: SamplerSettings,
    /// Where the worker itself sampled.
    pub local_sampled: SamplerSettings,
    /// Where it did not.
    pub local_not_sampled: SamplerSettings,
}

/// A number from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio(f64);

/// Whether spans are kept although the sampler says no: each alone, marked, without `th`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exceptions {
    /// Spans with status Error.
    pub errors: bool,
    /// Spans that last at least so many nanoseconds.
    pub slower_than_ns: Option<u64>,
}

/// Decides about finished spans.
#[derive(Debug, Clone)]
pub struct Sampler {
    settings: SamplerSettings,
    exceptions: Exceptions,
    /// Of a span, with the mark of an exception.
    max_attributes: usize,
}

impl Ratio {
    /// A ratio.
    ///
    /// # Errors
    /// If it is not a number from 0 to 1.
    pub fn new(ratio: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&ratio) {
            Ok(Self(ratio))
        } else {
            Err("not a number from 0 to 1".to_owned())
        }
    }

    /// The number.
    #[must_use]
    pub const fn value(self) -> f64 {
        self.0
    }

    /// T; nothing for a ratio that keeps nothing.
    #[must_use]
    pub fn threshold(self) -> Option<u64> {
        // Below 2^-56 there is no probability that could be written.
        let smallest = 2_f64.powi(-56);
        (self.0 >= smallest).then(|| rounded_threshold(self.0))
    }
}

/// (1 - p) * 2^56, rounded half up to four hex digits after the leading `f`s.
fn rounded_threshold(p: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "p is from 2^-56 to 1")]
    let exact = RANGE - (p * 2_f64.powi(56)).round() as u64;
    let digits = (PRECISION + -exponent(p) / 4).clamp(1, MAX_DIGITS);
    let unit = RANGE >> (4 * digits);
    let rounded = exact.saturating_add(unit / 2) / unit * unit;
    // Rounding up to "nothing" would lose a ratio that is not 0.
    if rounded >= RANGE { exact } else { rounded }
}

/// e of p = m * 2^e with m from 0.5 to below 1.
fn exponent(p: f64) -> i32 {
    let bits = (p.to_bits() >> 52) & 0x7ff;
    i32::try_from(bits).expect("eleven bits") - 1022
}

impl SamplerSettings {
    /// `parentbased_` with this sampler at the root, and the parent's word below.
    #[must_use]
    pub fn parent_based(root: Self) -> Self {
        Self::ParentBased(Box::new(ParentBased {
            root,
            remote_sampled: Self::AlwaysOn,
            remote_not_sampled: Self::AlwaysOff,
            local_sampled: Self::AlwaysOn,
            local_not_sampled: Self::AlwaysOff,
        }))
    }
}

/// `parentbased_always_on`, the specification's default.
impl Default for SamplerSettings {
    fn default() -> Self {
        Self::parent_based(Self::AlwaysOn)
    }
}

impl Default for Sampler {
    fn default() -> Self {
        Self::new(SamplerSettings::default(), Exceptions::default())
    }
}

impl Sampler {
    /// A sampler with these settings.
    #[must_use]
    pub const fn new(settings: SamplerSettings, exceptions: Exceptions) -> Self {
        Self { settings, exceptions, max_attributes: usize::MAX }
    }

    /// A sampler whose marks keep to the limit of a span's attributes.
    #[must_use]
    pub fn with_max_attributes(self, max_attributes: usize) -> Self {
        Self { max_attributes, ..self }
    }

    /// Whether [`Sampler::judge`] will keep the span.
    #[must_use]
    pub fn keeps(&self, span: &Span) -> bool {
        self.keeps_trace(&Question::of(span)) || self.is_exceptional(span)
    }

    /// Whether the trace is kept, as far as can be said before its spans are finished: exceptions are not known yet.
    pub(crate) fn keeps_trace(&self, question: &Question<'_>) -> bool {
        match chosen(&self.settings, question) {
            SamplerSettings::AlwaysOn => true,
            sampler @ (SamplerSettings::AlwaysOff
            | SamplerSettings::Ratio(_)
            | SamplerSettings::ParentBased(_)) => Verdict::of(sampler, question).keeps,
        }
    }

    /// Whether the span is kept. A kept one is given the trace state and the flags that say so.
    pub fn judge(&self, span: &mut Span) -> bool {
        let question = Question::of(span);
        let sampler = chosen(&self.settings, &question);
        let has_threshold = span.trace_state.as_deref().is_some_and(may_have_threshold);
        if matches!(sampler, SamplerSettings::AlwaysOn) && !has_threshold {
            span.trace_flags.0 |= TraceFlags::SAMPLED.0;
            return true;
        }
        let verdict = Verdict::of(sampler, &question);
        if verdict.keeps {
            apply(span, verdict.threshold);
            return true;
        }
        if self.is_exceptional(span) {
            apply(span, None);
            span.mark_kept(self.max_attributes);
            return true;
        }
        false
    }

    fn is_exceptional(&self, span: &Span) -> bool {
        let lasted = u64::try_from(span.end.since(span.start)).unwrap_or(0);
        self.exceptions.errors && span.is_error()
            || self.exceptions.slower_than_ns.is_some_and(|slow| lasted >= slow)
    }
}

/// What of a span decides whether its trace is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) trace_id: TraceId,
    /// Whoever began the trace decided about it.
    pub(crate) is_decided: bool,
    /// What its flags say.
    pub(crate) is_sampled: bool,
    /// Its parent came from a `traceparent`.
    pub(crate) is_remote: bool,
    pub(crate) trace_state: Option<&'a str>,
}

impl<'a> Question<'a> {
    fn of(span: &'a Span) -> Self {
        Self {
            trace_id: span.trace_id,
            is_decided: span.sampling_is_decided,
            is_sampled: span.trace_flags.is_sampled(),
            is_remote: span.parent_is_remote,
            trace_state: span.trace_state.as_deref(),
        }
    }
}

/// The sampler that decides about this once parents have had their say.
fn chosen<'a>(settings: &'a SamplerSettings, question: &Question<'_>) -> &'a SamplerSettings {
    let mut settings = settings;
    while let SamplerSettings::ParentBased(branches) = settings {
        settings = match (question.is_decided, question.is_remote, question.is_sampled) {
            (false, _, _) => &branches.root,
            (true, true, true) => &branches.remote_sampled,
            (true, true, false) => &branches.remote_not_sampled,
            (true, false, true) => &branches.local_sampled,
            (true, false, false) => &branches.local_not_sampled,
        };
    }
    settings
}

/// A decision, and the threshold that explains it.
struct Verdict {
    keeps: bool,
    threshold: Option<u64>,
}

impl Verdict {
    fn of(sampler: &SamplerSettings, question: &Question<'_>) -> Self {
        let entry = Entry::of(question.trace_state.unwrap_or_default());
        let randomness = entry.randomness.unwrap_or_else(|| randomness_of(question.trace_id));
        // One that does not fit the span's being here was wrong before: nobody knows how the span was thinned.
        let before = entry.threshold.filter(|threshold| randomness >= *threshold);
        let is_unknown = entry.threshold.is_some() && before.is_none();
        match sampler {
            SamplerSettings::AlwaysOn => Self { keeps: true, threshold: before },
            SamplerSettings::AlwaysOff => Self { keeps: false, threshold: None },
            SamplerSettings::Ratio(ratio) => {
                let Some(own) = ratio.threshold() else { return Self { keeps: false, threshold: None } };
                Self {
                    keeps: randomness >= own,
                    threshold: (!is_unknown).then(|| before.map_or(own, |before| before.max(own))),
                }
            }
            SamplerSettings::ParentBased(_) => unreachable!("parents have had their say"),
        }
    }
}

/// The last 56 bits of the trace id.
fn randomness_of(trace_id: TraceId) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = trace_id.0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h]) & (RANGE - 1)
}

/// Writes into a kept span what the decision was. A threshold that finds no room in the trace state is left out.
fn apply(span: &mut Span, threshold: Option<u64>) {
    span.trace_flags.0 |= TraceFlags::SAMPLED.0;
    let state = span.trace_state.as_deref().unwrap_or_default();
    let changed = match threshold {
        Some(threshold) => set_threshold(state, threshold).map_or_else(|| erase_threshold(state), Cow::Owned),
        None => erase_threshold(state),
    };
    if changed != state {
        span.trace_state = (!changed.is_empty()).then(|| Arc::from(changed));
    }
}

#[cfg(test)]
mod tests;
