"""Clients that no bridge wants, one behaviour each, for tests that show what they cost the others: nothing.

Each prints one line of JSON on standard output when it has done its worst, with what it saw, and then, with `--hold`, stays
as it is until its standard input closes. Stubs are not used: the bytes are made here, so that they can be wrong.
"""

import argparse
import json
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

METHOD = "/SnakepitBridge/StreamTelemetry"
BATCHES = "/SnakepitBridge/StreamTelemetryBatches"


def main() -> None:
    """Runs the behaviour that the first argument names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("behaviour", choices=sorted(BEHAVIOURS))
    parser.add_argument("--address", required=True)
    parser.add_argument("--worker-id", default="hostile_1")
    parser.add_argument("--count", type=int, default=1000, help="streams, sockets or messages")
    parser.add_argument("--bytes", type=int, default=5_000_000, help="size of an oversized message")
    parser.add_argument("--gzip", action="store_true", help="send messages compressed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hold", action="store_true", help="stay until standard input closes")
    arguments = parser.parse_args()
    kept, report = BEHAVIOURS[arguments.behaviour](arguments)
    print(json.dumps(report), flush=True)
    if arguments.hold:
        sys.stdin.read()
    del kept


# === Behaviours: each answers what must stay alive, and what it saw ===


def never_reads(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Sends spans, and never takes a control from its stream."""
    messages = [half for n in range(arguments.count) for half in span(f"never_reads.{n % 10}", n)]
    return open_stream(arguments, messages, read=False)


