"""What a worker does, decided by a seed: calls within calls, several at once, some that fail.

The scenario is the truth that the test holds against Jaeger. It is made first, in nanoseconds of a virtual clock, and only
then turned into the events that a Snakepit worker would send, so that nothing in it comes from the bridge's own rules but
the mapping of names and attributes that the bridge promises.
"""

import hashlib
import random
from dataclasses import dataclass, field
from typing import Any

US = 1_000
MS = 1_000_000

# One operation for each depth: a call never contains a call of its own operation, which would be a sibling by the rules.
OPERATIONS = [
    ["request.handle", "session.call"],
    ["tool.execution", "python.call"],
    ["model.inference", "preprocessing"],
    ["tokenizer.encode", "cache.lookup"],
]
TWIN_OPERATION = "batch.item"
LANES = 3  # calls that a worker serves at once
# An event is stamped a little after the clock was read for it, as both known emitters do.
STAMP_DELAY_NS = 1_500


@dataclass
class Span:
    """One call as it really was."""

    operation: str
    correlation_id: str
    style: str  # "design" or "released": which emitter's habits the events follow
    depth: int
    start_ns: int
    end_ns: int = 0
    outcome: str = "unset"  # unset, ok, error, exception
    metadata: dict[str, str] = field(default_factory=dict)
    measurements: dict[str, int | float] = field(default_factory=dict)
    progress_ns: list[int] = field(default_factory=list)
    parent: int | None = None


@dataclass
class Event:
    """One message, not yet in protobuf."""

    at_ns: int
    timestamp_ns: int
    name: str
    correlation_id: str
    measurements: dict[str, int | float]
    metadata: dict[str, str]


