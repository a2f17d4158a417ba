"""The checked-in stubs are those of the protos, and live beside tritonclient's in one process."""

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_stubs_are_current(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "protos/generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    fresh = {path.relative_to(tmp_path): path.read_text() for path in generate.generate(tmp_path)}
    assert len(fresh) == 9
    for name, code in fresh.items():
        assert (ROOT / "visionloop/proto" / name).read_text() == code, f"run `make protos`: {name}"


def test_tritonclient_and_our_stubs_share_a_process() -> None:
    code = """
import tritonclient.grpc
from tritonclient.grpc import service_pb2 as theirs
import visionloop.client
from visionloop.proto.inference import open_inference_pb2 as ours, open_inference_pb2_grpc
sent = theirs.ModelInferRequest(model_name="m", raw_input_contents=[b"abc"])
sent.inputs.add(name="images", datatype="UINT8", shape=[1, 3])
got = ours.ModelInferRequest.FromString(sent.SerializeToString())
assert (got.model_name, got.inputs[0].name, got.raw_input_contents[0]) == ("m", "images", b"abc")
"""
    for order in (code, "import visionloop.proto.inference.open_inference_pb2\n" + code):
        subprocess.run([sys.executable, "-c", order], check=True, timeout=60)
