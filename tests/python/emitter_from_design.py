"""Runs the design document's own emitter, unmodified, as a worker.

The emitter is not ours and is not in this repository: it is taken, at run time, from the document that
SNAKEPIT_DESIGN_DOCUMENT names, with stubs from that document's own protobuf block. Without the variable this says SKIPPED
and exits with 77.
"""

import argparse
import asyncio
import importlib
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc

import stubs
from scenario import trace_id

SKIPPED = 77
VARIABLE = "SNAKEPIT_DESIGN_DOCUMENT"
PACKAGE = "design_document"
TIMEOUT_S = 100


def main() -> None:
    """Parses the arguments, extracts the emitter and runs it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=5)
    parser.add_argument("--run", default="run")
    arguments = parser.parse_args()
    document = os.environ.get(VARIABLE, "")
    if not document:
        print(f"SKIPPED: {VARIABLE} does not name the design document, so its emitter cannot be run")
        raise SystemExit(SKIPPED)
    telemetry, service = load(Path(document))
    asyncio.run(run(arguments, telemetry, service))


def load(document: Path) -> tuple[Any, Any]:
    """Makes a package of the document's emitter and of stubs from its proto; answers the emitter's module and the service."""
    text = document.read_text()
    directory = Path(tempfile.mkdtemp(prefix="design"))
    package = directory / PACKAGE
    package.mkdir()
    proto = directory / "snakepit_bridge.proto"
    proto.write_text(compilable(block(text, "protobuf", "service SnakepitBridge")))
    stubs.generate(proto, package)
    (package / "__init__.py").touch()
    (package / "telemetry.py").write_text(block(text, "python", "class GrpcTelemetryEmitter"))

    sys.path.insert(0, str(directory))
    # The generated service imports its messages by their bare name, the emitter as a part of its package: one module.
    sys.modules["snakepit_bridge_pb2"] = importlib.import_module(f"{PACKAGE}.snakepit_bridge_pb2")
    service = importlib.import_module(f"{PACKAGE}.snakepit_bridge_pb2_grpc")
    return importlib.import_module(f"{PACKAGE}.telemetry"), service


def block(text: str, language: str, containing: str) -> str:
    """The one fenced block of that language that contains the words."""
    blocks = [found for found in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if containing in found]
    if len(blocks) != 1:
        raise SystemExit(f"the document has {len(blocks)} {language} blocks with {containing!r}, not one")
    return blocks[0]


def compilable(proto: str) -> str:
    """The document's proto without the calls that it only hints at (`rpc ExecuteTool(...)`), and with its syntax said."""
    return 'syntax = "proto3";\n' + re.sub(r"^.*\(\.\.\.\).*$", "", proto, flags=re.MULTILINE)


class Spy(asyncio.Queue):
    """The emitter's queue, noting what the emitter put in: the truth, since the emitter reads the clock itself."""

    def __init__(self) -> None:
        super().__init__(maxsize=1000)
        self.seen: list[Any] = []

    def put_nowait(self, item: Any) -> None:
        """Notes and queues."""
        super().put_nowait(item)
        if item is not None:
            self.seen.append(item)


async def run(arguments: argparse.Namespace, telemetry: Any, service: Any) -> None:
    """Uses the emitter as the document's tools do: a request, its tool, the tool's model, some of which fail."""
    async with grpc.aio.insecure_channel(arguments.address) as channel:
        emitter = telemetry.GrpcTelemetryEmitter(service.SnakepitBridgeStub(channel))
        emitter.event_queue = Spy()
        await emitter.start_stream()
        emitter.emit("worker.ready", {"system_time": time.time_ns()}, {"port": 50051, "pid": os.getpid()})
        for number in range(arguments.requests):
            await request(emitter, f"{arguments.run} request {number}", fails=number % 3 == 2)
        await emitter.event_queue.put(None)
        await asyncio.wait_for(emitter.stream_task, TIMEOUT_S)
    truth = {
        "enabled": emitter.enabled,
        "sampling_rate": emitter.sampling_rate,
        "events_sent": len(emitter.event_queue.seen),
        "spans": paired(emitter.event_queue.seen),
    }
    arguments.truth.write_text(json.dumps(truth))


async def request(emitter: Any, correlation_id: str, fails: bool) -> None:
    """One request with two calls in it, the second within the first."""
    metadata = {"correlation_id": correlation_id, "tool": "translate"}
    try:
        with emitter.span("request.handle", metadata):
            await asyncio.sleep(0.003)
            with emitter.span("tool.execution", metadata):
                await asyncio.sleep(0.002)
                with emitter.span("model.inference", metadata):
                    await asyncio.sleep(0.004)
                    if fails:
                        raise ValueError("out of words")
                await asyncio.sleep(0.002)
            await asyncio.sleep(0.002)
    except ValueError:
        pass


def paired(events: list[Any]) -> list[dict[str, Any]]:
    """The spans behind the events: requests follow one another, so an operation's end belongs to its last start."""
    open_spans: list[dict[str, Any]] = []
    spans = []
    for event in events:
        operation, phase = ".".join(event.event_parts[:-1]), event.event_parts[-1]
        if phase == "start":
            open_spans.append(
                {
                    "name": f"snakepit.python.{operation}",
                    "correlation_id": event.metadata["correlation_id"],
                    "trace_id": trace_id(event.metadata["correlation_id"]),
                    "start_ns": event.measurements["system_time"].int_value,
                    "parent": open_spans[-1]["index"] if open_spans else None,
                    "index": len(spans) + len(open_spans),
                }
            )
        elif phase in ("stop", "exception"):
            span = open_spans.pop()
            span["end_ns"] = span["start_ns"] + event.measurements["duration"].int_value
            span["status"] = "error" if phase == "exception" else "unset"
            span["status_message"] = event.metadata.get("error_message") if phase == "exception" else None
            spans.append(span)
    # By their place, so that `parent` is an index into the list.
    return sorted(spans, key=lambda span: span["index"])


if __name__ == "__main__":
    main()
