//! The laws, over random streams of measurements, collections, comings and goings, and restarts.

use proptest::prelude::*;

use super::model::{Model, Offered, Said, Value, flattened, in_prometheus};
use super::*;
use crate::engine::metrics::settings::MetricRule;
use crate::store::RowKey;

const WORKERS: [(&str, &str); 5] = [("w", "a"), ("w", "b"), ("v", "a"), ("v", "a"), ("u", "a")];
const IDLE: Duration = Duration::from_secs(60);

/// A step of a test. Indexes are taken modulo what there is.
#[derive(Debug, Clone)]
enum Op {
    Record {
        worker: usize,
        instrument: usize,
        keys: usize,
        value: usize,
        weight: usize,
        late_ms: i64,
    },
    Offer {
        which: usize,
        late_ms: i64,
    },
    Begin,
    Collect {
        budget: usize,
    },
    CollectAll,
    Wait {
        ms: u64,
    },
    SetBack {
        ms: i64,
    },
    /// The clock is wrong until a collection is over.
    WrongClock {
        ms: i64,
    },
    Detach {
        worker: usize,
    },
    /// So many bytes of what is to be written are written before their time; or everything is to be written.
    Prepare {
        bytes: usize,
        all: bool,
    },
    /// What changed is written, or the rest of it.
    Checkpoint {
        all: bool,
    },
    /// An aggregation is made of what was written, and goes on beside the others.
    Restore,
    /// The same under other rules, and alone: whatever is measured from now on may have the place of what was.
    ChangeRules,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        30 => (0..5_usize, 0..14_usize, 0..5_usize, 0..12_usize, 0..3_usize, -300..3000_i64).prop_map(
            |(worker, instrument, keys, value, weight, late_ms)| Op::Record { worker, instrument, keys, value, weight, late_ms }
        ),
        12 => (any::<usize>(), -100..3000_i64).prop_map(|(which, late_ms)| Op::Offer { which, late_ms }),
        6 => Just(Op::Begin),
        12 => (1..8_usize).prop_map(|budget| Op::Collect { budget }),
        3 => Just(Op::CollectAll),
        12 => (1..5000_u64).prop_map(|ms| Op::Wait { ms }),
        2 => (30_000..90_000_u64).prop_map(|ms| Op::Wait { ms }),
        1 => (0..20_000_i64).prop_map(|ms| Op::SetBack { ms }),
        1 => (700_000..90_000_000_i64).prop_map(|ms| Op::WrongClock { ms }),
        3 => (0..5_usize).prop_map(|worker| Op::Detach { worker }),
        9 => (1..6000_usize, 0..10_u8).prop_map(|(bytes, all)| Op::Prepare { bytes, all: all == 0 }),
        3 => any::<bool>().prop_map(|all| Op::Checkpoint { all }),
        2 => Just(Op::Restore),
        2 => Just(Op::ChangeRules),
    ]
}

/// The last five are others before in Prometheus, and the third of them has its own name too; the last two are so by the names
/// of a histogram's series.
fn instruments() -> [Arc<Instrument>; 14] {
    let bounds = [1.0, 2.0, 5.0];
    [
        instrument("calls", "", Kind::Counter),
        instrument("level", "", Kind::UpDownCounter),
        instrument("last", "", Kind::Gauge),
        histogram("fixed", &bounds),
        histogram("bare", &[]),
        instrument("flexible", "", Kind::ExponentialHistogram),
        instrument("Calls", "", Kind::Counter),
        instrument("CALLS", "By", Kind::Counter),
        instrument("other", "", Kind::Counter),
        instrument("calls.total", "", Kind::Counter),
        histogram("fixed.seconds", &bounds),
        histogram("fixed", &[1.0]),
        instrument("fixed.seconds.count", "", Kind::Gauge),
        instrument("flexible.sum", "", Kind::ExponentialHistogram),
    ]
}

/// Sums of these are exact in any order.
const VALUES: [Number; 12] = [
    Number::Int(0),
    Number::Int(1),
    Number::Int(7),
    Number::Int(1 << 40),
    Number::Float(0.25),
    Number::Float(0.75),
    Number::Float(1.0),
    Number::Float(2.0),
    Number::Float(3.5),
    Number::Float(1024.0),
    Number::Float(-1.5),
    Number::Int(-3),
];

/// The aggregation, those that were restored from it, and the model, side by side.
struct Run {
    all: Vec<(Aggregation, u64)>,
    model: Model,
    settings: MetricSettings,
    attached: [Option<InstanceId>; 5],
    offers: Vec<(InstanceId, SeriesId, Offered, Number, i64)>,
    rows: BTreeMap<RowKey, Vec<u8>>,
    /// Of the checkpoint that is being prepared.
    draft: Draft,
    is_whole: bool,
    is_in_pass: bool,
    instruments: [Arc<Instrument>; 14],
    mono_ms: u64,
    wall_ms: i64,
    said: Vec<Said>,
    /// How much was said when a wrong clock was set right.
    set_right: Vec<usize>,
    /// What counters have taken, by worker, name and attributes.
    totals: BTreeMap<(String, String, String), f64>,
}

