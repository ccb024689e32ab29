//! What is known about an event's name: for each of its measurements, what it becomes.
//!
//! Everything here follows from names and settings, so forgetting costs time and the counts that explain, and nothing else.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};
use smallvec::SmallVec;

use super::known_keys::KnownKeys;
use super::units::Scale;
use crate::drops::DropReason;
use crate::engine::metadata::truncated;
use crate::engine::metrics::instrument::Instrument;
use crate::engine::naming::Name;
use crate::engine::report::Lost;
use crate::engine::short::is_same;

/// Names in a generation of [`Plans`]; there are two.
const MAX_PLANS: usize = 2048;

/// Names with one hash, that is with one prefixed name, and others as sent.
const MAX_ALIASES: usize = 4;

/// Measurements of one event that are looked at.
pub(crate) const MAX_MEASUREMENTS: usize = 128;

/// Measurements that are remembered for a name; a further one takes the place of the one that was not there for longest.
/// More than one event has, so that those of one event are remembered together.
const MAX_KNOWN: usize = 2 * MAX_MEASUREMENTS;

/// Keys that are remembered as left off the points of a name.
const MAX_LEFT_OFF: usize = 16;

/// Bytes of such a key.
const MAX_LEFT_OFF_BYTES: usize = 64;

/// Plans by name. The names that are in use stay: when a generation is full it becomes the old one, and what was not asked
/// for since is forgotten.
#[derive(Debug, Default)]
pub(super) struct Plans {
    young: Generation,
    old: Generation,
    /// Names come from outside, and nobody there shall choose which of them meet in a table.
    hasher: DefaultHashBuilder,
}

/// By the hash of the prefixed name, hashed again; spans and events apart.
type Generation = HashTable<Namesakes>;

/// The plans of names with one hash.
#[derive(Debug)]
struct Namesakes {
    hash: u64,
    is_span: bool,
    plans: SmallVec<[Box<Plan>; 1]>,
}

/// What is known about an event's name, or a span's operation.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) title: Arc<str>,
    /// As sent; of a span, its operation.
    pub(super) emitted: Box<str>,
    pub(super) is_span: bool,
    /// The places of the rules for its name, in their order; not looked for yet where absent.
    pub(super) rules: Option<Box<[usize]>>,
    pub(super) known: Known,
    pub(super) keys: KnownKeys,
    pub(super) left_off: LeftOff,
    pub(super) counts: Counts,
}

/// What became of the events of a name.
#[derive(Debug, Default, Clone)]
pub(super) struct Counts {
    pub(super) received: u64,
    pub(super) points: u64,
    pub(super) incomplete: u64,
    pub(super) span_events: u64,
    pub(super) records: u64,
    pub(super) dropped: [u64; DropReason::ALL.len()],
}

/// The measurements of a name.
#[derive(Debug, Default)]
pub(super) struct Known {
    list: Vec<Measurement>,
    /// Events so far.
    events: u64,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Measurement {
    /// As it is looked for.
    pub(super) key: Box<str>,
    pub(super) becomes: Becomes,
    /// The last event that had it.
    last: u64,
    pub(super) measured: u64,
    pub(super) not_finite: u64,
    pub(super) not_numbers: u64,
    pub(super) ruled_out: u64,
    pub(super) repeated: u64,
    pub(super) lost: Lost,
}

/// What a measurement becomes.
#[derive(Debug)]
pub(super) enum Becomes {
    /// No metric, ever.
    Never(&'static str),
    /// No metric, because the rule at this place says so.
    Nothing(usize),
    /// A measurement of an instrument.
    Metric(Target),
}

/// Of which instrument, and how.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) instrument: Arc<Instrument>,
    pub(super) number: u32,
    /// Stands for the instrument's name in Prometheus.
    pub(super) in_prometheus: u64,
    pub(super) scale: Scale,
    /// The place of the rule that decides.
    pub(super) rule: Option<usize>,
    /// The rule measures some events only.
    pub(super) is_conditional: bool,
    /// Several measurements of one event may be measurements of it: a rule names it.
    pub(super) takes_several: bool,
    pub(super) because: &'static str,
}

/// Metadata keys that became no point attribute.
#[derive(Debug, Default)]
pub(super) struct LeftOff {
    pub(super) keys: Vec<Box<str>>,
    pub(super) has_more: bool,
}

// ---------------------------------------------------------------------------------------------------------------------

impl Plans {
    /// The plan of a name; a new one where there is none.
    #[inline]
    pub(super) fn of(&mut self, name: &Name, is_span: bool) -> &mut Plan {
        let hash = self.hasher.hash_one((name.hash, is_span));
        let are_those = |those: &Namesakes| those.plans.iter().any(|plan| plan.is_of(name, is_span));
        match self.young.find_entry(hash, are_those) {
            Ok(found) => {
                let plans = &mut found.into_mut().plans;
                let at = plans.iter().position(|plan| plan.is_of(name, is_span));
                &mut plans[at.expect("it was there a moment ago")]
            }
            Err(absent) => {
                let rehash = |those: &Namesakes| self.hasher.hash_one((those.hash, those.is_span));
                Self::add(absent.into_table(), &mut self.old, (name, is_span), hash, rehash)
            }
        }
    }

