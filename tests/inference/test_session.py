"""Graphs of every kind in onnxruntime, through the session and through a whole runner."""

import asyncio
import ctypes
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from support.bundles import build_bundle
from support.runners import ONNX_TYPES, Spec, model, output, running, tensor, tensor_bundle, tiny

from visionloop.bundle import BundleFile, ClassificationBundle, Signature
from visionloop.errors import ConfigurationError, CorruptError, RefusedError
from visionloop_inference import providers
from visionloop_inference import session as session_module
from visionloop_inference.datatypes import DATATYPES, Tensor
from visionloop_inference.providers import CPU, Target, profiles, provider_options
from visionloop_inference.session import (
    GraphRunFailedError,
    OutOfMemoryError,
    Session,
    choose_graph,
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


# Providers


def test_a_provider_that_was_not_built_in_is_refused() -> None:
    missing = [
        name
        for name, known in providers.PROVIDERS.items()
        if known not in onnxruntime.get_available_providers()
    ]
    for name in missing:
        with pytest.raises(ConfigurationError, match=f"--provider {name} cannot be loaded.* built"):
            providers.prove(name)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_whose_library_is_missing_is_refused_by_the_librarys_name(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime answers with a CPU session and a warning; that must not pass."""
    real = onnxruntime.get_available_providers()
    if providers.PROVIDERS[provider] in real:
        pytest.skip("this onnxruntime has the provider")
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: [*real, providers.PROVIDERS[provider]]
    )
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    with pytest.raises(ConfigurationError, match=f"libonnxruntime_providers_{provider}.so"):
        providers.prove(provider)


def test_the_dynamic_loader_names_what_is_missing() -> None:
    with pytest.raises(OSError, match="no_such_library"):
        ctypes.CDLL("libno_such_library.so.12")
    assert "libonnxruntime_providers_cuda.so" in providers._missing_library("cuda")


@pytest.mark.parametrize("memory", ["cpu", None])
def test_bound_inputs_give_the_same_answers(
    tmp_path: Path, memory: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What runs on a GPU, with the CPU's memory as the device's."""
    monkeypatch.setattr(session_module, "MOST_BOUND", 3)
    made = model(
        [helper.make_node("Sub", ["a", "b"], ["y"]), helper.make_node("Cast", ["c"], ["z"], to=1)],
        [("a", "FP32", [2]), ("b", "FP32", [2]), ("c", "BOOL", [])],
        [("y", "FP32", [2]), ("z", "FP32", [])],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(made[0])
    session = Session(providers.session(path, CPU, 1), made[1], CPU, memory)
    kept = []
    for turn in range(20):
        rows = 1 + turn % 5
        a, b = np.full((rows, 2), turn, np.float32), np.ones((rows, 2), np.float32)
        kept.append((turn, session.run([a, b, np.arange(rows) > turn])))
    for turn, (y, z) in kept:  # a later run must not write into an earlier answer
        assert (y == turn - 1).all()
        assert z.tolist() == (np.arange(1 + turn % 5) > turn).tolist()
    with pytest.raises(GraphRunFailedError):
        session.run([np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float32), np.ones(1, bool)])


def test_what_runs_while_a_run_is_under_way_leaves_its_inputs_and_outputs_alone(
    tmp_path: Path,
) -> None:
    """As golden images do between two batches of the same size."""
    made = model(
        [helper.make_node("Neg", ["x"], ["y"])], [("x", "FP32", [2])], [("y", "FP32", [2])]
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(made[0])
    session = Session(providers.session(path, CPU, 1), made[1], CPU, "cpu")

    def rows(value: float) -> list[np.ndarray]:
        return [np.full((3, 2), value, np.float32)]

    for turn in range(3):
        first = session.begin(rows(turn))
        assert (session.run(rows(50.0))[0] == -50.0).all()
        second = session.begin(rows(turn + 10))
        assert (session.run(rows(60.0))[0] == -60.0).all()
        assert (session.finish(first)[0] == -turn).all()
        assert (session.finish(second)[0] == -turn - 10).all()


def test_the_options_of_gpus(tmp_path: Path) -> None:
    signature = identity("UINT8", [4, 4, 3])[1]
    ranges = profiles(signature, 16)
    assert ranges["trt_profile_min_shapes"] == "x:1x4x4x3"
    assert ranges["trt_profile_max_shapes"] == "x:16x4x4x3"
    assert profiles(identity("UINT8", [-1, 4, 3])[1], 16) == {}
    target = Target("tensorrt", 3, tmp_path, fp16=True)
    (first, tensorrt), (second, cuda) = provider_options(target, ranges)
    assert (first, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert tensorrt["trt_engine_cache_path"] == str(tmp_path)
    assert tensorrt["trt_fp16_enable"] == "1"
    assert cuda == {
        "device_id": "3",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
        "prefer_nhwc": "1",
        "fuse_conv_bias": "1",
    }
    assert provider_options(CPU, {}) == [("CPUExecutionProvider", {})]


def sibling(folder: Path, allowed: dict[str, float]) -> ClassificationBundle:
    bundle = build_bundle(folder)
    entry = BundleFile(size=1, sha256="0" * 64)
    golden = bundle.golden.model_copy(update={"max_probability_difference": allowed})
    return bundle.model_copy(
        update={"files": {**bundle.files, "model.fp16.onnx": entry}, "golden": golden}
    )


def test_the_sixteen_bit_sibling_runs_where_it_passed_its_gate(tmp_path: Path) -> None:
    passed = sibling(tmp_path, {"default": 1e-4, "fp16/cuda": 1e-2})
    assert choose_graph(passed, "cuda", "auto") == ("model.fp16.onnx", "fp16")
    assert choose_graph(passed, "cuda", "fp32") == ("model.onnx", "fp32")
    assert choose_graph(passed, "tensorrt", "auto") == ("model.onnx", "fp32")
    assert choose_graph(passed, "cpu", "auto") == ("model.onnx", "fp32")
    untested = sibling(tmp_path, {"default": 1e-4})
    assert choose_graph(untested, "cuda", "auto") == ("model.onnx", "fp32")
    with pytest.raises(RefusedError, match=r"no model\.fp16\.onnx that was tested for fp16/cuda"):
        choose_graph(untested, "cuda", "fp16")


def test_the_datatypes_are_those_of_onnx() -> None:
    assert sorted(ONNX_TYPES) == sorted(DATATYPES)
