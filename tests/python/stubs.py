"""Python stubs of a .proto file, made at test time and never committed.

As a program: `python stubs.py PROTO OUT_DIRECTORY`, so that many workers share one generated copy.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[2]
PROTO = REPOSITORY / "proto" / "snakepit_bridge.proto"


def generate(proto: Path, out: Path) -> None:
    """Writes `<name>_pb2.py` and `<name>_pb2_grpc.py` of `proto` into `out`."""
    from grpc_tools import protoc

    out.mkdir(parents=True, exist_ok=True)
    arguments = ["protoc", f"-I{proto.parent}", f"--python_out={out}", f"--grpc_python_out={out}", str(proto)]
    if protoc.main(arguments) != 0:
        raise SystemExit(f"failed to compile {proto}")


def load(directory: Path) -> tuple[ModuleType, ModuleType]:
    """Imports the messages and the service from a directory that `generate` filled."""
    sys.path.insert(0, str(directory))
    return importlib.import_module("snakepit_bridge_pb2"), importlib.import_module("snakepit_bridge_pb2_grpc")


if __name__ == "__main__":
    generate(Path(sys.argv[1]), Path(sys.argv[2]))