impl Run {
    fn new(settings: MetricSettings) -> Self {
        Self {
            all: vec![(Aggregation::new(&settings, WINDOW), 0)],
            model: Model::new(settings.clone()),
            settings,
            attached: [None; 5],
            offers: Vec::new(),
            rows: BTreeMap::new(),
            draft: Draft::default(),
            is_whole: false,
            is_in_pass: false,
            instruments: instruments(),
            mono_ms: 0,
            wall_ms: 0,
            said: Vec::new(),
            set_right: Vec::new(),
            totals: BTreeMap::new(),
        }
    }

    fn now(&self) -> Now {
        Now {
            mono: Monotonic(self.mono_ms * 1_000_000),
            wall: UnixNanos(EPOCH_NS + self.wall_ms * 1_000_000),
        }
    }

    /// The same of all, which must agree.
    fn each<T: PartialEq + std::fmt::Debug>(&mut self, act: impl Fn(&mut Aggregation, &mut u64) -> T) -> T {
        let mut made = self.all.iter_mut().map(|(own, next_source)| act(own, next_source));
        let first = made.next().unwrap();
        made.for_each(|other| assert_eq!(first, other, "what was restored says something else"));
        first
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Record { worker, instrument, keys, value, weight, late_ms } => {
                self.record(worker, instrument, keys, VALUES[value], weight, late_ms);
            }
            Op::Offer { which, late_ms } => {
                let len = self.offers.len();
                if len > 0 {
                    let (instance, series, offered, value, time) = self.offers[which % len];
                    let time = time - late_ms;
                    self.each(|own, _| own.offer(instance, series, value, UnixNanos(time), None));
                    self.model.offer(offered, value, time);
                }
            }
            Op::Begin => {
                let now = self.now();
                self.each(|own, _| own.begin(now.wall, now));
                self.model.begin(now.wall.0, now.mono.0);
            }
            Op::Collect { budget } => self.collect(budget),
            Op::CollectAll => {
                while self.model.is_collecting() {
                    self.collect(50);
                }
            }
            Op::Wait { ms } => {
                self.mono_ms += ms;
                self.wall_ms += ms as i64;
            }
            Op::SetBack { ms } => self.wall_ms -= ms,
            Op::WrongClock { ms } => {
                self.step(&Op::CollectAll);
                self.wall_ms += ms;
                self.step(&Op::Begin);
                self.step(&Op::CollectAll);
                self.wall_ms -= ms;
                self.set_right.push(self.said.len());
            }
            Op::Detach { worker } => {
                if let Some(id) = self.attached[worker].take() {
                    self.each(|own, _| own.detach(id));
                    self.model.detach(WORKERS[worker].0);
                }
            }
            Op::Prepare { bytes, all } => self.prepare(bytes, all),
            Op::Checkpoint { all } => drop(self.checkpoint(all)),
            Op::Restore => self.restore(),
            Op::ChangeRules => self.change_rules(),
        }
        let (series, instances) = (self.model.series(), self.model.instances());
        let figures = self.each(|own, _| own.figures());
        assert_eq!((figures.series, figures.instances), (series, instances));
        assert_eq!(self.each(|own, _| own.is_collecting()), self.model.is_collecting());
    }

    fn record(
        &mut self,
        worker: usize,
        number: usize,
        attributes: usize,
        value: Number,
        weight: usize,
        late_ms: i64,
    ) {
        let now = self.now();
        let (name, pool) = WORKERS[worker];
        let id = self.attached[worker].unwrap_or_else(|| {
            let id = self.each(|own, next| own.attach(key(name), described(pool), next));
            self.model.attach(name, pool);
            self.attached[worker] = Some(id);
            id
        });
        let instrument = Arc::clone(&self.instruments[number]);
        let texts = [format!("{attributes}"), "x".to_owned()];
        let pairs = [("a", &texts[0][..]), ("b", &texts[1][..])];
        let mut gathered = gathered(&pairs[..attributes.min(2)]);
        let keys = PointKeys::of(&mut gathered);
        let said: String = keys.pairs().map(|(key, value)| format!("{key}={value};")).collect();
        let weight = [Weight::ONE, Weight::of_share(0.4), Weight::of_share(0.3)][weight];
        let time = UnixNanos(now.wall.0 - late_ms * 1_000_000);
        let recorded = self.each(|own, _| {
            let measured =
                Measured { instrument: &instrument, number: number as u32, value, attributes: keys };
            own.record(id, &measured, weight, time, now)
        });
        let (what, offered) =
            self.model.record(name, &instrument, value, weight.value(), &said, (time.0, now));
        let (expected, series) = match recorded {
            Recorded::Series(series) => ("series", Some(series)),
            Recorded::Overflowed(series) => ("overflowed", Some(series)),
            Recorded::Lost(Loss::NoRoom) => ("no room", None),
            Recorded::Lost(Loss::Conflict) => ("conflict", None),
            Recorded::Lost(Loss::Negative) => ("negative", None),
        };
        assert_eq!(expected, what);
        let (Some(series), Some(offered)) = (series, offered) else { return };
        self.offers.push((id, series, offered, value, time.0));
        if instrument.kind == Kind::Counter && weight == Weight::ONE {
            let attributes = if what == "overflowed" { "overflow".to_owned() } else { said };
            let place = (name.to_owned(), in_prometheus(&instrument), attributes);
            *self.totals.entry(place).or_default() += value.as_f64();
        }
    }

    fn collect(&mut self, budget: usize) {
        let metrics = self.each(|own, _| {
            let mut made = Vec::new();
            own.collect(budget, &mut |metric| made.push(metric));
            made
        });
        assert!(metrics.iter().map(Metric::len).sum::<usize>() <= budget);
        for metric in &metrics {
            let said = flattened(std::slice::from_ref(metric));
            assert!(!said.is_empty());
            let is_without = said.iter().any(|said| said.value.is_none());
            assert!(!is_without || said.len() == 1, "a point without value is alone: {metric:?}");
        }
        let sorted = |mut said: Vec<Said>| {
            said.sort_by_cached_key(|said| (said.worker.clone(), said.name.clone(), said.attributes.clone()));
            said
        };
        let said = sorted(flattened(&metrics));
        assert_eq!(said, sorted(self.model.collect(budget)));
        self.said.extend(said);
    }

    fn prepare(&mut self, bytes: usize, all: bool) {
        if all || (self.rows.is_empty() && !self.is_whole) {
            self.write_all();
        }
        let own = &mut self.all[0].0;
        self.draft.make_room(Some(bytes));
        if !self.is_in_pass {
            own.begin_pass();
        }
        self.is_in_pass = !own.go_on_with_pass(&mut self.draft);
    }

    fn write_all(&mut self) {
        self.all[0].0.write_all();
        (self.draft, self.is_whole) = (draft(), true);
    }

    fn checkpoint(&mut self, all: bool) -> AggregationHead {
        if all || (self.rows.is_empty() && !self.is_whole) {
            self.write_all();
        }
        self.draft.make_room(None);
        let head = self.all[0].0.write(&mut self.draft);
        let (puts, deletes) = std::mem::take(&mut self.draft).into_rows();
        if std::mem::take(&mut self.is_whole) {
            self.rows.clear();
        }
        self.is_in_pass = false;
        self.rows.extend(puts);
        for key in deletes {
            assert!(self.rows.remove(&key).is_some(), "only what was written is deleted, and once: {key:?}");
        }
        head
    }

    fn restore(&mut self) {
        let head = self.checkpoint(false);
        let head = postcard::from_bytes(&postcard::to_stdvec(&head).unwrap()).unwrap();
        let mut rows = AggregationRows::default();
        for (key, value) in &self.rows {
            assert!(rows.put(MetricRow::of(key).unwrap(), value));
        }
        let (mut restored, damaged) = rows.restore(&self.settings, WINDOW, head);
        assert_eq!(damaged, 0);
        self.attached.iter().flatten().for_each(|id| assert!(restored.rejoin(*id)));
        let next_source = self.all[0].1;
        // The new one is written from now on, as after a real restart; the older goes on beside it.
        self.all.truncate(1);
        self.all.insert(0, (restored, next_source));
        self.rows.clear();
        (self.draft, self.is_whole, self.is_in_pass) = (Draft::default(), false, false);
    }

    fn change_rules(&mut self) {
        let rule = MetricRule::of(&format!("no.such.event.{}", self.settings.rules.len()));
        self.settings.rules.push(rule);
        self.restore();
        self.all.truncate(1);
        self.model.change_rules();
    }

    /// Whatever has happened: everything is collected, and then ends.
    fn finish(&mut self) {
        for worker in 0..WORKERS.len() {
            self.step(&Op::Detach { worker });
        }
        // One that has given way has two collections for itself.
        for _ in 0..1000 {
            if self.model.instances() == 0 {
                break;
            }
            self.step(&Op::CollectAll);
            self.step(&Op::Wait { ms: 30_000 });
            self.step(&Op::Begin);
            self.step(&Op::CollectAll);
        }
        let figures = self.each(|own, _| own.figures());
        assert_eq!((figures.instances, figures.instruments, figures.series), (0, 0, 0));
        assert_eq!(self.all[0].0.lists.len(), 0, "nothing keeps attributes");
        assert!(self.all[0].0.by_attributes.is_empty() && self.all[0].0.by_name.is_empty());
        self.checkpoint(false);
        assert!(self.rows.is_empty(), "nor rows");
    }

    /// What must hold of every series' points, whatever they are. What Prometheus has one name for is one series.
    fn laws(&self) {
        let mut last: BTreeMap<(&str, &str, &str), &Said> = BTreeMap::new();
        for (at, said) in self.said.iter().enumerate() {
            // What was said at a wrong time is no earlier point of a series.
            if self.set_right.contains(&at) {
                last.clear();
            }
            let is_gauge = ["last", "fixed.seconds.count"].contains(&&said.name[..]);
            assert!(is_gauge || said.start < said.time, "{said:?}");
            let places =
                said.in_prometheus.iter().map(|name| (&said.worker[..], &name[..], &said.attributes[..]));
            // Nearly always the same of all its names.
            let mut before: Vec<&Said> = places.filter_map(|place| last.insert(place, said)).collect();
            before.dedup_by(|one, other| std::ptr::eq(*one, *other));
            // Set back a little, a clock may be far behind only then.
            let is_earlier = |before: &&&Said| before.time - said.time < 600_000_000_000;
            for before in before.iter().filter(is_earlier) {
                assert!(before.time < said.time, "times ascend: {before:?}, {said:?}");
                if is_gauge {
                    continue;
                }
                let goes_on = before.value.is_some() && before.start == said.start;
                assert!(
                    goes_on || before.time <= said.start,
                    "intervals do not overlap: {before:?}, {said:?}"
                );
                if goes_on && let (Some(earlier), Some(later)) = (&before.value, &said.value) {
                    assert!(runs_forwards(earlier, later, said.name == "level"), "{before:?}, {said:?}");
                }
            }
        }
    }
}

