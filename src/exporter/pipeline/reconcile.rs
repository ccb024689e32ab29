//! Makes the sums of the exporter and of the engines agree at a start.
//!
//! Both are kept by the state directory: the engines' in their checkpoints, from which the journal goes on; the exporter's
//! with each fate. As long as a replay is the original, one item more in one is one more in the other. Where it is not, or
//! where one of them is damaged, they are apart, and the difference gets a name, once:
//!
//! | the exporter has | it is counted as |
//! |---|---|
//! | more, and what the engines knew happened again | made again: it had its fate since the last checkpoint, and is made once more |
//! | more, and something of that is lost, or nothing is made of it any more | inherited: no engine counts it |
//! | less | refused as `fate_unknown` |
//!
//! Law: from then on `made` is what the engines have passed on, and what was made again, and what was inherited.

use super::Pipeline;
use super::outbox::{INHERITED, MADE_AGAIN};
use crate::exporter::refusal::Refusal;

/// What the engines of a start say of what they have made, for one signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Engines {
    /// Items that they have passed on, in all runs.
    pub passed_on: u64,
    /// Items with a known fate that were made once more, at least.
    pub made_again: u64,
    /// Their sums are there, what happened since happened again, and such items are still made.
    pub is_whole: bool,
}

impl Pipeline {
    /// Compares its sums with those of the engines, once everything that earlier runs left is taken over and made again, and
    /// before anything else is made. Returns how many items have no known fate.
    pub fn reconcile(&mut self, engines: Engines) -> u64 {
        let Engines { passed_on, made_again, is_whole } = engines;
        let named = passed_on + self.counts.made_again + self.counts.inherited;
        let beyond = self.counts.made.saturating_sub(named);
        let (again, inherited) = if is_whole { (beyond.max(made_again), 0) } else { (0, beyond) };
        let unknown = (named + again + inherited).saturating_sub(self.counts.made);
        self.counts.made_again += again;
        self.counts.inherited += inherited;
        self.counts.made += unknown;
        self.count_refused(unknown, Refusal::FateUnknown);
        for (reason, items) in
            [(MADE_AGAIN, again), (INHERITED, inherited), (Refusal::FateUnknown.as_str(), unknown)]
        {
            self.outbox.many(reason, items, None);
        }
        unknown
    }
}