class Scenario:
    """`spans` calls of one worker, `progress` standalone events within them."""

    def __init__(self, worker_id: str, run: str, seed: int, spans: int, progress: int, base_ns: int) -> None:
        self.worker_id = worker_id
        self.run = run
        self.base_ns = base_ns
        self.random = random.Random(seed)
        self.limit = spans
        self.spans: list[Span] = []
        self._lanes = [base_ns + lane * 7 * MS for lane in range(LANES)]
        self._trees = 0
        while len(self.spans) < spans:
            self._tree()
        self._place_progress(progress)
        self._check_parents()

    @property
    def length_ns(self) -> int:
        """How long the scenario lasts on the virtual clock."""
        return max(span.end_ns for span in self.spans) - self.base_ns

    def _tree(self) -> None:
        lane = min(range(LANES), key=self._lanes.__getitem__)
        style = ("design", "released")[self._trees % 2]
        correlation_id = self._correlation_id()
        start = self._lanes[lane] + self.random.randrange(1 * MS, 9 * MS)
        # Without a correlation id nothing nests, so such a call stands alone.
        depth_limit = len(OPERATIONS) if correlation_id else 1
        end = self._call(correlation_id, style, 0, depth_limit, start, None)
        self._lanes[lane] = end
        self._trees += 1

    def _correlation_id(self) -> str:
        """Every form that the trace id is made from; one id is shared by all workers of the run, some calls have none."""
        n = self._trees
        digits = hashlib.sha256(f"{self.run}/{self.worker_id}/{n}".encode()).hexdigest()[:32]
        if n == 0:
            return f"shared by {self.run}"
        return [
            f"{self.worker_id} request {n} of {self.run}",
            digits,
            f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}",
            f"sp-{digits[:24]}",
            "",
        ][n % 5]

    def _call(self, correlation_id: str, style: str, depth: int, depths: int, start: int, parent: int | None) -> int:
        """Adds a call and what it calls in turn; answers when it ends."""
        me = self._add(self.random.choice(OPERATIONS[depth]), correlation_id, style, depth, start, parent)
        now = start + self._pause()
        if depth + 1 < depths:
            for _ in range(self.random.randrange(0, 4)):
                if len(self.spans) >= self.limit:
                    break
                now = self._call(correlation_id, style, depth + 1, depths, now, me) + self._pause()
        if depth == 1 and self.random.random() < 0.4:
            now = self._twins(correlation_id, style, depth + 1, now, me)
        self.spans[me].end_ns = now + self._pause() + self.random.randrange(5 * MS, 60 * MS)
        return self.spans[me].end_ns

    def _twins(self, correlation_id: str, style: str, depth: int, now: int, parent: int) -> int:
        """Calls of one operation that overlap, as from `asyncio.gather`: siblings, however they contain one another."""
        end = now
        for _ in range(3):
            if len(self.spans) >= self.limit:
                break
            now += self.random.randrange(2 * MS, 4 * MS)
            twin = self._add(TWIN_OPERATION, correlation_id, style, depth, now, parent)
            self.spans[twin].end_ns = now + self.random.randrange(5 * MS, 30 * MS)
            end = max(end, self.spans[twin].end_ns)
        return end + self._pause()

    def _add(self, operation: str, correlation_id: str, style: str, depth: int, start: int, parent: int | None) -> int:
        number = len(self.spans)
        span = Span(operation, correlation_id, style, depth, start, parent=parent)
        span.outcome = self.random.choices(["unset", "ok", "error", "exception"], [6, 1, 1, 2])[0]
        span.metadata = {"tool": f"tool {number % 7}", "session_id": f"session {number % 11}", "step": str(number)}
        if number % 3 == 0:
            span.metadata["note"] = 'gr\u00fc\u00dfe \u2603, a "quoted" word'
        span.measurements = {"tokens": self.random.randrange(1, 5000), "score": self.random.randrange(1, 64) / 64}
        self.spans.append(span)
        return number

    def _pause(self) -> int:
        # Far above the stamp's delay, so that who contains whom is beyond doubt; odd nanoseconds, so that rounding shows.
        return self.random.randrange(40 * US, 900 * US)

    def _place_progress(self, count: int) -> None:
        """Standalone events in the middle of calls that call nothing, so that the innermost span is beyond doubt."""
        parents = {span.parent for span in self.spans}
        leaves = [
            span
            for number, span in enumerate(self.spans)
            if number not in parents and span.correlation_id and span.operation != TWIN_OPERATION
        ]
        for n in range(count):
            span = leaves[n % len(leaves)]
            span.progress_ns.append((span.start_ns + span.end_ns) // 2 + n * US)

    def _check_parents(self) -> None:
        """The parents by construction are those that the intervals alone tell: the truth does not rest on how it was made."""
        for number, span in enumerate(self.spans):
            candidates = [
                other
                for other in range(len(self.spans))
                if other != number
                and span.correlation_id
                and self.spans[other].correlation_id == span.correlation_id
                and self.spans[other].operation != span.operation
                and self.spans[other].start_ns < span.start_ns
                and self.spans[other].end_ns > span.end_ns
            ]
            nearest = max(candidates, key=lambda other: self.spans[other].start_ns, default=None)
            assert nearest == span.parent, f"ambiguous parent of span {number}: {nearest}, made as {span.parent}"

    def events(self) -> list[Event]:
        """The events in the order in which they happened."""
        made = [event for span in self.spans for event in self._events_of(span)]
        return sorted(made, key=lambda event: event.at_ns)

    def _events_of(self, span: Span) -> list[Event]:
        metadata = dict(span.metadata)
        field = span.correlation_id
        if span.style == "design" and span.correlation_id:
            metadata["correlation_id"], field = span.correlation_id, ""

        end_measurements: dict[str, int | float] = {"duration": span.end_ns - span.start_ns, **span.measurements}
        if span.style == "design":
            end_measurements["system_time"] = span.end_ns
        end_metadata = dict(metadata)
        phase = "stop"
        if span.outcome == "ok":
            end_metadata["status"] = "ok"
        elif span.outcome == "error":
            end_metadata["result"] = "error"
        elif span.outcome == "exception":
            phase = "exception"
            end_metadata |= {"error_type": "ValueError", "error_message": f"step {span.metadata['step']} failed"}

        def event(at: int, name: str, measurements: dict[str, int | float], metadata: dict[str, str]) -> Event:
            stamp = at + self.random.randrange(0, STAMP_DELAY_NS)
            return Event(at, stamp, name, field, measurements, metadata)

        return [
            event(span.start_ns, f"{span.operation}.start", {"system_time": span.start_ns}, metadata),
            event(span.end_ns, f"{span.operation}.{phase}", end_measurements, end_metadata),
            *(Event(at, at, "step.progress", span.correlation_id, {"percent": n}, {}) for n, at in enumerate(span.progress_ns)),
        ]

    def truth(self) -> list[dict[str, Any]]:
        """The spans as they have to be found in the backend."""
        return [self._truth_of(span) for span in self.spans]

    def _truth_of(self, span: Span) -> dict[str, Any]:
        # A leading `python` is not repeated after the prefix.
        operation = span.operation.removeprefix("python.")
        attributes: dict[str, Any] = {
            "snakepit.event": "[:snakepit, :python, " + ", ".join(f":{part}" for part in operation.split(".")) + "]",
            "snakepit.tool": span.metadata["tool"],
            "snakepit.session_id": span.metadata["session_id"],
            **{key: value for key, value in span.metadata.items() if key not in ("tool", "session_id")},
            **span.measurements,
        }
        if span.correlation_id:
            attributes["snakepit.correlation_id"] = span.correlation_id
        if span.parent is not None:
            attributes["snakepit.parent"] = "inferred"
        if span.outcome == "exception":
            attributes["error.type"] = "ValueError"
        elif span.outcome == "ok":
            attributes["status"] = "ok"
        elif span.outcome == "error":
            attributes["result"] = "error"
            # Nothing said what went wrong: the conventions' fallback.
            attributes["error.type"] = "_OTHER"
        message = f"step {span.metadata['step']} failed" if span.outcome == "exception" else None
        return {
            "name": f"snakepit.python.{operation}",
            "correlation_id": span.correlation_id,
            "trace_id": trace_id(span.correlation_id),
            "start_ns": span.start_ns,
            "end_ns": span.end_ns,
            "parent": span.parent,
            "kind": "server" if span.parent is None and span.correlation_id else "internal",
            "status": {"exception": "error"}.get(span.outcome, span.outcome),
            "status_message": message,
            "attributes": attributes,
            "exception": {"type": "ValueError", "message": message} if message else None,
            "events": [{"name": "snakepit.python.step.progress", "time_ns": at} for at in span.progress_ns],
        }


def trace_id(correlation_id: str) -> str | None:
    """The trace id that a correlation id has, by the published rule; none where the bridge derives one itself."""
    if not correlation_id:
        return None
    digits = correlation_id.replace("-", "") if len(correlation_id) == 36 else correlation_id
    if len(digits) == 32 and all(digit in "0123456789abcdef" for digit in digits):
        return digits
    return hashlib.sha256(correlation_id.encode()).digest()[:16].hex()


def disordered(events: list[Event], seed: int, within_ns: int) -> list[tuple[int, Event]]:
    """When each event is sent: up to `within_ns` after it happened, each by its own lot."""
    lots = random.Random(seed)
    sent = [(event.at_ns + lots.randrange(within_ns) if within_ns else event.at_ns, event) for event in events]
    return sorted(sent, key=lambda pair: pair[0])
