"""Execution providers: proved, never swapped in silence; and what a session does on a GPU's."""

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import helper
from support.bundles import build_bundle
from support.runners import model

from visionloop.bundle import BundleFile, ClassificationBundle, Signature
from visionloop.errors import ConfigurationError, CorruptError, UnavailableError
from visionloop.signature import TensorSpec
from visionloop_inference import providers
from visionloop_inference import session as session_module
from visionloop_inference.providers import CPU, Target, profiles, provider_options
from visionloop_inference.session import (
    GraphRunFailedError,
    OutOfMemoryError,
    Session,
    choose_graph,
)


def pixels(*shape: int) -> Signature:
    """Of a graph that gives back what it takes."""
    identity = [helper.make_node("Identity", ["x"], ["y"])]
    return model(identity, [("x", "UINT8", list(shape))], [("y", "UINT8", list(shape))])[1]


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


def test_on_a_cpu_threads_spin_for_a_moment_and_within_a_run_only() -> None:
    graph = helper.make_node("Identity", ["x"], ["y"])
    content = model([graph], [("x", "UINT8", [1])], [("y", "UINT8", [1])])[0]
    options = providers.session(content, CPU, threads=2).get_session_options()
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    assert 0 < int(options.get_session_config_entry("session.intra_op.spin_duration_us")) < 50
    with pytest.raises(RuntimeError, match="allow_spinning"):  # by default they may
        options.get_session_config_entry("session.intra_op.allow_spinning")


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
        first = session.carry(rows(turn))
        session.begin(first)
        assert (session.run(rows(50.0))[0] == -50.0).all()
        second = session.carry(rows(turn + 10))
        session.begin(second)
        assert (session.run(rows(60.0))[0] == -60.0).all()
        assert (session.finish(first)[0] == -turn).all()
        assert (session.finish(second)[0] == -turn - 10).all()


