//! The sampler of all shards, and how many spans it left out.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::Span;
use crate::engine::sampler::Sampler;

/// Judges finished spans on their way to the exporter.
#[derive(Debug)]
pub struct Sampling {
    sampler: Sampler,
    sampled_out: AtomicU64,
}

impl Sampling {
    /// Nothing is left out yet.
    #[must_use]
    pub const fn new(sampler: Sampler) -> Self {
        Self { sampler, sampled_out: AtomicU64::new(0) }
    }

    /// Leaves in `spans` those that are kept; the others are counted.
    pub fn thin(&self, spans: &mut Vec<Span>) {
        let before = spans.len();
        spans.retain_mut(|span| self.sampler.judge(span));
        let left_out = before - spans.len();
        if left_out > 0 {
            // A counter that nothing else is read together with.
            self.sampled_out.fetch_add(left_out as u64, Ordering::Relaxed);
        }
    }

    /// Spans that were left out.
    #[must_use]
    pub fn sampled_out(&self) -> u64 {
        self.sampled_out.load(Ordering::Relaxed)
    }
}
