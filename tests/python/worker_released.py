"""A client built on the classes that Snakepit has released, which number their controls otherwise than the design document.

In a released worker the telemetry stream is served by the worker; here its TelemetryStream and its messages are used by a
client, with the header that says so. Snakepit's code is not in this repository: SNAKEPIT_PYTHON names its `priv/python`.
Without the variable this says SKIPPED and exits with 77.
"""

import argparse
import asyncio
import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from scenario import trace_id

SKIPPED = 77
VARIABLE = "SNAKEPIT_PYTHON"
METHOD = "/SnakepitBridge/StreamTelemetry"
TIMEOUT_S = 100


def main() -> None:
    """Parses the arguments, loads the released classes and runs a worker on them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--worker-id", default="released_1")
    parser.add_argument("--requests", type=int, default=5)
    parser.add_argument("--run", default="run")
    arguments = parser.parse_args()
    released = os.environ.get(VARIABLE, "")
    if not released:
        print(f"SKIPPED: {VARIABLE} does not name the priv/python of Snakepit, so its released classes cannot be run")
        raise SystemExit(SKIPPED)
    messages, stream_class = load(Path(released))
    asyncio.run(run(arguments, messages, stream_class()))


def load(released: Path) -> tuple[Any, Any]:
    """The released messages and TelemetryStream, without the package around it, which wants more than gRPC."""
    sys.path.insert(0, str(released))
    messages = importlib.import_module("snakepit_bridge_pb2")
    source = released / "snakepit_bridge" / "telemetry" / "stream.py"
    spec = importlib.util.spec_from_file_location("released_stream", source)
    if spec is None or spec.loader is None:
        raise SystemExit(f"failed to load {source}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return messages, module.TelemetryStream


async def run(arguments: argparse.Namespace, messages: Any, stream: Any) -> None:
    """Joins the released stream to a call to the bridge, and makes spans until all requests are done."""
    truth: dict[str, Any] = {"spans": [], "controls": []}
    connected = asyncio.Event()
    headers = [
        ("x-snakepit-worker-id", arguments.worker_id),
        ("x-snakepit-pool", "default"),
        ("x-snakepit-python-pid", str(os.getpid())),
        ("x-snakepit-dialect", "released"),
    ]
    async with grpc.aio.insecure_channel(arguments.address) as channel:
        call = channel.stream_stream(
            METHOD,
            request_serializer=messages.TelemetryEvent.SerializeToString,
            response_deserializer=messages.TelemetryControl.FromString,
        )(metadata=headers)

        # The released stream cancels whoever reads its controls when it closes; that must not cancel the call itself.
        received: asyncio.Queue[Any] = asyncio.Queue()

        async def read() -> None:
            async for control in call:
                truth["controls"].append(control.WhichOneof("control"))
                received.put_nowait(control)
                # The bridge sends the whole policy first: toggle, sampling, filter.
                if len(truth["controls"]) == 3:
                    connected.set()

        async def controls() -> AsyncIterator[Any]:
            while True:
                yield await received.get()

        async def forward() -> int:
            sent = 0
            async for event in stream.stream(controls(), None):
                await call.write(event)
                sent += 1
            await call.done_writing()
            return sent

        reading = asyncio.create_task(read())
        forwarding = asyncio.create_task(forward())
        await asyncio.wait_for(connected.wait(), TIMEOUT_S)
        for number in range(arguments.requests):
            await request(stream, truth["spans"], f"{arguments.run} request {number}", fails=number % 3 == 2)
        stream.close()
        truth["events_sent"] = await forwarding
        await reading
        truth["status"] = (await call.code()).name

    truth |= {"enabled": stream.enabled, "sampling_rate": stream.sampling_rate, "dropped": stream.dropped_count}
    arguments.truth.write_text(json.dumps(truth))


async def request(stream: Any, spans: list[dict[str, Any]], correlation_id: str, fails: bool) -> None:
    """One request with a call in it; notes what was true."""
    try:
        with span(stream, spans, "request.handle", correlation_id, None) as outer:
            await asyncio.sleep(0.003)
            with span(stream, spans, "tool.execution", correlation_id, outer):
                await asyncio.sleep(0.004)
                if fails:
                    raise ValueError("out of words")
            await asyncio.sleep(0.002)
    except ValueError:
        pass


@contextmanager
def span(stream: Any, spans: list[dict[str, Any]], operation: str, correlation_id: str, parent: int | None) -> Iterator[int]:
    """Emits what a released worker emits around a call: `system_time` at the start, `duration` at the end."""
    metadata = {"tool": "translate"}
    start = time.time_ns()
    stream.emit(f"{operation}.start", {"system_time": start}, metadata, correlation_id)
    me = {
        "name": f"snakepit.python.{operation}",
        "correlation_id": correlation_id,
        "trace_id": trace_id(correlation_id),
        "start_ns": start,
        "parent": parent,
        "status": "unset",
        "status_message": None,
    }
    spans.append(me)
    phase, more = "stop", {}
    try:
        yield len(spans) - 1
    except Exception as error:
        phase, more = "exception", {"error_type": type(error).__name__, "error_message": str(error)}
        me |= {"status": "error", "status_message": str(error)}
        raise
    finally:
        duration = time.time_ns() - start
        me["end_ns"] = start + duration
        stream.emit(f"{operation}.{phase}", {"duration": duration}, {**metadata, **more}, correlation_id)


if __name__ == "__main__":
    main()
