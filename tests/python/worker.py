"""A Snakepit worker of our own: plays a scenario to the bridge over real gRPC and writes down what was true.

It prints `CONNECTED` once the bridge has answered with its first control, and with `--wait` starts at the first line on
its standard input, so that many workers can start at once. The truth file is complete when the process has ended.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc

import stubs
from scenario import MS, Event, Scenario, disordered

FIRST_CONTROL_TIMEOUT_S = 100


def main() -> None:
    """Parses the arguments and runs the worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True, help="host:port of the bridge")
    parser.add_argument("--worker-id", default="worker_1")
    parser.add_argument("--pool", default="default")
    parser.add_argument("--node", default="")
    parser.add_argument("--pid", type=int, default=os.getpid())
    parser.add_argument("--dialect", default="")
    parser.add_argument("--header", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--tls-ca", type=Path, help="speak TLS to a bridge whose certificate is of this CA")
    parser.add_argument("--tls-cert", type=Path, help="this worker's own certificate")
    parser.add_argument("--tls-key", type=Path, help="its key")
    parser.add_argument("--run", default="run", help="makes the correlation ids of this run its own")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--spans", type=int, default=125)
    parser.add_argument("--progress", type=int, default=0, help="standalone events within the spans")
    parser.add_argument("--disorder-ms", type=int, default=0, help="each event is sent up to this much later")
    parser.add_argument("--truth", type=Path, help="where to write what was true")
    parser.add_argument("--stubs", type=Path, help="directory of generated stubs; made anew if not given")
    parser.add_argument("--wait", action="store_true", help="start at the first line on standard input")
    arguments = parser.parse_args()
    if arguments.stubs is None:
        arguments.stubs = Path(tempfile.mkdtemp(prefix="stubs"))
        stubs.generate(stubs.PROTO, arguments.stubs)
    asyncio.run(run(arguments))


async def run(arguments: argparse.Namespace) -> None:
    """Connects, plays the scenario, half-closes and waits for the bridge's answer."""
    pb2, pb2_grpc = stubs.load(arguments.stubs)
    controls: list[dict[str, Any]] = []
    connected = asyncio.Event()

    async with connection(arguments) as channel:
        call = pb2_grpc.SnakepitBridgeStub(channel).StreamTelemetry(metadata=headers(arguments))
        reader = asyncio.create_task(read_controls(call, controls, connected))
        first = asyncio.create_task(connected.wait())
        await asyncio.wait({first, reader}, timeout=FIRST_CONTROL_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if not connected.is_set():
            raise SystemExit(f"the bridge let no stream in: {reader.exception() if reader.done() else 'no answer'}")
        print("CONNECTED", flush=True)
        if arguments.wait:
            await asyncio.to_thread(sys.stdin.readline)

        scenario = Scenario(
            arguments.worker_id,
            arguments.run,
            arguments.seed,
            arguments.spans,
            arguments.progress,
            # The first event happens now, so that the scenario can be played in its own time.
            base_ns=time.time_ns(),
        )
        sent = await play(call, pb2, disordered(scenario.events(), arguments.seed, arguments.disorder_ms * MS))
        await call.done_writing()
        await reader
        status = await call.code()

    if arguments.truth:
        write_truth(arguments, scenario, sent, controls, status)
    if status != grpc.StatusCode.OK:
        raise SystemExit(f"the bridge ended the stream with {status}")


def connection(arguments: argparse.Namespace) -> grpc.aio.Channel:
    """A channel to the bridge, over TLS if a CA is given."""
    if arguments.tls_ca is None:
        return grpc.aio.insecure_channel(arguments.address)
    own = [file.read_bytes() if file else None for file in (arguments.tls_key, arguments.tls_cert)]
    credentials = grpc.ssl_channel_credentials(arguments.tls_ca.read_bytes(), *own)
    # Tests reach the bridge by address; its certificate has its name.
    options = [("grpc.ssl_target_name_override", "localhost")]
    return grpc.aio.secure_channel(arguments.address, credentials, options)


def headers(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """The request headers by which the bridge knows the worker; those without a value are not sent."""
    known = [
        ("x-snakepit-worker-id", arguments.worker_id),
        ("x-snakepit-pool", arguments.pool),
        ("x-snakepit-python-pid", str(arguments.pid) if arguments.pid else ""),
        ("x-snakepit-node", arguments.node),
        ("x-snakepit-dialect", arguments.dialect),
        *(tuple(header.split("=", 1)) for header in arguments.header),
    ]
    return [(name, value) for name, value in known if value]


async def read_controls(call: Any, controls: list[dict[str, Any]], connected: asyncio.Event) -> None:
    """Notes every control until the bridge ends the stream."""
    from google.protobuf import json_format

    async for control in call:
        controls.append(json_format.MessageToDict(control, preserving_proto_field_name=True))
        connected.set()


async def play(call: Any, pb2: Any, schedule: list[tuple[int, Event]]) -> int:
    """Sends each event when it is due on the wall clock; answers how many were sent."""
    for due_ns, event in schedule:
        ahead = due_ns - time.time_ns()
        if ahead > 1 * MS:
            await asyncio.sleep(ahead / 1e9)
        await call.write(message(pb2, event))
    return len(schedule)


def message(pb2: Any, event: Event) -> Any:
    """The event in protobuf, as the known emitters build it."""
    built = pb2.TelemetryEvent(
        event_parts=event.name.split("."), timestamp_ns=event.timestamp_ns, correlation_id=event.correlation_id
    )
    for key, value in event.measurements.items():
        if isinstance(value, int):
            built.measurements[key].int_value = value
        else:
            built.measurements[key].float_value = value
    for key, value in event.metadata.items():
        built.metadata[key] = value
    return built


def write_truth(
    arguments: argparse.Namespace, scenario: Scenario, sent: int, controls: list[dict[str, Any]], status: Any
) -> None:
    """Writes what the test compares with the backend."""
    truth = {
        "worker_id": arguments.worker_id,
        "pool": arguments.pool,
        "node": arguments.node,
        "pid": arguments.pid,
        "events_sent": sent,
        "controls": controls,
        "status": status.name,
        "spans": scenario.truth(),
    }
    arguments.truth.write_text(json.dumps(truth))


if __name__ == "__main__":
    main()
