//! The events of a busy worker, each written straight to the wire as a Python emitter writes it.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::clock::unix_nanos;

/// Calls nest one to three deep.
const DEEPEST: usize = 3;

/// The operation at each depth.
const OPERATIONS: [(&str, &str); DEEPEST] =
    [("tool", "execution"), ("inference", "forward"), ("library", "call")];

/// Whether a worker's calls carry a correlation id; those without neither nest nor wait for a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Correlation {
    /// Each outermost call has an id of its own, which the calls inside it carry too.
    PerCall,
    /// None.
    Absent,
}

/// One outermost call and those inside it: `depth` starts, then as many stops.
#[derive(Debug)]
pub(crate) struct Call {
    id: u64,
    /// Tells the operations of concurrent calls apart where nothing else does.
    lane: usize,
    correlation: Correlation,
    depth: usize,
    written: usize,
    starts: [i64; DEEPEST],
}

impl Call {
    /// How deep the call of this number is.
    pub(crate) fn usual_depth(id: u64) -> usize {
        usize::try_from(id % 3).expect("less than three") + 1
    }

    /// A call that has not begun.
    pub(crate) fn new(id: u64, lane: usize, correlation: Correlation, depth: usize) -> Self {
        assert!((1..=DEEPEST).contains(&depth), "a depth of {depth}");
        Self { id, lane, correlation, depth, written: 0, starts: [0; DEEPEST] }
    }

    /// The next event, as of now. A call has twice as many events as it is deep.
    pub(crate) fn write_next(&mut self, arena: &mut BytesMut) -> Bytes {
        let now = unix_nanos();
        let is_start = self.written < self.depth;
        let level = if is_start { self.written } else { 2 * self.depth - 1 - self.written };
        self.written += 1;
        arena.reserve(512);
        self.write_name(arena, level, if is_start { "start" } else { "stop" });
        write_measurement(arena, "system_time", now);
        if is_start {
            self.starts[level] = now;
        } else {
            // The emitter reads its two clocks one after the other, so its duration is a little off.
            let late = i64::try_from(self.id * 37 % 700).expect("less than 700");
            write_measurement(arena, "duration", now - self.starts[level] - late);
        }
        self.write_metadata(arena, is_start);
        arena.put_u8(0x20);
        write_varint(arena, (now + 900).cast_unsigned());
        if self.correlation == Correlation::PerCall {
            write_bytes(arena, 0x2a, &uuid(self.id));
        }
        arena.split().freeze()
    }

    /// Whether every start was written and every stop.
    pub(crate) fn is_over(&self) -> bool {
        self.written == 2 * self.depth
    }

    fn write_name(&self, arena: &mut BytesMut, level: usize, phase: &str) {
        let (first, second) = OPERATIONS[level];
        match self.correlation {
            Correlation::PerCall => write_bytes(arena, 0x0a, first.as_bytes()),
            Correlation::Absent => {
                let lane = u8::try_from(self.lane % 26).expect("less than 26");
                let length = u8::try_from(first.len() + 2).expect("short");
                arena.put_slice(&[0x0a, length]);
                arena.put_slice(first.as_bytes());
                arena.put_slice(&[b'_', b'a' + lane]);
            }
        }
        write_bytes(arena, 0x0a, second.as_bytes());
        write_bytes(arena, 0x0a, phase.as_bytes());
    }

    fn write_metadata(&self, arena: &mut BytesMut, is_start: bool) {
        write_metadata(arena, "tool", b"summarize_document");
        write_metadata(arena, "model", b"llama-3-8b-instruct");
        write_metadata(arena, "device", b"cuda:0");
        write_metadata(arena, "request_id", &decimal(self.id));
        if !is_start {
            write_metadata(arena, "result", b"success");
        }
    }
}

fn write_measurement(arena: &mut BytesMut, key: &str, value: i64) {
    let value = value.cast_unsigned();
    let value_length = 1 + varint_length(value);
    arena.put_slice(&[0x12, length(2 + key.len() + 2 + value_length)]);
    write_bytes(arena, 0x0a, key.as_bytes());
    arena.put_slice(&[0x12, length(value_length), 0x08]);
    write_varint(arena, value);
}

fn write_metadata(arena: &mut BytesMut, key: &str, value: &[u8]) {
    arena.put_slice(&[0x1a, length(2 + key.len() + 2 + value.len())]);
    write_bytes(arena, 0x0a, key.as_bytes());
    write_bytes(arena, 0x12, value);
}

fn write_bytes(arena: &mut BytesMut, tag: u8, bytes: &[u8]) {
    arena.put_slice(&[tag, length(bytes.len())]);
    arena.put_slice(bytes);
}

/// The length prefix of something short.
fn length(bytes: usize) -> u8 {
    u8::try_from(bytes).ok().filter(|&length| length < 0x80).expect("every field is short")
}

fn write_varint(arena: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        arena.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    arena.put_u8(value as u8);
}

fn varint_length(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros();
    usize::try_from(bits.div_ceil(7)).expect("at most ten")
}

/// `req-00000042`.
fn decimal(mut id: u64) -> [u8; 12] {
    let mut text = *b"req-00000000";
    for digit in text[4..].iter_mut().rev() {
        *digit = b'0' + (id % 10) as u8;
        id /= 10;
    }
    text
}

/// A dashed UUID that looks random, one for each id.
fn uuid(id: u64) -> [u8; 36] {
    let high = mix(id);
    let halves = [high, mix(high)];
    let mut text = [b'-'; 36];
    let mut at = 0;
    for nibble in 0..32 {
        if matches!(at, 8 | 13 | 18 | 23) {
            at += 1;
        }
        let shift = 60 - 4 * (nibble % 16);
        text[at] = b"0123456789abcdef"[(halves[nibble / 16] >> shift & 0xf) as usize];
        at += 1;
    }
    text
}

/// SplitMix64: spreads numbers that are close.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The events of a worker whose threads call as fast as they can, `LANES` at a time.
#[derive(Debug)]
pub(crate) struct Busy {
    correlation: Correlation,
    lanes: [Option<Call>; LANES],
    turn: usize,
    next_call: u64,
    spans_left: u64,
    arena: BytesMut,
}

/// Calls that a busy worker has in progress.
const LANES: usize = 16;

impl Busy {
    /// Two events for each of `spans` spans.
    pub(crate) fn new(correlation: Correlation, spans: u64) -> Self {
        Self {
            correlation,
            lanes: [const { None }; LANES],
            turn: 0,
            next_call: 0,
            spans_left: spans,
            arena: BytesMut::new(),
        }
    }

    fn next_call(&mut self, lane: usize) -> Option<Call> {
        let left = usize::try_from(self.spans_left).expect("a 64-bit machine");
        let depth = Call::usual_depth(self.next_call).min(left);
        if depth == 0 {
            return None;
        }
        self.spans_left -= depth as u64;
        self.next_call += 1;
        Some(Call::new(self.next_call, lane, self.correlation, depth))
    }
}

impl Iterator for Busy {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        for _ in 0..LANES {
            self.turn = (self.turn + 1) % LANES;
            let lane = self.turn;
            if self.lanes[lane].as_ref().is_none_or(Call::is_over) {
                self.lanes[lane] = self.next_call(lane);
            }
            if let Some(call) = &mut self.lanes[lane] {
                return Some(call.write_next(&mut self.arena));
            }
        }
        None
    }
}
