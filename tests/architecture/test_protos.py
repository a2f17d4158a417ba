"""The checked-in stubs are those of the protos, say the same as tritonclient's, and live beside
them in one process."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from google.protobuf.descriptor import Descriptor, FileDescriptor
from tritonclient.grpc import model_config_pb2, service_pb2

from visionloop.proto.inference import open_inference_pb2
from visionloop.proto.v1 import labeling_pb2, recognition_pb2

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


def _fields(message: Descriptor) -> dict[str, tuple[object, ...]]:
    """What of each field is on the wire, and what a client sees of it."""
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.message_type.full_name if field.message_type else None,
            field.enum_type.full_name if field.enum_type else None,
            field.containing_oneof.name if field.containing_oneof else None,
        )
        for field in message.fields
    }


def _messages(found: Iterable[Descriptor]) -> dict[str, Descriptor]:
    every = {}
    for message in found:
        every[message.full_name] = message
        every.update(_messages(message.nested_types))
    return every


def _enums(file: FileDescriptor) -> dict[str, dict[str, int]]:
    messages = _messages(file.message_types_by_name.values()).values()
    found = [*file.enum_types_by_name.values(), *(e for m in messages for e in m.enum_types)]
    return {enum.full_name: {v.name: v.number for v in enum.values} for enum in found}


TRITON = (service_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR)


def test_messages_are_triton_s() -> None:
    """Whatever we have is the same in NVIDIA's client: names, numbers, types, oneofs. What is used
    of a request or an answer is all there; ModelConfig may be a part of theirs."""
    ours = _messages(open_inference_pb2.DESCRIPTOR.message_types_by_name.values())
    theirs: dict[str, Descriptor] = {}
    for file in TRITON:
        theirs.update(_messages(file.message_types_by_name.values()))
    assert len(ours) > 70
    for name, message in ours.items():
        wanted = _fields(theirs[name])
        assert _fields(message).items() <= wanted.items(), name
    partial = {name for name, message in ours.items() if _fields(message) != _fields(theirs[name])}
    assert partial == {
        "inference.ModelConfig",
        "inference.ModelDynamicBatching",
        "inference.ModelInput",
        "inference.ModelInstanceGroup",
        "inference.ModelOutput",
        "inference.ModelStatistics",
    }


def test_enums_are_triton_s() -> None:
    theirs = {name: values for file in TRITON for name, values in _enums(file).items()}
    ours = _enums(open_inference_pb2.DESCRIPTOR)
    assert ours
    assert ours.items() <= theirs.items()


def test_rpcs_are_triton_s() -> None:
    def methods(file: FileDescriptor) -> dict[str, tuple[object, ...]]:
        service = file.services_by_name["GRPCInferenceService"]
        assert service.full_name == "inference.GRPCInferenceService"
        return {
            method.name: (
                method.input_type.full_name,
                method.output_type.full_name,
                method.client_streaming,
                method.server_streaming,
            )
            for method in service.methods
        }

    assert methods(open_inference_pb2.DESCRIPTOR) == methods(service_pb2.DESCRIPTOR)


def test_both_sides_read_the_same_request() -> None:
    """One message with every field set, there and back."""
    sent = service_pb2.ModelInferRequest(model_name="m", model_version="3", id="é")
    sent.parameters["p"].double_param = 0.5
    tensor = sent.inputs.add(name="x", datatype="INT64", shape=[2, -1])
    tensor.parameters["shared_memory_region"].string_param = "r"
    tensor.contents.int64_contents.extend([-5, 2**62])
    sent.outputs.add(name="y").parameters["classification"].int64_param = 3
    sent.raw_input_contents.append(b"\0\xff")
    data = sent.SerializeToString(deterministic=True)
    got = open_inference_pb2.ModelInferRequest.FromString(data)
    assert str(got) == str(sent)
    assert got.SerializeToString(deterministic=True) == data


API = Path(__file__).with_name("api-v1.json")


def _api(file: FileDescriptor) -> dict[str, dict[str, list[object]]]:
    """Each message's fields, each enum's values and each service's calls, by name."""
    found: dict[str, dict[str, list[object]]] = {}
    for name, message in _messages(file.message_types_by_name.values()).items():
        found[name] = {field: list(said) for field, said in _fields(message).items()}
    for name, values in _enums(file).items():
        found[name] = {value: [number] for value, number in values.items()}
    for service in file.services_by_name.values():
        found[service.full_name] = {
            call.name: [
                call.input_type.full_name,
                call.output_type.full_name,
                call.client_streaming,
                call.server_streaming,
            ]
            for call in service.methods
        }
    return found


def test_what_apps_were_built_against_is_still_there() -> None:
    """docs/apps.md promises it: v1 only grows. UPDATE_SNAPSHOTS=1 writes down what is new."""
    now = {**_api(recognition_pb2.DESCRIPTOR), **_api(labeling_pb2.DESCRIPTOR)}
    promised = json.loads(API.read_text(encoding="utf-8"))
    for name, parts in promised.items():
        for part, said in parts.items():
            assert now.get(name, {}).get(part) == said, f"{name}.{part} is not what it was"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        API.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        promised = now
    assert now == promised, "the API has grown: UPDATE_SNAPSHOTS=1 writes it down"
