"""A worker that is measured: calls and standalone events as the known emitters make them, in real time, until told.

Calls follow the design document's emitter (correlation id in the metadata, `system_time` and `result` on the end) and the
released one (`python.call` without a correlation id) by turns; the events are those that Snakepit's catalogue and guides
name. It prints `CONNECTED`, works until it is sent a line, writes what was true, prints `DONE`, and stays connected until its
standard input is closed, because the series of a worker that is gone end.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import stubs
from scenario import Event
from worker import FIRST_CONTROL_TIMEOUT_S, connection, headers, message, read_controls

TOOLS = ["translate", "summarize", "embed"]
MODELS = ["minilm", "opus-mt"]
ROUND_S = 0.2
MB = 1 << 20


class Measured:
    """What is sent, and what follows from it."""

    def __init__(self, call: Any, pb2: Any, run: str, seed: int) -> None:
        self.call = call
        self.pb2 = pb2
        self.run = run
        self.random = random.Random(seed)
        self.events_sent = 0
        self.sums: Counter[str] = Counter()

    async def emit(
        self,
        name: str,
        measurements: dict[str, int | float],
        metadata: dict[str, str] | None = None,
        correlation_id: str = "",
    ) -> None:
        """Sends one event, stamped now."""
        now = time.time_ns()
        event = Event(now, now, name, correlation_id, measurements, metadata or {})
        await self.call.write(message(self.pb2, event))
        self.events_sent += 1

    async def begin(self) -> None:
        """What a worker says when it is up; and a call that will never end."""
        await self.emit("worker.ready", {"system_time": time.time_ns()}, {"port": "50051", "pid": str(os.getpid())})
        await self.emit("model.load.start", {"system_time": time.time_ns()}, {"model": MODELS[0]})

    async def round(self, number: int) -> None:
        """One request with all that happens in it, and the samples between requests."""
        await self.execute(number, TOOLS[number % len(TOOLS)], f"{self.run} request {number}")
        await self.library_call()
        await self.sample()

    async def execute(self, number: int, tool: str, correlation_id: str) -> None:
        """A tool's execution, an inference in it; every fourth one fails."""
        metadata = {"tool": tool, "correlation_id": correlation_id}
        start = time.time_ns()
        await self.emit("tool.execution.start", {"system_time": start}, metadata)
        await asyncio.sleep(self.random.uniform(0.005, 0.03))
        latency_ms, tokens = self.random.uniform(1, 20), self.random.randrange(1, 2000)
        model = {"model": MODELS[number % len(MODELS)], "batch_size": "8"}
        await self.emit("model.inference", {"latency_ms": latency_ms, "tokens": tokens}, model, correlation_id)
        size = self.random.randrange(64, 1 << 16)
        await self.emit("tool.result_size", {"bytes": size}, {"tool": tool}, correlation_id)
        await self.emit("cache.hit" if number % 3 else "cache.miss", {}, {"key": correlation_id}, correlation_id)
        await asyncio.sleep(0.003)
        end = time.time_ns()
        measurements = {"duration": end - start, "system_time": end}
        if number % 4 == 3:
            failed = {**metadata, "result": "error", "error_type": "ValueError", "error_message": f"request {number} failed"}
            await self.emit("tool.execution.exception", measurements, failed)
            self.sums["errors"] += 1
        else:
            await self.emit("tool.execution.stop", measurements, {**metadata, "result": "success"})
        self.sums["executions"] += 1
        self.sums["tokens"] += tokens
        self.sums["bytes"] += size
        self.sums["hits" if number % 3 else "misses"] += 1

    async def library_call(self) -> None:
        """What the adapter for Python libraries sends around each call."""
        metadata = {"library": "numpy", "function": "dot", "call_type": "function", "python_module": "numpy.linalg"}
        start = time.time_ns()
        await self.emit("python.call.start", {"system_time": start}, metadata)
        await asyncio.sleep(0.002)
        await self.emit("python.call.stop", {"duration": time.time_ns() - start}, metadata)
        self.sums["calls"] += 1

    async def sample(self) -> None:
        """What a worker samples of itself and its devices."""
        grown = 100 * MB + self.sums["calls"] * MB
        now = {"system_time": time.time_ns()}
        await self.emit("memory.sampled", {"rss_bytes": grown, "vms_bytes": 4 * grown, **now}, {"pid": str(os.getpid())})
        await self.emit("cpu.sampled", {"cpu_percent": self.random.uniform(1, 90)})
        await self.emit("gc.completed", {"collected": self.random.randrange(1, 500), "duration": 900}, {"generation": "2"})
        device = {"device": "cuda:0"}
        await self.emit("gpu.memory.sampled", {"used_mb": 900, "free_mb": 100, "total_mb": 1000}, device)
        await self.emit("gpu.utilization.sampled", {"gpu_percent": 75, "memory_percent": 90}, device)


def main() -> None:
    """Parses the arguments and runs the worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True, help="host:port of the bridge")
    parser.add_argument("--worker-id", default="worker_1")
    parser.add_argument("--pool", default="default")
    parser.add_argument("--node", default="node-a")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--truth", type=Path, required=True, help="where to write what was true")
    parser.add_argument("--stubs", type=Path, required=True, help="directory of generated stubs")
    parser.set_defaults(pid=os.getpid(), dialect="", header=[], tls_ca=None)
    asyncio.run(run(parser.parse_args()))


async def run(arguments: argparse.Namespace) -> None:
    """Connects, is measured, and stays until told to go."""
    pb2, pb2_grpc = stubs.load(arguments.stubs)
    connected = asyncio.Event()
    async with connection(arguments) as channel:
        call = pb2_grpc.SnakepitBridgeStub(channel).StreamTelemetry(metadata=headers(arguments))
        reader = asyncio.create_task(read_controls(call, [], connected))
        await asyncio.wait_for(connected.wait(), FIRST_CONTROL_TIMEOUT_S)
        print("CONNECTED", flush=True)
        measured = Measured(call, pb2, arguments.worker_id, arguments.seed)
        await measured.begin()
        told = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
        began, number = time.monotonic(), 0
        while not told.done():
            await measured.round(number)
            number += 1
            # Rounds keep their pace, so that counters grow from each collection to the next.
            await asyncio.sleep(max(0.0, began + number * ROUND_S - time.monotonic()))
        arguments.truth.write_text(json.dumps({"events_sent": measured.events_sent, **measured.sums}))
        print("DONE", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await call.done_writing()
        await reader


if __name__ == "__main__":
    main()
