"""The inference service on a real GPU: CUDA runs what was proven, and says what it cannot do."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.bundles import LABELS, answers, encoded, graph, publish_bundle
from support.inference_server import running_server

from visionloop.client import Client
from visionloop.doctor.accelerators import gpu_name
from visionloop.errors import ConfigurationError
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository
from visionloop.signature import Signature, TensorSpec
from visionloop_inference import providers
from visionloop_inference.providers import CPU, Target
from visionloop_inference.session import OutOfMemoryError, Session

CUDA = Target("cuda")


def _usable() -> str:
    """Why no graph runs on a GPU here; "" where one does."""
    if not gpu_name():
        return "there is no NVIDIA GPU"
    try:
        providers.prove("cuda")
    except ConfigurationError as error:
        return str(error)
    return ""


MISSING = _usable()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(MISSING), reason=MISSING or "-")]


def signature(x: list[int], y: list[int]) -> Signature:
    return Signature(
        batched=True,
        inputs=(TensorSpec(name="x", datatype="FP32", shape=x),),
        outputs=(TensorSpec(name="y", datatype="FP32", shape=y),),
    )


def convolution() -> bytes:
    """64 filters of 7 x 7 over 64 planes: sums of 3,136 products, in which TF32 would show."""
    random = np.random.default_rng(0)
    weights = random.normal(size=(64, 64, 7, 7)).astype(np.float32) / 56
    made = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64, 26, 26])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def test_float32_is_float32_at_every_batch_size(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(convolution())
    shapes = signature([64, 32, 32], [64, 26, 26])
    on_gpu = Session.load(path, shapes, CUDA, 1, 32)
    on_cpu = Session.load(path, shapes, CPU, 1, 32)
    random = np.random.default_rng(1)
    for rows in (1, 2, 5, 32, 3, 1):
        x = random.normal(size=(rows, 64, 32, 32)).astype(np.float32)
        (found,), (expected,) = on_gpu.run([x]), on_cpu.run([x])
        assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()


def test_batches_that_are_carried_over_while_others_run_keep_their_own_answers(
    tmp_path: Path,
) -> None:
    """As `Execution` does with full batches, and golden images between them."""
    path = tmp_path / "model.onnx"
    path.write_bytes(convolution())
    shapes = signature([64, 32, 32], [64, 26, 26])
    on_gpu = Session.load(path, shapes, CUDA, 1, 64)
    on_cpu = Session.load(path, shapes, CPU, 1, 64)
    random = np.random.default_rng(2)
    row = random.normal(size=(1, 64, 32, 32)).astype(np.float32)
    (expected,) = on_cpu.run([row])
    buffers = [np.empty((64, 64, 32, 32), np.float32) for _ in range(2)]  # used in turns

    def answers_of(value: int, found: np.ndarray) -> None:  # the graph is linear
        assert np.abs(found - value * expected).max() < 2e-5 * value * np.abs(expected).max()

    last = None
    for value in range(1, 31):
        buffer = buffers[value % 2]
        buffer[:] = value * row
        carried = on_gpu.carry([buffer])
        if last is not None:
            answers_of(value - 1, on_gpu.finish(last)[0])
        on_gpu.begin(carried)
        if value % 7 == 0:
            answers_of(1, on_gpu.run([row])[0])
        last = carried


def huge() -> bytes:
    """y = the largest of 2^31 copies of x: 8 GiB for each row."""
    made = helper.make_graph(
        [
            helper.make_node("Expand", ["x", "shape"], ["wide"]),
            helper.make_node("Sin", ["wide"], ["changed"]),
            helper.make_node("ReduceMax", ["changed", "axes"], ["y"], keepdims=1),
        ],
        "huge",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [
            onnx.numpy_helper.from_array(np.asarray([1, 2**31 - 8], np.int64), "shape"),
            onnx.numpy_helper.from_array(np.asarray([1], np.int64), "axes"),
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString()


def test_a_batch_for_which_the_card_has_no_memory_spoils_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(huge())
    session = Session.load(path, signature([1], [1]), CUDA, 1, 64)
    with pytest.raises(OutOfMemoryError):
        session.run([np.ones((64, 1), np.float32)])
    assert session.run([np.ones((1, 1), np.float32)], shrink=True)[0] == pytest.approx(np.sin(1.0))


def test_the_service_answers_from_the_gpu_as_the_cpu_does(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store")
    bundle = publish_bundle(ModelRepository(store), "cells", seed=1, promote=True)
    images = [encoded(index) for index in range(24)]
    expected = answers(graph(1).SerializeToString(), images)["probabilities"]
    flags = ("--provider=cuda", "--front-ends=2", f"--cache={tmp_path / 'cache'}")
    with running_server(tmp_path / "server", store.url, *flags) as server:
        server.ready()
        with Client(server.target) as client:
            found = client.recognize(images, model="cells", top_k=len(LABELS))
        metrics = server.get("/metrics")[1]
    for result, probabilities in zip(found, expected, strict=True):
        for label in result.labels:
            place = LABELS.index(label.class_id)
            assert label.probability == pytest.approx(probabilities[place], abs=1e-4)
    assert bundle.version == 1
    assert 'provider="cuda"' in str(metrics)


def test_tensorrt_that_is_not_installed_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"libnvinfer\.so"):
        providers.prove("tensorrt")
