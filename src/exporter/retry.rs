//! What an answer means: taken, to be sent again, or refused for good; and when to send again.
//!
//! | gRPC | |
//! |---|---|
//! | CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS | retried |
//! | RESOURCE_EXHAUSTED | retried only with `RetryInfo`: else the request may be too large, and is cut |
//! | every other code | refused |
//!
//! | HTTP | |
//! |---|---|
//! | 2xx | taken |
//! | 429, 502, 503, 504; no connection; a connection lost before the answer | retried |
//! | 413 | the request is too large, and is cut |
//! | every other status | refused |
//!
//! The tables are the OTLP specification's. It wants exponential backoff with jitter and gives no figures; the figures
//! are [`RetrySettings`]. A delay that the peer asks for is the least wait, for every request to it.

use std::time::Duration;

use jiff::fmt::rfc2822;
use rand::Rng;
use tonic::Code;

use crate::exporter::queue::BatchId;
use crate::exporter::refusal::{GrpcRefusal, HttpRefusal, Refusal};
use crate::time::{Monotonic, UnixNanos};

/// Default of [`RetrySettings::initial_backoff`].
pub const DEFAULT_INITIAL_BACKOFF: Duration = Duration::from_secs(1);
/// Default of [`RetrySettings::max_backoff`].
pub const DEFAULT_MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Default of [`RetrySettings::max_elapsed`]: any outage is waited out where there is room, in memory or on disk; backends
/// refuse what is older than days.
pub const DEFAULT_MAX_ELAPSED: Duration = Duration::from_secs(7 * 24 * 3600);
/// Default of [`RetrySettings::gives_way_after`]: ten minutes of an outage are kept whole as far as there is room; past
/// that, what happens now matters more.
pub const DEFAULT_GIVES_WAY_AFTER: Duration = Duration::from_secs(600);
/// The longest delay that a peer may ask for: a garbled header must not stop the export for a year.
pub const MAX_SERVER_DELAY: Duration = Duration::from_secs(600);

/// When a batch is sent again, and when it is given up.
#[derive(Debug, Clone)]
pub struct RetrySettings {
    /// The first wait, before jitter.
    pub initial_backoff: Duration,
    /// No wait of our own is longer.
    pub max_backoff: Duration,
    /// A batch that was not taken for this long is given up, though there be room. Time that the program did not run counts
    /// where the batch was on disk.
    pub max_elapsed: Duration,
    /// A batch that was not taken for this long gives its room in memory to new ones where there is none left. On disk the
    /// oldest gives way whatever its age: what is new must be there, for nothing would bring it back after a crash.
    pub gives_way_after: Duration,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            initial_backoff: DEFAULT_INITIAL_BACKOFF,
            max_backoff: DEFAULT_MAX_BACKOFF,
            max_elapsed: DEFAULT_MAX_ELAPSED,
            gives_way_after: DEFAULT_GIVES_WAY_AFTER,
        }
    }
}

/// What came of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The peer took the request.
    Accepted {
        /// How many of its items the peer did not take all the same.
        rejected_items: u64,
        /// Why, or a hint where it took all.
        message: String,
    },
    /// To be sent again.
    Retry {
        /// The least wait that the peer asked for.
        delay: Option<Duration>,
        /// For the log.
        error: String,
    },
    /// Never to be sent again.
    Refused {
        /// Why.
        refusal: Refusal,
        /// For the log.
        error: String,
    },
}

/// What a status alone says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The peer took the request.
    Accepted,
    /// To be sent again.
    Retry,
    /// Never to be sent again.
    Refused(Refusal),
}

/// The gRPC table. `has_retry_info`: the status carries a `google.rpc.RetryInfo`.
#[must_use]
pub fn judge_grpc(code: Code, has_retry_info: bool) -> Verdict {
    let refused = |code| Verdict::Refused(Refusal::Grpc(code));
    match code {
        Code::Ok => Verdict::Accepted,
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Verdict::Retry,
        Code::ResourceExhausted if has_retry_info => Verdict::Retry,
        Code::ResourceExhausted => refused(GrpcRefusal::ResourceExhausted),
        Code::Unknown => refused(GrpcRefusal::Unknown),
        Code::InvalidArgument => refused(GrpcRefusal::InvalidArgument),
        Code::NotFound => refused(GrpcRefusal::NotFound),
        Code::AlreadyExists => refused(GrpcRefusal::AlreadyExists),
        Code::PermissionDenied => refused(GrpcRefusal::PermissionDenied),
        Code::FailedPrecondition => refused(GrpcRefusal::FailedPrecondition),
        Code::Unimplemented => refused(GrpcRefusal::Unimplemented),
        Code::Internal => refused(GrpcRefusal::Internal),
        Code::Unauthenticated => refused(GrpcRefusal::Unauthenticated),
    }
}