    /// Brings the plan of a name back from the old generation, or makes one.
    #[cold]
    fn add<'a>(
        young: &'a mut Generation,
        old: &mut Generation,
        (name, is_span): (&Name, bool),
        hash: u64,
        rehash: impl Fn(&Namesakes) -> u64,
    ) -> &'a mut Plan {
        let are_those = |those: &Namesakes| those.hash == name.hash && those.is_span == is_span;
        let forgotten = old.find_mut(hash, are_those).and_then(|those| {
            let at = those.plans.iter().position(|plan| plan.is_of(name, is_span))?;
            Some(those.plans.swap_remove(at))
        });
        if young.len() >= MAX_PLANS && young.find(hash, are_those).is_none() {
            *old = std::mem::take(young);
        }
        let none = || Namesakes { hash: name.hash, is_span, plans: SmallVec::new() };
        let plans = &mut young.entry(hash, are_those, rehash).or_insert_with(none).into_mut().plans;
        if plans.len() >= MAX_ALIASES {
            plans.remove(0);
        }
        plans.push(forgotten.unwrap_or_else(|| Box::new(Plan::new(name, is_span))));
        plans.last_mut().expect("one was added")
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// All, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Plan> {
        self.young.iter().chain(&self.old).flat_map(|those| &those.plans).map(|plan| &**plan)
    }
}

/// A name as sent, without its phase where it is a span's.
fn emitted(name: &Name, is_span: bool) -> &str {
    if !is_span || name.phase.is_none() {
        return &name.emitted;
    }
    name.emitted.rsplit_once('.').map_or(&*name.emitted, |(operation, _)| operation)
}

impl Plan {
    fn new(name: &Name, is_span: bool) -> Self {
        Self {
            title: Arc::clone(&name.title),
            emitted: emitted(name, is_span).into(),
            is_span,
            rules: None,
            known: Known::default(),
            keys: KnownKeys::default(),
            left_off: LeftOff::default(),
            counts: Counts::default(),
        }
    }

    /// Whether it is the plan of this name.
    fn is_of(&self, name: &Name, is_span: bool) -> bool {
        // A name shares its title with no other, so the rest is the same too.
        let is_same = || Arc::ptr_eq(&self.title, &name.title);
        let is_equal = || *self.emitted == *emitted(name, is_span) && self.title == name.title;
        self.is_span == is_span && (is_same() || is_equal())
    }
}

impl Known {
    /// Another event comes.
    pub(super) fn begin(&mut self) {
        self.events += 1;
    }

    /// Where a measurement of this event is: most likely at `hint`, because events of one name list theirs in one order.
    pub(super) fn position(&mut self, key: &str, hint: usize) -> Option<usize> {
        let is_it = |known: &Measurement| is_same(&known.key, key);
        let at = match self.list.get(hint) {
            Some(known) if is_it(known) => hint,
            Some(_) | None => self.list.iter().position(is_it)?,
        };
        self.list[at].last = self.events;
        Some(at)
    }

    /// Remembers one of this event; returns its place.
    pub(super) fn add(&mut self, key: &str, becomes: Becomes) -> usize {
        let added = Measurement {
            key: key.into(),
            becomes,
            last: self.events,
            measured: 0,
            not_finite: 0,
            not_numbers: 0,
            ruled_out: 0,
            repeated: 0,
            lost: Lost::default(),
        };
        if self.list.len() < MAX_KNOWN {
            self.list.push(added);
            return self.list.len() - 1;
        }
        let longest_gone = self.list.iter().enumerate().min_by_key(|(_, known)| known.last);
        let at = longest_gone.map_or(0, |(at, _)| at);
        debug_assert!(self.list[at].last < self.events, "one event does not fill it");
        self.list[at] = added;
        at
    }

