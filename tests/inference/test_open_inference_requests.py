"""What the Open Inference servicer makes of requests, on real runners: every form of tensors."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from support import runners
from support.open_inference import NO_DEADLINE, OFFER, Context, outputs, request, served

from visionloop.errors import (
    DeadlineExceededError,
    InvalidInputError,
    NotFoundError,
    UnimplementedError,
    VisionloopError,
)
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop_inference import levels, replies
from visionloop_inference.classes import endings
from visionloop_inference.datatypes import DATATYPES
from visionloop_inference.open_inference import MAX_KINDS, OpenInference
from visionloop_inference.routed_version import RowFailedError

ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
Use = Callable[[OpenInference], Coroutine[Any, Any, None]]


def run(folder: Path, made: tuple[bytes, Any], use: Use, **options: Any) -> None:
    """`use` of a servicer that serves this graph as the model "small"."""

    async def all_of_it() -> None:
        async with served(folder, made, **options) as open_inference:
            await use(open_inference)

    asyncio.run(all_of_it())


def identity(datatype: str, shape: list[int]) -> tuple[bytes, Any]:
    """y = x of any datatype."""
    return runners.model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", datatype, shape)],
        [("y", datatype, shape)],
    )


def changed(**fields: Any) -> pb.ModelInferRequest:
    """A good request to the tiny model, but for these fields."""
    made = request(x=ROWS)
    for name, value in fields.items():
        made.ClearField(name)
        made.MergeFrom(pb.ModelInferRequest(**{name: value}))
    return made


def test_a_raw_request(tmp_path: Path) -> None:
    async def use(served: OpenInference) -> None:
        asked = request(x=ROWS)
        asked.id = "seven"
        for _ in range(3):  # the second one goes by the plan of the first
            answer = await served.ModelInfer(asked, NO_DEADLINE)
            assert (answer.id, answer.model_name, answer.model_version) == ("seven", "small", "1")
            np.testing.assert_array_equal(outputs(answer)["y"], 2 * ROWS + 1)
        asked.ClearField("id")
        assert not (await served.ModelInfer(asked, NO_DEADLINE)).id
        more = request(x=np.vstack([ROWS] * 3))
        answer = await served.ModelInfer(more, NO_DEADLINE)
        np.testing.assert_array_equal(outputs(answer)["y"], 2 * np.vstack([ROWS] * 3) + 1)

    run(tmp_path, runners.tiny(), use)


def test_bytes_in_bytes_out(tmp_path: Path) -> None:
    async def use(served: OpenInference) -> None:
        asked = request(x=ROWS)
        answer = await served.ModelInfer(asked.SerializeToString(), NO_DEADLINE)
        assert pb.ModelInferResponse.FromString(answer) == await served.ModelInfer(
            asked, NO_DEADLINE
        )

    run(tmp_path, runners.tiny(), use)


TYPED = {
    "BOOL": ("bool_contents", [True, False, True, True]),
    "INT8": ("int_contents", [-128, 0, 127, 1]),
    "INT16": ("int_contents", [-(2**15), 0, 2**15 - 1, 1]),
    "INT32": ("int_contents", [-(2**31), 0, 2**31 - 1, 1]),
    "INT64": ("int64_contents", [-(2**63), 0, 2**63 - 1, 1]),
    "UINT8": ("uint_contents", [0, 1, 254, 255]),
    "UINT16": ("uint_contents", [0, 1, 2, 2**16 - 1]),
    "UINT32": ("uint_contents", [0, 1, 2, 2**32 - 1]),
    "UINT64": ("uint64_contents", [0, 1, 2, 2**64 - 1]),
    "FP32": ("fp32_contents", [0.5, -2.0, float("inf"), 0.0]),
    "FP64": ("fp64_contents", [0.1, -2.0, float("-inf"), 1e300]),
    "BYTES": ("bytes_contents", [b"one", b"", "zwölf".encode(), b"4"]),
}


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_typed_and_raw(tmp_path: Path, datatype: str) -> None:
    """Each comes back as it was sent: typed when it came typed, else raw."""

    async def use(served: OpenInference) -> None:
        asked = pb.ModelInferRequest(model_name="small")
        tensor = asked.inputs.add(name="x", datatype=datatype, shape=[2, 2])
        if datatype in TYPED:
            field, values = TYPED[datatype]
            getattr(tensor.contents, field).extend(values)
            answer = await served.ModelInfer(asked, NO_DEADLINE)
            [output] = answer.outputs
            assert (output.name, output.datatype, list(output.shape)) == ("y", datatype, [2, 2])
            assert list(getattr(output.contents, field)) == values
            assert not answer.raw_output_contents
            tensor.ClearField("contents")
        size = DATATYPES[datatype].size
        raw = (
            b"\0\1\1\0" * size
            if size
            else b"".join(len(v).to_bytes(4, "little") + v for v in TYPED["BYTES"][1])
        )
        asked.raw_input_contents.append(raw)
        answer = await served.ModelInfer(asked, NO_DEADLINE)
        assert list(answer.raw_output_contents) == [raw]
        assert not answer.outputs[0].HasField("contents")
        assert answer.outputs[0].datatype == datatype

    run(tmp_path, identity(datatype, [2]), use)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats_are_raw_only(tmp_path: Path, datatype: str) -> None:
    async def use(served: OpenInference) -> None:
        asked = pb.ModelInferRequest(model_name="small")
        tensor = asked.inputs.add(name="x", datatype=datatype, shape=[1, 2])
        tensor.contents.fp32_contents.extend([1, 2])
        with pytest.raises(InvalidInputError, match="no field in contents; send it in raw"):
            await served.ModelInfer(asked, NO_DEADLINE)

    run(tmp_path, identity(datatype, [2]), use)


def two() -> tuple[bytes, Any]:
    """total = a + b, difference = a - b; names with signs in them."""
    return runners.model(
        [
            helper.make_node("Add", ["a:0", "b"], ["total"]),
            helper.make_node("Sub", ["a:0", "b"], ["difference"]),
        ],
        [("a:0", "INT32", [3]), ("b", "INT32", [3])],
        [("total", "INT32", [3]), ("difference", "INT32", [3])],
    )


def test_several_inputs_in_any_order_and_outputs_as_asked(tmp_path: Path) -> None:
    a, b = np.int32([[1, 2, 3]]), np.int32([[10, 20, 30]])

    async def use(served: OpenInference) -> None:
        for asked in (request(**{"a:0": a, "b": b}), request(**{"b": b, "a:0": a})):
            answer = await served.ModelInfer(asked, NO_DEADLINE)
            assert [output.name for output in answer.outputs] == ["total", "difference"]
            assert outputs(answer)["difference"].tolist() == [[-9, -18, -27]]
            asked.outputs.add(name="difference")
            answer = await served.ModelInfer(asked, NO_DEADLINE)
            assert {name: y.tolist() for name, y in outputs(answer).items()} == {
                "difference": [[-9, -18, -27]]
            }
            asked.outputs.add(name="total")
            answer = await served.ModelInfer(asked, NO_DEADLINE)
            assert [output.name for output in answer.outputs] == ["difference", "total"]
            assert outputs(answer)["total"].tolist() == [[11, 22, 33]]

        uneven = request(**{"a:0": np.vstack([a, a]), "b": b})
        with pytest.raises(InvalidInputError, match=r"'b' has 1 rows and 'a:0' has 2"):
            await served.ModelInfer(uneven, NO_DEADLINE)
        half = request(**{"a:0": a, "b": b})
        half.inputs[1].contents.int_contents.extend([1, 2, 3])
        del half.raw_input_contents[1]
        with pytest.raises(InvalidInputError, match="in no field"):
            await served.ModelInfer(half, NO_DEADLINE)

    run(tmp_path, two(), use)


def unbatched() -> tuple[bytes, Any]:
    """y = x · factor: [2, 3] and a scalar."""
    return runners.model(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [("x", "FP32", [2, 3]), ("factor", "FP32", [])],
        [("y", "FP32", [2, 3])],
        batched=False,
    )


def test_scalars_and_models_without_a_batch_dimension(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)

    async def use(served: OpenInference) -> None:
        answer = await served.ModelInfer(request(x=x, factor=np.float32(3)), NO_DEADLINE)
        np.testing.assert_array_equal(outputs(answer)["y"], 3 * x)
        asked = pb.ModelInferRequest(model_name="small")
        asked.inputs.add(name="factor", datatype="FP32").contents.fp32_contents.append(3)
        asked.inputs.add(name="x", datatype="FP32", shape=[2, 3]).contents.fp32_contents.extend(
            x.ravel()
        )
        answer = await served.ModelInfer(asked, NO_DEADLINE)
        assert list(answer.outputs[0].contents.fp32_contents) == (3 * x).ravel().tolist()
        with pytest.raises(InvalidInputError, match=r"'factor' has the shape \[1\]; .* be \[\]"):
            await served.ModelInfer(request(x=x, factor=np.float32([3])), NO_DEADLINE)
        config = await served.ModelConfig(pb.ModelConfigRequest(name="small"), NO_DEADLINE)
        assert config.config.max_batch_size == 0
        assert [list(given.dims) for given in config.config.input] == [[2, 3], []]

    run(tmp_path, unbatched(), use)


def test_free_sizes_and_empty_tensors(tmp_path: Path) -> None:
    async def use(served: OpenInference) -> None:
        for shape in ((1, 3), (2, 5), (1, 1), (16, 2)):
            x = np.ones(shape, np.float32)
            answer = await served.ModelInfer(request(x=x), NO_DEADLINE)
            assert outputs(answer)["y"].shape == shape
        empty = request(x=np.ones((2, 0), np.float32))
        for _ in range(2):  # once with an empty entry, once with none
            answer = await served.ModelInfer(empty, NO_DEADLINE)
            assert outputs(answer)["y"].shape == (2, 0)
            empty.ClearField("raw_input_contents")
        with pytest.raises(InvalidInputError, match=r"shape \[2, -1\]; it must be \[rows, n\]"):
            await served.ModelInfer(
                changed(inputs=[{"name": "x", "datatype": "FP32", "shape": [2, -1]}]), NO_DEADLINE
            )

    run(tmp_path, identity("FP32", [-1]), use)


PARAMETER = "parameters"
TINY = {"name": "x", "datatype": "FP32", "shape": [2, 4]}


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        (changed(model_name="dogs"), NotFoundError, "model 'dogs' is not served here"),
        (changed(model_version="9"), NotFoundError, "version '9' of model 'small' is not loaded"),
        (changed(model_version="9" * 5000), NotFoundError, "model_version is 5000 characters"),
        (changed(inputs=[]), InvalidInputError, r"inputs are \[\]; the model takes each of"),
        (changed(inputs=[TINY, TINY]), InvalidInputError, r"inputs are \['x', 'x'\]"),
        (changed(inputs=[{**TINY, "name": "z"}]), InvalidInputError, r"inputs are \['z'\]"),
        (changed(inputs=[{**TINY, "datatype": "FP64"}]), InvalidInputError, "it must be FP32"),
        (changed(inputs=[{**TINY, "datatype": "BYTES"}]), InvalidInputError, "it must be FP32"),
        (changed(inputs=[{**TINY, "shape": [8]}]), InvalidInputError, r"must be \[rows, 4\]"),
        (changed(inputs=[{**TINY, "shape": []}]), InvalidInputError, r"must be \[rows, 4\]"),
        (changed(inputs=[{**TINY, "shape": [4, 2]}]), InvalidInputError, r"must be \[rows, 4\]"),
        (changed(inputs=[{**TINY, "shape": [0, 4]}]), InvalidInputError, "0 given; send 1 to 16"),
        (changed(inputs=[{**TINY, "shape": [-1, 4]}]), InvalidInputError, "-1 given; send 1 to"),
        (changed(inputs=[{**TINY, "shape": [17, 4]}]), InvalidInputError, "17 given; send 1 to"),
        (changed(inputs=[{**TINY, "shape": [2**62, 4]}]), InvalidInputError, "send 1 to 16"),
        (changed(inputs=[{**TINY, "shape": [3, 4]}]), InvalidInputError, "32 bytes .* needs 48"),
        (changed(raw_input_contents=[]), InvalidInputError, "has 0 entries for 1 inputs"),
        (changed(raw_input_contents=[b"", b""]), InvalidInputError, "has 2 entries for 1 inputs"),
        (changed(raw_input_contents=[bytes(31)]), InvalidInputError, "31 bytes .* needs 32"),
        (changed(outputs=[{"name": "q"}]), InvalidInputError, "'q' is not one of y"),
        (changed(outputs=[{"name": "y"}] * 2), InvalidInputError, "'y' is asked for twice"),
        (
            changed(inputs=[{**TINY, "contents": {"fp32_contents": [1.0] * 8}}]),
            InvalidInputError,
            "raw_input_contents is given too; use one",
        ),
        (
            changed(parameters={"sequence_id": {"int64_param": 3}}),
            UnimplementedError,
            "'sequence_id' is not offered",
        ),
        (
            changed(parameters={"sequence_end": {"bool_param": True}}),
            UnimplementedError,
            "'sequence_end' is not offered",
        ),
        (
            changed(parameters={"priority": {"string_param": "high"}}),
            InvalidInputError,
            "priority is string_param; it must be a whole number from 0 to 255",
        ),
        (
            changed(parameters={"priority": {"uint64_param": 256}}),
            InvalidInputError,
            "priority is 256",
        ),
        (
            changed(parameters={"timeout": {"int64_param": -1}}),
            InvalidInputError,
            "timeout is -1; it must be a whole number from 0",
        ),
        (
            changed(outputs=[{"name": "y", PARAMETER: {"classification": {"int64_param": -2}}}]),
            InvalidInputError,
            "classification is -2",
        ),
        (
            changed(outputs=[{"name": "y", PARAMETER: {"classification": {"string_param": "2"}}}]),
            InvalidInputError,
            "classification is string_param",
        ),
    ],
)
def test_wrong_requests_are_said(
    tiny_server: Callable[[pb.ModelInferRequest], pb.ModelInferResponse],
    asked: pb.ModelInferRequest,
    error: type[VisionloopError],
    words: str,
) -> None:
    for _ in range(2):
        with pytest.raises(error, match=words):
            tiny_server(asked)


@pytest.fixture(scope="module")
def tiny_server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """ModelInfer of the tiny model, as a function."""
    with asyncio.Runner() as loop:
        serving = served(tmp_path_factory.mktemp("tiny"), runners.tiny())
        open_inference = loop.run(serving.__aenter__())
        yield lambda asked: loop.run(open_inference.ModelInfer(asked, NO_DEADLINE))
        loop.run(serving.__aexit__(None, None, None))


@pytest.mark.parametrize(
    "parameters",
    [
        {"sequence_id": {"int64_param": 0}, "sequence_start": {"bool_param": False}},
        {"sequence_id": {"string_param": ""}},
        {"priority": {"uint64_param": 1}},
        {"priority": {"int64_param": 0}},
        {"timeout": {"int64_param": 60_000_000}},
        {"timeout": {"int64_param": 0}},
        {"binary_data_output": {"bool_param": True}},
        {"triton_enable_empty_final_response": {"bool_param": True}},
        {"mine": {"double_param": 0.5}},
        {"": {}},
    ],
)
def test_parameters_that_change_nothing(tiny_server: Any, parameters: dict[str, Any]) -> None:
    answer = tiny_server(changed(parameters=parameters))
    np.testing.assert_array_equal(outputs(answer)["y"], 2 * ROWS + 1)
    assert not answer.parameters


def test_the_shorter_of_timeout_and_deadline_counts(tmp_path: Path) -> None:
    async def use(served: OpenInference) -> None:
        hurried = changed(parameters={"timeout": {"int64_param": 1}})
        for context in (NO_DEADLINE, Context(30.0)):
            with pytest.raises(DeadlineExceededError):
                await served.ModelInfer(hurried, context)
        patient = changed(parameters={"timeout": {"int64_param": 60_000_000}})
        with pytest.raises(DeadlineExceededError):
            await served.ModelInfer(patient, Context(0.0))
        assert (await served.ModelInfer(patient, Context(30.0))).outputs

    run(tmp_path, runners.tiny(), use)


def test_classification(tmp_path: Path) -> None:
    async def use(served: OpenInference) -> None:
        x = np.float32([[0.25, 4, -1, 4], [float("nan"), -2, -3, -1]])
        asked = request(x=x)
        asked.outputs.add(name="y").parameters["classification"].int64_param = 3
        answer = await served.ModelInfer(asked, NO_DEADLINE)
        [output] = answer.outputs
        assert (output.datatype, list(output.shape)) == ("BYTES", [2, 3])
        assert texts(answer.raw_output_contents[0]) == [
            b"4.000000:1", b"4.000000:3", b"0.250000:0",
            b"-1.000000:3", b"-2.000000:1", b"-3.000000:2",
        ]  # fmt: skip
        asked.outputs[0].parameters["classification"].int64_param = 100
        answer = await served.ModelInfer(asked, NO_DEADLINE)
        assert list(answer.outputs[0].shape) == [2, 4]
        assert texts(answer.raw_output_contents[0])[-1] == b"nan:0"

    run(tmp_path, identity("FP32", [4]), use)


def test_the_labels_of_all_kinds_of_requests_are_held_once(tmp_path: Path, monkeypatch) -> None:
    """There may be thousands of labels, and callers choose how many kinds there are."""
    made: list[list[bytes]] = []

    def counted(labels: Sequence[str]) -> list[bytes]:
        made.append(endings(labels))
        return made[-1]

    monkeypatch.setattr(replies, "endings", counted)

    async def use(served: OpenInference) -> None:
        for classes in (1, 2, 3):
            asked = request(x=np.float32([[0.25, 4, -1, 4]]))
            asked.outputs.add(name="y").parameters["classification"].int64_param = classes
            await served.ModelInfer(asked, NO_DEADLINE)

    run(tmp_path, identity("FP32", [4]), use)
    assert len(made) == 1


def texts(raw: bytes) -> list[bytes]:
    found = []
    while raw:
        size = int.from_bytes(raw[:4], "little")
        found.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    return found


def lookup() -> tuple[bytes, Any]:
    """y = table[x]: fails where x has no entry."""
    return runners.model(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [("x", "INT64", [1])],
        [("y", "FP32", [1])],
        constants={"table": np.arange(10, dtype=np.float32)},
    )


def test_a_row_that_fails_fails_its_request(tmp_path: Path) -> None:
    async def use(served: OpenInference) -> None:
        good, bad = request(x=np.int64([[3], [4]])), request(x=np.int64([[3], [99]]))
        answers = await asyncio.gather(
            *(served.ModelInfer(asked, NO_DEADLINE) for asked in (good, bad, good)),
            return_exceptions=True,
        )
        assert isinstance(answers[1], RowFailedError)
        assert str(answers[1]).startswith("row 1: ")
        for answer in (answers[0], answers[2]):
            assert outputs(answer)["y"].tolist() == [[3], [4]]

    run(tmp_path, lookup(), use)


def test_kinds_of_requests_are_forgotten(tmp_path: Path) -> None:
    """A client that never sends the same twice costs no memory."""

    async def use(served: OpenInference) -> None:
        for number in range(MAX_KINDS + 20):
            await served.ModelInfer(
                changed(parameters={f"p{number}": {"bool_param": True}}), NO_DEADLINE
            )
        version = served._catalogue.model("small").version("")
        assert len(version.plans) == len(served._routes) == MAX_KINDS
        await served.ModelInfer(
            changed(parameters={"long": {"string_param": "x" * 10_000}}), NO_DEADLINE
        )
        assert not any(b"long" in header for header in version.plans)

    run(tmp_path, runners.tiny(), use)


def test_metadata_and_config(tmp_path: Path) -> None:
    async def use(served: OpenInference) -> None:
        metadata = await served.ModelMetadata(pb.ModelMetadataRequest(name="small"), NO_DEADLINE)
        assert (metadata.name, list(metadata.versions)) == ("small", ["1"])
        assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [
            ("x", "BYTES", [-1, 2])
        ]
        found = await served.ModelConfig(pb.ModelConfigRequest(name="small"), NO_DEADLINE)
        config = found.config
        assert (config.name, config.max_batch_size) == ("small", OFFER.max_rows)
        assert (config.platform, config.backend) == ("onnxruntime_onnx", "onnxruntime")
        assert (config.input[0].data_type, list(config.input[0].dims)) == (pb.TYPE_STRING, [2])
        assert (config.output[0].name, list(config.output[0].dims)) == ("y", [2])
        assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_CPU
        assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
        assert config.dynamic_batching.default_priority_level == levels.NORMAL
        server = await served.ServerMetadata(pb.ServerMetadataRequest(), NO_DEADLINE)
        assert {"statistics", "classification", "system_shared_memory"} <= set(server.extensions)
        assert "cuda_shared_memory" not in server.extensions
        for name, ready in (("small", True), ("dogs", False)):
            asked = pb.ModelReadyRequest(name=name)
            assert (await served.ModelReady(asked, NO_DEADLINE)).ready is ready

    run(tmp_path, identity("BYTES", [2]), use)