/// The HTTP table.
#[must_use]
pub fn judge_http(status: u16) -> Verdict {
    let refused = |status| Verdict::Refused(Refusal::Http(status));
    match status {
        200..=299 => Verdict::Accepted,
        429 | 502..=504 => Verdict::Retry,
        400 => refused(HttpRefusal::BadRequest400),
        401 => refused(HttpRefusal::Unauthorized401),
        403 => refused(HttpRefusal::Forbidden403),
        404 => refused(HttpRefusal::NotFound404),
        405 => refused(HttpRefusal::MethodNotAllowed405),
        408 => refused(HttpRefusal::RequestTimeout408),
        413 => refused(HttpRefusal::PayloadTooLarge413),
        415 => refused(HttpRefusal::UnsupportedMediaType415),
        500 => refused(HttpRefusal::InternalServerError500),
        300..=399 => refused(HttpRefusal::Redirect3xx),
        402..=499 => refused(HttpRefusal::Client4xx),
        501..=599 => refused(HttpRefusal::Server5xx),
        0..=199 | 600.. => refused(HttpRefusal::Other),
    }
}

/// The value of a `Retry-After` header: whole seconds, or an HTTP date. A date that is past asks for no delay; what is
/// neither is ignored.
#[must_use]
pub fn parse_retry_after(value: &str, now: UnixNanos) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than 64 bits hold are more seconds than the bound.
        return Some(value.parse().map_or(MAX_SERVER_DELAY, Duration::from_secs));
    }
    let date = rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    let nanos = date.as_nanosecond() - i128::from(now.0);
    Some(Duration::from_nanos(u64::try_from(nanos.max(0)).ok()?))
}

/// The wait before attempt number `failures + 1`: doubled each time up to the limit, then between half and all of it, so
/// that bridges that failed together do not return together.
pub fn backoff(settings: &RetrySettings, failures: u32, rng: &mut impl Rng) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    let longest = settings.initial_backoff.saturating_mul(1 << doublings).min(settings.max_backoff);
    longest.mul_f64(rng.random_range(0.5..=1.0))
}

/// Whether an error's words say that the request was too large: servers that mean their memory use the same status.
#[must_use]
pub fn speaks_of_size(error: &str) -> bool {
    ["larger than", "too large", "exceeds max", "exceeds the max", "maximum size", "message size"]
        .iter()
        .any(|words| error.contains(words))
}

/// Whether an error that looks like an answer beyond our own limit is the peer's word about a request of `size_bytes`: servers
/// made with tonic say the same of requests as tonic's client does of answers, with the size that they found.
#[must_use]
pub fn speaks_of_request(error: &str, size_bytes: usize) -> bool {
    error.contains("message length too large") && error.contains(&format!("found {size_bytes} bytes"))
}

/// How the peer has been doing, over all requests.
///
/// The first failure alone holds nothing up: it may be the one batch's fault, and others go on, on [`FAILING_WAYS`]. From the
/// second batch in a row that fails, with no success in between, the peer counts as down, and requests are probes with
/// growing waits. A batch that fails while others are answered is poisoned, and says nothing about the peer.
#[derive(Debug, Default)]
pub struct Peer {
    /// Failures in a row, of requests that were begun after the failure before.
    failures: u32,
    /// The first batch that failed did again, and no other was tried.
    is_repeated: bool,
    last_failure: Option<Monotonic>,
    /// Whose that was.
    last_failed: Option<BatchId>,
    /// Requests that were answered for good.
    answers: u64,
    /// Our own wait.
    backoff_until: Monotonic,
    /// The wait that the peer asked for.
    throttled_until: Monotonic,
}

/// Requests in flight after a failure: one that hangs leaves a way.
pub const FAILING_WAYS: usize = 2;

impl Peer {
    /// When the next request may be begun.
    #[must_use]
    pub fn ready_at(&self) -> Monotonic {
        self.backoff_until.max(self.throttled_until)
    }