    pub(super) fn at(&self, place: usize) -> &Measurement {
        &self.list[place]
    }

    pub(super) fn at_mut(&mut self, place: usize) -> &mut Measurement {
        &mut self.list[place]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Measurement> {
        self.list.iter()
    }
}

impl LeftOff {
    pub(super) fn note(&mut self, key: &str) {
        let key = truncated(key, MAX_LEFT_OFF_BYTES);
        if self.keys.iter().any(|known| **known == *key) {
            return;
        }
        if self.keys.len() < MAX_LEFT_OFF {
            self.keys.push(key.into());
        } else {
            self.has_more = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::naming::Naming;

    fn name(naming: &mut Naming, text: &str) -> Arc<Name> {
        naming.resolve(&text.split('.').collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn the_phases_of_an_operation_have_one_plan_and_an_event_of_its_name_another() {
        let mut naming = Naming::new("snakepit.python");
        let mut plans = Plans::default();
        for text in ["tool.run.start", "tool.run.stop", "tool.run.exception"] {
            plans.of(&name(&mut naming, text), true).counts.received += 1;
        }
        plans.of(&name(&mut naming, "tool.run"), false).counts.received += 1;
        let mut found: Vec<_> =
            plans.iter().map(|plan| (&*plan.emitted, plan.is_span, plan.counts.received)).collect();
        found.sort_unstable();
        assert_eq!(found, [("tool.run", false, 1), ("tool.run", true, 3)]);
    }

    #[test]
    fn a_name_that_was_forgotten_and_resolved_anew_has_the_plan_that_it_had() {
        let mut plans = Plans::default();
        for text in ["cache.hit", "cache.miss", "cache.hit"] {
            plans.of(&name(&mut Naming::new("snakepit.python"), text), false).counts.received += 1;
        }
        let mut found: Vec<_> = plans.iter().map(|plan| (&*plan.emitted, plan.counts.received)).collect();
        found.sort_unstable();
        assert_eq!(found, [("cache.hit", 2), ("cache.miss", 1)]);
    }

    #[test]
    fn names_in_use_stay_and_the_others_are_bounded() {
        let mut naming = Naming::new("snakepit.python");
        let mut plans = Plans::default();
        let usual = name(&mut naming, "cache.hit");
        for number in 0..10 * MAX_PLANS {
            plans.of(&usual, false).counts.received += 1;
            plans.of(&name(&mut naming, &format!("name.{number}")), false);
            assert!(plans.iter().count() <= 2 * MAX_PLANS + 1);
        }
        assert_eq!(plans.of(&usual, false).counts.received, 10 * MAX_PLANS as u64);
    }

    #[test]
    fn names_that_are_sent_differently_and_shown_alike_have_plans_of_their_own() {
        let mut naming = Naming::new("snakepit.python");
        let mut plans = Plans::default();
        for sent in ["a b", "a%b", "aöb", "a_b", "a(b", "a)b"] {
            plans.of(&name(&mut naming, sent), false).counts.received += 1;
            plans.of(&name(&mut naming, sent), false).counts.received += 1;
        }
        let found: Vec<_> = plans.iter().map(|plan| (&*plan.title, plan.counts.received)).collect();
        assert_eq!(found, [("snakepit.python.a_b", 2); MAX_ALIASES]);
    }

    #[test]
    fn measurements_of_a_name_are_bounded_and_what_is_not_used_gives_way() {
        let mut known = Known::default();
        for number in 0..3 * MAX_KNOWN {
            known.begin();
            if known.position("usual", 0).is_none() {
                assert_eq!(number, 0, "it is in use, and stays");
                known.add("usual", Becomes::Nothing(0));
            }
            let key = number.to_string();
            assert_eq!(known.position(&key, number), None);
            let at = known.add(&key, Becomes::Nothing(0));
            assert_eq!(known.position(&key, 0), Some(at));
        }
        assert_eq!(known.iter().count(), MAX_KNOWN);
        assert!(known.position("0", 0).is_none());
    }

    #[test]
    fn keys_left_off_are_bounded() {
        let mut left = LeftOff::default();
        for number in 0..100 {
            left.note(&format!("{}{number}", "k".repeat(62)));
            left.note("again");
        }
        assert_eq!((left.keys.len(), left.has_more), (MAX_LEFT_OFF, true));
        assert!(left.keys.iter().all(|key| key.len() <= MAX_LEFT_OFF_BYTES));
    }
}
