"""Graphs of every kind in onnxruntime, through the session and through a whole runner."""

import asyncio
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from support.runners import ONNX_TYPES, Spec, model, output, running, tensor, tensor_bundle, tiny

from visionloop.bundle import Signature
from visionloop.errors import CorruptError
from visionloop_inference.datatypes import DATATYPES, Tensor
from visionloop_inference.providers import CPU
from visionloop_inference.session import (
    GraphRunFailedError,
    OutOfMemoryError,
    Session,
    runtime_words,
)


def loaded(folder: Path, made: tuple[bytes, Signature]) -> Session:
    path = folder / "model.onnx"
    path.write_bytes(made[0])
    return Session.load(path, made[1], CPU, 1, 8)


def identity(datatype: str, shape: list[int], *, batched: bool = True) -> tuple[bytes, Signature]:
    return model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", datatype, shape)],
        [("y", datatype, shape)],
        batched=batched,
    )


def sample(datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    random = np.random.default_rng(1)
    kind = DATATYPES[datatype].numpy
    if datatype == "BYTES":
        values = np.empty(shape, object)
        values.reshape(-1)[:] = [f"ü{i}" * (i % 3) for i in range(values.size)]
        return values
    if datatype == "BF16":
        return random.normal(size=shape).astype(ml_dtypes.bfloat16).view(np.uint16)
    if kind.kind == "f":
        return random.normal(size=shape).astype(kind)
    return random.integers(0, 2 if kind.kind == "b" else 100, shape).astype(kind)


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
@pytest.mark.parametrize("batched", [True, False])
def test_every_datatype_goes_through_a_runner(tmp_path: Path, datatype: str, batched: bool) -> None:
    """Rows of several requests in one batch, and a request of several batches."""
    made = identity(datatype, [2, 3], batched=batched)
    with running(tensor_bundle(tmp_path, made), tmp_path, max_batch=4) as runner:

        async def scenario() -> None:
            async with runner.connected() as link:
                rows = [3, 1, 9, 2] if batched else [1, 1, 1]
                arrays = [sample(datatype, (size, 2, 3) if batched else (2, 3)) for size in rows]
                answers = await asyncio.gather(
                    *(
                        link.run([tensor(array, datatype)], size, None)
                        for array, size in zip(arrays, rows, strict=True)
                    )
                )
                for array, answer in zip(arrays, answers, strict=True):
                    assert answer.outputs["y"] == tensor(array, datatype)

        asyncio.run(scenario())


def test_bfloat16_is_computed_with_and_not_only_carried(tmp_path: Path) -> None:
    made = model(
        [
            helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["f", "f"], ["double"]),
            helper.make_node("Cast", ["double"], ["y"], to=TensorProto.BFLOAT16),
        ],
        [("x", "BF16", [4])],
        [("y", "BF16", [4])],
    )
    values = np.asarray([[1.0, -2.5, 0.0, 1024.0]], ml_dtypes.bfloat16)
    found = loaded(tmp_path, made).run([values.view(np.uint16)])[0]
    assert found.view(ml_dtypes.bfloat16).tolist() == (values * 2).tolist()


def test_any_byte_but_zero_is_true(tmp_path: Path) -> None:
    made = model(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT32)],
        [("x", "BOOL", [4])],
        [("y", "INT32", [4])],
    )
    with running(tensor_bundle(tmp_path, made), tmp_path) as runner:

        async def scenario() -> None:
            async with runner.connected() as link:
                answer = await link.run([Tensor("BOOL", (1, 4), b"\0\1\2\xff")], 1, None)
                assert output(answer).tolist() == [[0, 1, 1, 1]]

        asyncio.run(scenario())


