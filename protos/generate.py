"""Generates the stubs in visionloop/proto/ from protos/. Run it by `make protos`.

Two things differ from plain protoc output. Imports are made absolute below `visionloop.proto`.
And the `inference` stubs register in a descriptor pool of their own: an app may import
tritonclient, which brings the same symbols, in the same process, and the default pool refuses a
symbol that is defined twice.
"""

import re
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
# Where the stubs of each folder of protos/ go, below visionloop/proto/.
PACKAGES = {"visionloop/v1": "v1", "inference": "inference"}
PRIVATE_POOL = "inference"


def generate(output: Path) -> list[Path]:
    """Writes all stubs below `output` and returns their paths."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    written = []
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [
            "protoc",
            f"--proto_path={PROTOS}",
            f"--proto_path={well_known}",
            f"--python_out={scratch}",
            f"--pyi_out={scratch}",
            f"--grpc_python_out={scratch}",
            *sources,
        ]
        if protoc.main(arguments) != 0:
            raise SystemExit("protoc failed; its message is above")
        for folder, package in PACKAGES.items():
            target = output / package
            target.mkdir(parents=True, exist_ok=True)
            for stub in sorted((Path(scratch) / folder).glob("*_pb2*")):
                (target / stub.name).write_text(_adapt(stub.read_text(), folder))
                written.append(target / stub.name)
            (target / "__init__.py").touch()
    (output / "__init__.py").touch()
    return written


def _adapt(code: str, folder: str) -> str:
    for source, package in PACKAGES.items():
        module = source.replace("/", ".")
        code = re.sub(
            rf"^from {re.escape(module)} import",
            f"from visionloop.proto.{package} import",
            code,
            flags=re.MULTILINE,
        )
    if folder == PRIVATE_POOL:
        code = code.replace("_descriptor_pool.Default()", "_descriptor_pool.DescriptorPool()")
    return code


if __name__ == "__main__":
    destination = Path(sys.argv[1]) if sys.argv[1:] else PROTOS.parent / "visionloop" / "proto"
    for stub in generate(destination):
        print(stub)