@pytest.mark.parametrize("memory", ["cpu", None])
def test_outputs_may_be_of_other_sizes_than_those_of_the_last_run(
    tmp_path: Path, memory: str | None
) -> None:
    """What memory a binding has of the last run does not do for them."""
    made = model(
        [helper.make_node("Range", ["zero", "x", "one"], ["y"])],
        [("x", "INT64", [])],
        [("y", "INT64", [-1])],
        batched=False,
        constants={"zero": np.int64(0), "one": np.int64(1)},
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(made[0])
    session = Session(providers.session(path, CPU, 1), made[1], CPU, memory)
    for size in (3, 5, 0, 2):
        wanted = list(range(size))
        inputs = [np.asarray(size, np.int64)]
        assert session.run(inputs)[0].tolist() == wanted
        if session.overlaps:
            carried = session.carry(inputs)
            session.begin(carried)
            assert session.finish(carried)[0].tolist() == wanted


@pytest.mark.parametrize("memory", ["cpu", None])
def test_a_row_whose_output_is_of_a_wrong_size_fails_alone(
    tmp_path: Path, memory: str | None
) -> None:
    """Its output is not what the next rows are written into."""
    made = model(
        [
            helper.make_node("ReduceMax", ["x"], ["most"], axes=[0], keepdims=0),
            helper.make_node("Cast", ["most"], ["kept"], to=9),
            helper.make_node("Compress", ["x", "kept"], ["y"], axis=1),
        ],
        [("x", "FP32", [2])],
        [("y", "FP32", [-1])],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(made[0])
    y = TensorSpec(name="y", datatype="FP32", shape=[2])
    signature = made[1].model_copy(update={"outputs": (y,)})
    session = Session(providers.session(path, CPU, 1), signature, CPU, memory)

    def run_ahead(inputs: list[np.ndarray]) -> list[np.ndarray]:
        carried = session.carry(inputs)
        session.begin(carried)
        return session.finish(carried)

    right, wrong = [np.ones((1, 2), np.float32)], [np.eye(1, 2, dtype=np.float32)]
    for run in (session.run, run_ahead) if session.overlaps else (session.run,):
        for _ in range(4):  # both turns
            with pytest.raises(GraphRunFailedError, match=r"\[1, 1\]|\{1,1\}"):
                run(wrong)
        for inputs in (right, right, wrong, wrong, right, right):
            if inputs is right:
                assert run(inputs)[0].tolist() == [[1.0, 1.0]]
            else:
                with pytest.raises(GraphRunFailedError):
                    run(inputs)


def test_onnxruntime_does_not_go_on_with_another_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself it tries a CPU session where one on a GPU cannot be made, and where a run fails."""
    given: list[dict[str, object]] = []

    def fail(*_: object, **how: object) -> None:
        given.append(how)
        raise RuntimeError("CUDA failure 2: out of memory")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(RuntimeError):
        providers.session(providers.PROBE_GRAPH, CPU, threads=1)
    assert given[0]["enable_fallback"] == 0


@pytest.mark.parametrize(
    ("said", "probe", "raised", "words"),
    [
        ("CUDA failure 2: out of memory", "", OutOfMemoryError, "no memory to load model.onnx"),
        (
            "CUDNN failure 4004: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            "",
            OutOfMemoryError,
            "no memory to load model.onnx",
        ),
        ("INVALID_GRAPH : it is wrong", "", CorruptError, "does not load model.onnx.*it is wrong"),
        (
            "CUDA failure 100: no CUDA-capable device is detected",
            "CUDA failure 100: no CUDA-capable device is detected",
            UnavailableError,
            "--provider cuda cannot be loaded: CUDA failure 100",
        ),
        (  # of a card that is full
            "CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED",
            "CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED",
            UnavailableError,
            "CUDNN_STATUS_NOT_INITIALIZED",
        ),
    ],
)
def test_a_load_that_fails_on_a_gpu_blames_the_graph_only_where_a_probe_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    probe: str,
    raised: type[Exception],
    words: str,
) -> None:
    def make(graph: object, *_: object, **__: object) -> None:
        if graph is not providers.PROBE_GRAPH:
            raise RuntimeError(said)
        if probe:
            raise RuntimeError(probe)

    monkeypatch.setattr(session_module, "session", make)
    monkeypatch.setattr(providers, "session", make)
    known = [*onnxruntime.get_available_providers(), "CUDAExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: known)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: None)  # the library is there
    with pytest.raises(raised, match=words):
        Session.load(tmp_path / "model.onnx", pixels(1), Target("cuda"), 1, 8)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    reason="this onnxruntime is built for CUDA",
)
def test_the_supervisor_proves_a_provider_in_another_process() -> None:
    """What onnxruntime takes of a GPU is given back at the end of its process only."""
    proving = (
        "import sys\n"
        "from visionloop.errors import ConfigurationError\n"
        "from visionloop_inference.app import _prove\n"
        "try:\n"
        "    _prove('cuda')\n"
        "except ConfigurationError as error:\n"
        "    print(error.field, error)\n"
        "print('onnxruntime' in sys.modules)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", proving], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert said[0].startswith("provider --provider cuda cannot be loaded: this onnxruntime ")
    assert said[1] == "False"


def test_the_options_of_gpus(tmp_path: Path) -> None:
    ranges = profiles(pixels(4, 4, 3), 16)
    assert ranges["trt_profile_min_shapes"] == "x:1x4x4x3"
    assert ranges["trt_profile_max_shapes"] == "x:16x4x4x3"
    assert profiles(pixels(-1, 4, 3), 16) == {}
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
    assert choose_graph(passed, "cuda") == ("model.fp16.onnx", "fp16")
    assert choose_graph(passed, "tensorrt") == ("model.onnx", "fp32")
    assert choose_graph(passed, "cpu") == ("model.onnx", "fp32")
    untested = sibling(tmp_path, {"default": 1e-4})
    assert choose_graph(untested, "cuda") == ("model.onnx", "fp32")