def test_several_inputs_and_outputs_in_the_signatures_order(tmp_path: Path) -> None:
    made = model(
        [
            helper.make_node("Sub", ["a", "b"], ["difference"]),
            helper.make_node("Cast", ["c"], ["number"], to=TensorProto.INT64),
            helper.make_node("Identity", ["a"], ["same"]),
        ],
        [("b", "FP32", [3]), ("a", "FP32", [3]), ("c", "BOOL", [])],
        [("same", "FP32", [3]), ("number", "INT64", []), ("difference", "FP32", [3])],
    )
    with running(tensor_bundle(tmp_path, made), tmp_path, max_batch=4) as runner:

        async def scenario() -> None:
            async with runner.connected() as link:
                jobs = []
                for rows in (1, 2, 6, 1):
                    b = np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)
                    jobs.append((b, 10 * b, np.arange(rows) % 2 == 1))
                answers = await asyncio.gather(
                    *(link.run([tensor(part) for part in job], len(job[0]), None) for job in jobs)
                )
                for (b, a, c), answer in zip(jobs, answers, strict=True):
                    assert list(answer.outputs) == ["same", "number", "difference"]
                    np.testing.assert_array_equal(output(answer, "difference"), a - b)
                    np.testing.assert_array_equal(output(answer, "same"), a)
                    np.testing.assert_array_equal(output(answer, "number"), c.astype(np.int64))

        asyncio.run(scenario())


def test_rows_of_other_sizes_never_share_a_batch(tmp_path: Path) -> None:
    made = model(
        [helper.make_node("Add", ["x", "x"], ["y"])], [("x", "FP32", [-1])], [("y", "FP32", [-1])]
    )
    with running(tensor_bundle(tmp_path, made), tmp_path) as runner:

        async def scenario() -> None:
            async with runner.connected() as link:
                arrays = [np.full((1 + i % 3, 1 + i % 5), i, np.float32) for i in range(60)] + [
                    np.zeros((2, 0), np.float32)
                ]
                answers = await asyncio.gather(
                    *(link.run([tensor(array)], len(array), None) for array in arrays)
                )
                for array, answer in zip(arrays, answers, strict=True):
                    np.testing.assert_array_equal(output(answer), 2 * array)

        asyncio.run(scenario())


@pytest.mark.parametrize("pad", ["always", "never", "auto"])
def test_padded_batches_give_the_same_answers(tmp_path: Path, pad: str) -> None:
    """The second output tells how many rows the graph saw."""
    made = model(
        [
            helper.make_node("Add", ["x", "x"], ["y"]),
            helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
            helper.make_node("Expand", ["rows", "rows"], ["seen"]),
        ],
        [("x", "FP32", [4])],
        [("y", "FP32", [4]), ("seen", "INT64", [])],
    )
    bundle = tensor_bundle(tmp_path, made).model_copy(update={"warm_up": None})
    (tmp_path / "bundle.json").write_text(bundle.model_dump_json())  # not measured: sizes 1 and 8
    with running(bundle, tmp_path, pad=pad) as runner:

        async def scenario() -> None:
            async with runner.connected() as link:
                for rows in range(1, 9):
                    x = np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)
                    answer = await link.run([tensor(x)], rows, None)
                    np.testing.assert_array_equal(output(answer), 2 * x)
                    seen = 8 if pad == "always" and rows > 1 else rows
                    assert output(answer, "seen").tolist() == [seen] * rows

        asyncio.run(scenario())