def silent_streams(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Opens streams and says nothing on them, nor ends them."""
    streams = [Stream(arguments, arguments.worker_id, channel=None) for _ in range(arguments.count)]
    return streams, {"streams": len(streams)}


def silent_sockets(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Opens connections and says nothing, not even HTTP/2's preface."""
    sockets = [connect(arguments.address) for _ in range(arguments.count)]
    return sockets, {"sockets": len(sockets)}


def not_http2(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Sends bytes that are no HTTP/2 at all, to `count` connections."""
    lots = random.Random(arguments.seed)
    closed = 0
    for _ in range(arguments.count):
        with connect(arguments.address) as peer:
            try:
                peer.sendall(b"GET / HTTP/1.1\r\n\r\n" + lots.randbytes(2000))
                peer.settimeout(5)
                while peer.recv(4096):
                    pass
                closed += 1
            except OSError:
                closed += 1
    return None, {"closed_by_bridge": closed}


def many_streams(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Opens many streams at once, each another worker's with one whole span; all stay open."""
    # Servers allow some hundred streams a connection, so there are several connections.
    channels = [own_channel(arguments) for _ in range(1 + arguments.count // 100)]
    streams = []
    for n in range(arguments.count):
        stream = Stream(arguments, f"{arguments.worker_id}_{n}", channels[n % len(channels)])
        for half in span("many.streams", n):
            stream.send(half)
        streams.append(stream)
    answered = sum(stream.first_control(timeout_s=100) is not None for stream in streams)
    return (streams, channels), {"streams": len(streams), "answered": answered}


def garbage(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Sends bytes that are no event, in many ways wrong, then one good span on the same stream."""
    lots = random.Random(arguments.seed)
    good = span("after.garbage", 1)
    bad = [
        lots.randbytes(lots.randrange(1, 300))
        if n % 3 == 0
        # A good event cut short, or with one byte changed.
        else good[0][: lots.randrange(1, len(good[0]))]
        if n % 3 == 1
        else flipped(good[0], lots)
        for n in range(arguments.count)
    ]
    return open_stream(arguments, [*bad, *good])


def oversized(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Sends one event of `--bytes` bytes, then one good span on the same stream."""
    big = event("oversized.start", metadata={"text": "x" * arguments.bytes})
    return open_stream(arguments, [big, *span("after.oversized", 1)])


def bad_values(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Sends well-formed events whose values are absurd, then one good span on the same stream."""
    now = time.time_ns()
    messages = [
        event("", now),
        event("x" * 10_000 + ".start", now),
        event("odd.phase.pause", now),
        event("not.finite", now, {"value": float("nan"), "other": float("inf")}),
        event("min.time.start", -(2**63)),
        event("max.time.start", 2**63 - 1),
        event("zero.time.start", 0),
        event("negative.duration.stop", now, {"duration": -5_000_000}),
        event("absurd.duration.stop", now, {"duration": 2**63 - 1}),
        event("control.characters.stop", now, {"duration": 1000}, {"a\x00b\n": "\x1b[31mred\x07\r\n\u202e"}),
        event("many.metadata.stop", now, {"duration": 1000}, {f"key {n}": "v" * 50 for n in range(2000)}),
        *(event(f"distinct.name_{n}", now, {"count": 1}) for n in range(arguments.count)),
    ]
    return open_stream(arguments, [*messages, *span("after.bad_values", 1)])


def wrong_method(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Calls methods that are not there (yet)."""
    channel = own_channel(arguments)
    codes = {}
    for method in (BATCHES, "/SnakepitBridge/Nothing", "/snakepit.bridge.BridgeService/StreamTelemetry"):
        call = channel.stream_stream(method, request_serializer=None, response_deserializer=None)(iter([b""]))
        try:
            for _ in call:
                pass
            codes[method] = "OK"
        except grpc.RpcError as error:
            codes[method] = error.code().name
    return channel, {"codes": codes}


BEHAVIOURS: dict[str, Callable[[argparse.Namespace], tuple[Any, dict[str, Any]]]] = {
    "never-reads": never_reads,
    "silent-streams": silent_streams,
    "silent-sockets": silent_sockets,
    "not-http2": not_http2,
    "many-streams": many_streams,
    "garbage": garbage,
    "oversized": oversized,
    "bad-values": bad_values,
    "wrong-method": wrong_method,
}


# === Streams of raw bytes ===


class Stream:
    """One StreamTelemetry call whose messages are bytes; it stays open until `finish`."""

    def __init__(self, arguments: argparse.Namespace, worker_id: str, channel: grpc.Channel | None) -> None:
        import queue

        self.queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.channel = channel or own_channel(arguments)
        method = self.channel.stream_stream(METHOD, request_serializer=None, response_deserializer=None)
        headers = [("x-snakepit-worker-id", worker_id), ("x-snakepit-python-pid", "1")]
        compression = grpc.Compression.Gzip if arguments.gzip else None
        self.call = method(iter(self.queue.get, None), metadata=headers, compression=compression)

    def send(self, message: bytes) -> None:
        """Queues a message; the call's own thread sends it."""
        self.queue.put(message)

    def first_control(self, timeout_s: float) -> bytes | None:
        """The first control, none if the stream ended or nothing came in time."""
        import threading

        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.extend(take_one(self.call)), daemon=True)
        reader.start()
        reader.join(timeout_s)
        return got[0] if got else None

    def finish(self) -> str:
        """Half-closes, reads what is left and answers the status."""
        self.queue.put(None)
        try:
            for _ in self.call:
                pass
        except grpc.RpcError as error:
            return error.code().name
        return self.call.code().name


def open_stream(arguments: argparse.Namespace, messages: list[bytes], read: bool = True) -> tuple[Stream, dict[str, Any]]:
    """Sends all messages on one stream; with `read` it also ends it and reports the status."""
    stream = Stream(arguments, arguments.worker_id, None)
    for message in messages:
        stream.send(message)
    report: dict[str, Any] = {"sent": len(messages)}
    if read:
        report["status"] = stream.finish()
    else:
        deadline = time.monotonic() + 20
        while not stream.queue.empty() and time.monotonic() < deadline:
            time.sleep(0.01)
        report["unsent"] = stream.queue.qsize()
    return stream, report


def take_one(call: Any) -> Iterator[bytes]:
    """At most one message of the call; none if it fails."""
    try:
        yield next(call)
    except (StopIteration, grpc.RpcError):
        return


def own_channel(arguments: argparse.Namespace) -> grpc.Channel:
    """A channel with a connection of its own."""
    return grpc.insecure_channel(arguments.address, options=[("grpc.use_local_subchannel_pool", 1)])


def connect(address: str) -> socket.socket:
    """A plain TCP connection."""
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=100)


# === Protobuf by hand ===


def span(operation: str, number: int) -> list[bytes]:
    """The two events of one good span."""
    now = time.time_ns() - 1_000_000
    metadata = {"number": str(number)}
    return [
        event(f"{operation}.start", now, {"system_time": now}, metadata),
        event(f"{operation}.stop", now + 1_000_000, {"duration": 1_000_000}, metadata),
    ]


def event(
    name: str,
    timestamp_ns: int | None = None,
    measurements: dict[str, int | float] | None = None,
    metadata: dict[str, str] | None = None,
) -> bytes:
    """A TelemetryEvent on the wire."""
    out = b"".join(field(1, part.encode()) for part in name.split("."))
    for key, value in (measurements or {}).items():
        if isinstance(value, int):
            encoded = varint(1 << 3) + varint(value)
        else:
            import struct

            encoded = varint(2 << 3 | 1) + struct.pack("<d", value)
        out += field(2, field(1, key.encode()) + field(2, encoded))
    for key, text in (metadata or {}).items():
        out += field(3, field(1, key.encode()) + field(2, text.encode()))
    return out + varint(4 << 3) + varint(time.time_ns() if timestamp_ns is None else timestamp_ns)


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    """A varint; negative numbers take ten bytes, as int64 does."""
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def flipped(message: bytes, lots: random.Random) -> bytes:
    """The message with one byte changed."""
    changed = bytearray(message)
    changed[lots.randrange(len(changed))] ^= 1 << lots.randrange(8)
    return bytes(changed)


if __name__ == "__main__":
    main()