fn runs_forwards(earlier: &Value, later: &Value, may_fall: bool) -> bool {
    match (earlier, later) {
        (Value::Number(earlier), Value::Number(later)) => may_fall || earlier.as_f64() <= later.as_f64(),
        (Value::Buckets(count, .., buckets), Value::Buckets(more, .., more_buckets)) => {
            count <= more && buckets.iter().zip(more_buckets).all(|(few, many)| few <= many)
        }
        (Value::Exponential(count, ..), Value::Exponential(more, ..)) => count <= more,
        _ => false,
    }
}

fn settings(is_delta: bool) -> MetricSettings {
    MetricSettings {
        max_series: 3,
        max_series_per_worker: 9,
        max_instruments_per_worker: 6,
        series_idle: IDLE,
        temporality: if is_delta { Temporality::Delta } else { Temporality::Cumulative },
        exemplars: ExemplarFilter::AlwaysOn,
        ..MetricSettings::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: (4 * ProptestConfig::default().cases).div_ceil(5), ..ProptestConfig::default() })]

    /// Every point, and what becomes of every measurement, is what the model says that counts everything anew; so it is in
    /// every aggregation that was restored on the way, in the middle of a collection too; and the laws hold.
    #[test]
    fn aggregation_is_what_the_model_says(is_delta: bool, ops in prop::collection::vec(op(), 1..250)) {
        let mut run = Run::new(settings(is_delta));
        ops.iter().for_each(|op| run.step(op));
        run.finish();
        run.laws();
    }

    /// Differences add up to what was measured, and so do the last points of cumulative series.
    #[test]
    fn points_add_up_to_what_was_measured(is_delta: bool, ops in prop::collection::vec(op(), 1..150)) {
        let mut run = Run::new(settings(is_delta));
        let unweighted = |op: &Op| {
            let mut op = op.clone();
            if let Op::Record { weight, .. } = &mut op {
                *weight = 0;
            }
            // After a wrong clock cumulative series keep what they have, and get another start.
            if matches!(op, Op::WrongClock { .. }) { Op::CollectAll } else { op }
        };
        ops.iter().for_each(|op| run.step(&unweighted(op)));
        run.finish();
        let mut sums: BTreeMap<(String, String, String), f64> = BTreeMap::new();
        let mut open: BTreeMap<(String, String, String), (i64, f64)> = BTreeMap::new();
        for said in run.said.iter().filter(|said| said.in_prometheus[0].ends_with("_total")) {
            let Some(Value::Number(number)) = &said.value else { continue };
            let place = (said.worker.clone(), said.in_prometheus[0].clone(), said.attributes.clone());
            let before = open.insert(place.clone(), (said.start, number.as_f64()));
            let had = before.filter(|(start, _)| !is_delta && *start == said.start).map_or(0.0, |(_, had)| had);
            *sums.entry(place).or_default() += number.as_f64() - had;
        }
        prop_assert_eq!(&sums, &run.totals);
    }
}