def test_an_answer_of_a_size_nobody_knew_comes_whole(tmp_path: Path) -> None:
    """Larger than a socket's buffer, and than what is read at once."""
    made = model(
        [helper.make_node("Range", ["zero", "x", "one"], ["y"])],
        [("x", "INT64", [])],
        [("y", "INT64", [-1])],
        batched=False,
        constants={"zero": np.int64(0), "one": np.int64(1)},
    )
    with running(tensor_bundle(tmp_path, made), tmp_path, "process") as runner:

        async def scenario() -> None:
            async with runner.connected() as link:
                for size in (0, 7, 700_000, 3):
                    answer = await link.run([tensor(np.asarray(size, np.int64))], 1, None)
                    np.testing.assert_array_equal(output(answer), np.arange(size))

        asyncio.run(scenario())


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ([("z", "FP32", [4])], None, "no input 'z'"),
        ([("x", "FP64", [4])], None, r"tensor\(float\)"),
        ([("x", "FP32", [5])], None, r"\['n', 4\]"),
        ([("x", "FP32", [4, 1])], None, r"\['n', 4\]"),
        (None, [("scores", "FP32", [4])], "no output 'scores'"),
        (None, [("y", "INT64", [4])], r"tensor\(float\)"),
    ],
)
def test_a_graph_that_is_not_its_signature_is_refused(
    tmp_path: Path, inputs: list[Spec] | None, outputs: list[Spec] | None, words: str
) -> None:
    data, _ = tiny()
    _, lie = model([], inputs or [("x", "FP32", [4])], outputs or [("y", "FP32", [4])])
    with pytest.raises(CorruptError, match=words):
        loaded(tmp_path, (data, lie))


def test_an_input_that_the_bundle_keeps_quiet_about_is_refused(tmp_path: Path) -> None:
    made = model(
        [helper.make_node("Add", ["x", "more"], ["y"])],
        [("x", "FP32", [4]), ("more", "FP32", [4])],
        [("y", "FP32", [4])],
    )
    quiet = Signature(inputs=made[1].inputs[:1], outputs=made[1].outputs, batched=True)
    with pytest.raises(CorruptError, match="takes 'more' as well"):
        loaded(tmp_path, (made[0], quiet))


def test_a_fixed_batch_is_refused_and_told_what_to_do(tmp_path: Path) -> None:
    data, whole = identity("FP32", [2, 4], batched=False)
    rows = Signature(
        inputs=tuple(spec.model_copy(update={"shape": [4]}) for spec in whole.inputs),
        outputs=tuple(spec.model_copy(update={"shape": [4]}) for spec in whole.outputs),
        batched=True,
    )
    with pytest.raises(CorruptError, match=r"batches of exactly 2 rows .* dynamic batch dimension"):
        loaded(tmp_path, (data, rows))


def test_what_onnxruntime_raises_is_typed(tmp_path: Path) -> None:
    session = loaded(tmp_path, tiny())
    with pytest.raises(GraphRunFailedError, match="Unexpected input data type"):
        session.run([np.zeros((1, 4))])
    made = model(
        [helper.make_node("ConstantOfShape", ["x"], ["y"])],
        [("x", "INT64", [1])],
        [("y", "FP32", [-1])],
        batched=False,
    )
    with pytest.raises(OutOfMemoryError, match="no memory"):
        loaded(tmp_path, made).run([np.asarray([2**45], np.int64)])


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Div node. "
            "Name:'' Status Message: /onnxruntime_src/onnxruntime/core/x.h:563 void "
            "onnxruntime::BroadcastIterator::Init(ptrdiff_t, ptrdiff_t) axis == 1 was false.\n",
            "Non-zero status code returned while running Div node. axis == 1 was false.",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : Load model from /a/b.onnx failed:/onnxruntime_src/"
            "y.h:46 void onnxruntime::utils::Check(const std::map<std::basic_string<char>, int>&, "
            "bool, void (*)(int), int) Opset 99 is under development.",
            "Opset 99 is under development.",
        ),
    ],
)
def test_errors_are_told_without_the_places_in_the_source(said: str, shown: str) -> None:
    assert runtime_words(RuntimeError(said)) == shown


def test_an_output_of_another_shape_than_promised_is_no_answer(tmp_path: Path) -> None:
    data, _ = model(
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)],
        [("x", "FP32", [4])],
        [("y", "FP32", [4])],
    )
    with pytest.raises(GraphRunFailedError, match=r"shape \[6, 4\] for 3 rows"):
        loaded(tmp_path, (data, tiny()[1])).run([np.zeros((3, 4), np.float32)])


def test_the_datatypes_are_those_of_onnx() -> None:
    assert sorted(ONNX_TYPES) == sorted(DATATYPES)