    /// How many requests may be in flight, where `most` are allowed.
    #[must_use]
    pub fn ways(&self, most: usize) -> usize {
        let most = most.max(1);
        match self.failures {
            0 => most,
            1 => most.min(FAILING_WAYS),
            2.. => 1,
        }
    }

    /// Whether the peer counts as down, or as good as: the one batch that there is fails again and again.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.failures > 1 || self.is_repeated
    }

    /// How often the peer has answered for good.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// Notes a request that the peer answered for good. Returns whether the peer was down before.
    pub fn note_answer(&mut self) -> bool {
        let was_down = self.is_down();
        self.answers += 1;
        self.failures = 0;
        self.is_repeated = false;
        self.last_failed = None;
        self.backoff_until = Monotonic::default();
        was_down
    }

    /// Notes the wait that the peer asks for.
    pub fn note_delay(&mut self, delay: Option<Duration>, now: Monotonic) {
        if let Some(delay) = delay {
            self.throttled_until = self.throttled_until.max(now.after(delay.min(MAX_SERVER_DELAY)));
        }
    }

    /// Notes that `batch`, sent at `begun`, failed, and not by its own fault.
    pub fn note_failure(
        &mut self,
        batch: BatchId,
        begun: Monotonic,
        now: Monotonic,
        settings: &RetrySettings,
        rng: &mut impl Rng,
    ) {
        // Requests that were in flight together fail together; that is one failure.
        if self.last_failure.is_some_and(|last| begun < last) && self.failures > 0 {
            return;
        }
        self.last_failure = Some(now);
        // A batch that fails again may be poisoned: only another one shows that it is the peer, so it may be tried at once.
        if self.last_failed.replace(batch) == Some(batch) && self.failures == 1 {
            self.is_repeated = true;
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures > 1 {
            self.backoff_until = now.after(backoff(settings, self.failures - 1, rng));
        }
    }

    /// Forgets our own wait; the peer's wish stands.
    pub fn forget_backoff(&mut self) {
        self.backoff_until = Monotonic::default();
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn every_grpc_code_by_the_table() {
        use Code::*;
        for code in [Cancelled, DeadlineExceeded, Aborted, OutOfRange, Unavailable, DataLoss] {
            for has_retry_info in [false, true] {
                assert_eq!(judge_grpc(code, has_retry_info), Verdict::Retry, "{code:?}");
            }
        }
        assert_eq!(judge_grpc(ResourceExhausted, true), Verdict::Retry);
        let refused = [
            (Unknown, "rejected:unknown"),
            (InvalidArgument, "rejected:invalid_argument"),
            (NotFound, "rejected:not_found"),
            (AlreadyExists, "rejected:already_exists"),
            (PermissionDenied, "rejected:permission_denied"),
            (ResourceExhausted, "rejected:resource_exhausted"),
            (FailedPrecondition, "rejected:failed_precondition"),
            (Unimplemented, "rejected:unimplemented"),
            (Internal, "rejected:internal"),
            (Unauthenticated, "rejected:unauthenticated"),
        ];
        for (code, reason) in refused {
            let Verdict::Refused(refusal) = judge_grpc(code, false) else { panic!("{code:?}") };
            assert_eq!(refusal.as_str(), reason);
        }
        assert_eq!(judge_grpc(Ok, false), Verdict::Accepted);
    }

    #[test]
    fn every_http_status_by_the_table() {
        for status in 0..=999 {
            let expected = match status {
                200..=299 => "accepted",
                429 | 502 | 503 | 504 => "retry",
                _ => "refused",
            };
            let verdict = match judge_http(status) {
                Verdict::Accepted => "accepted",
                Verdict::Retry => "retry",
                Verdict::Refused(_) => "refused",
            };
            assert_eq!(verdict, expected, "{status}");
        }
        let reason = |status| match judge_http(status) {
            Verdict::Refused(refusal) => refusal.as_str(),
            Verdict::Accepted | Verdict::Retry => "",
        };
        for status in [400, 401, 403, 404, 405, 408, 413, 415, 500] {
            assert_eq!(reason(status), format!("rejected:{status}"));
        }
        assert_eq!(reason(301), "rejected:3xx");
        assert_eq!(reason(418), "rejected:4xx");
        assert_eq!(reason(501), "rejected:5xx");
        assert_eq!(reason(100), "rejected:other");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // 6 November 1994, 08:49:37 UTC.
        let now = UnixNanos(784_111_777_000_000_000);
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(parse_retry_after("120", now), seconds(120));
        assert_eq!(parse_retry_after(" 0 ", now), seconds(0));
        assert_eq!(parse_retry_after("99999999999999999999999", now), Some(MAX_SERVER_DELAY));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:50:07 GMT", now), seconds(30));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:00 GMT", now), seconds(0));
        for junk in ["", "-1", "1.5", "soon", "Sun, 06 Nov"] {
            assert_eq!(parse_retry_after(junk, now), None, "{junk}");
        }
    }

    #[test]
    fn backoff_doubles_up_to_its_limit_with_jitter() {
        let settings = RetrySettings::default();
        let mut rng = StdRng::seed_from_u64(1);
        for (failures, longest) in
            [(0, 1), (1, 1), (2, 2), (3, 4), (5, 16), (6, 30), (40, 30), (u32::MAX, 30)]
        {
            let longest = Duration::from_secs(longest);
            let waits: Vec<_> = (0..100).map(|_| backoff(&settings, failures, &mut rng)).collect();
            assert!(waits.iter().all(|wait| *wait >= longest / 2 && *wait <= longest), "{failures}");
            assert!(waits.iter().any(|wait| *wait != waits[0]), "{failures}: no jitter");
        }
    }

    #[test]
    fn one_failure_holds_no_other_request_up_and_the_second_batchs_does() {
        let settings = RetrySettings::default();
        let mut rng = StdRng::seed_from_u64(1);
        let mut peer = Peer::default();
        let mut fail = |peer: &mut Peer, batch, begun, now| {
            peer.note_failure(
                BatchId::numbered(batch),
                Monotonic(begun),
                Monotonic(now),
                &settings,
                &mut rng,
            );
        };
        fail(&mut peer, 1, 0, 10);
        assert_eq!((peer.ways(4), peer.ready_at()), (FAILING_WAYS, Monotonic(0)));
        // Was in flight with the first.
        fail(&mut peer, 2, 5, 11);
        assert_eq!((peer.is_down(), peer.ready_at()), (false, Monotonic(0)));
        // The same batch again: it may be its own fault, so others may be tried.
        fail(&mut peer, 1, 11, 12);
        assert_eq!((peer.is_down(), peer.ways(4), peer.ready_at()), (true, FAILING_WAYS, Monotonic(0)));
        fail(&mut peer, 2, 12, 13);
        assert!(peer.ready_at() >= Monotonic(13).after(Duration::from_millis(500)));
        assert_eq!((peer.is_down(), peer.ways(4)), (true, 1));
        assert!(peer.note_answer());
        assert_eq!((peer.ways(4), peer.ready_at(), peer.answers()), (4, Monotonic(0), 1));
        assert!(!peer.note_answer());
    }

    #[test]
    fn the_delay_that_the_peer_asks_for_holds_every_request_up_within_a_limit() {
        let mut peer = Peer::default();
        let now = Monotonic(7);
        peer.note_delay(None, now);
        assert_eq!(peer.ready_at(), Monotonic(0));
        peer.note_delay(Some(Duration::from_secs(40)), now);
        assert_eq!(peer.ready_at(), now.after(Duration::from_secs(40)));
        peer.note_answer();
        peer.forget_backoff();
        assert_eq!(peer.ready_at(), now.after(Duration::from_secs(40)));
        peer.note_delay(Some(Duration::from_secs(1 << 40)), now);
        assert_eq!(peer.ready_at(), now.after(MAX_SERVER_DELAY));
    }

    #[test]
    fn words_about_size_are_told_from_words_about_memory() {
        for words in [
            "ResourceExhausted: grpc: received message larger than max (5000 vs. 4096)",
            "ResourceExhausted: gRPC message exceeds maximum size 4194304: 5000000",
            "OutOfRange: Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes",
        ] {
            assert!(speaks_of_size(words), "{words}");
        }
        assert!(!speaks_of_size("ResourceExhausted: data refused due to high memory usage"));
        let found =
            "OutOfRange: Error, decoded message length too large: found 5 bytes, the limit is: 4 bytes";
        assert!(speaks_of_request(found, 5) && !speaks_of_request(found, 50));
    }
}
