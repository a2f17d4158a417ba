"""NVIDIA's clients, unchanged, against the real service and plain ONNX graphs: tritonclient (sync,
asyncio, streams, shared memory) and perf_analyzer."""

import asyncio
import os
import queue
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.utils.shared_memory as shm
from onnx import TensorProto
from support import onnx_graphs
from support.bundles import publish_bundle
from support.inference_server import Server, running_server
from support.waiting import wait_for
from tritonclient.utils import InferenceServerException

from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository

ROOT = Path(__file__).resolve().parents[2]
GRAPHS = {
    "tiny": onnx_graphs.tiny(),
    "pool": onnx_graphs.pool(side=32),
    "two": onnx_graphs.two_inputs(),
    "whole": onnx_graphs.no_batch(),
    "free": onnx_graphs.free_axes(),
    "strings": onnx_graphs.strings(),
    "half": onnx_graphs.fp16(),
    "bf16": onnx_graphs.typed(TensorProto.BFLOAT16),
    "lookup": onnx_graphs.lookup(),
    "fixed": onnx_graphs.fixed_batch(rows=4),
}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of all the graphs and of one image model; clients may do what they like."""
    folder = tmp_path_factory.mktemp("graphs")
    url = f"file://{folder}/store"
    repository = ModelRepository(open_store(url))
    for name, graph in GRAPHS.items():
        onnx_graphs.publish_graph(repository, graph, model=name)
    publish_bundle(repository, "cells", seed=1, promote=True)
    with running_server(folder, url, "--shared-memory", "--max-images=32") as running:
        yield running.ready()


@pytest.fixture
def client(graphs: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(graphs.target) as made:
        yield made


def sent(name: str, array: np.ndarray, datatype: str) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)


def tiny_input(array: np.ndarray = ROWS) -> triton.InferInput:
    return sent("x", array, "FP32")


def test_every_kind_of_graph(client: triton.InferenceServerClient) -> None:
    random = np.random.default_rng(3)
    pixels = random.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    result = client.infer("pool", [sent("pixels", pixels, "UINT8")])
    np.testing.assert_allclose(result.as_numpy("means"), pixels.mean((1, 2)), rtol=1e-5)

    a, b = random.integers(-9, 9, (2, 5, 3), dtype=np.int32)
    result = client.infer("two", [sent("in b", b, "INT32"), sent("in/a:0", a, "INT32")])
    np.testing.assert_array_equal(result.as_numpy("sum (a+b)"), a + b)
    np.testing.assert_array_equal(result.as_numpy("différence"), a - b)

    x = np.float32(random.random((2, 3)))
    result = client.infer(
        "whole", [sent("factor", np.asarray(3, np.float32), "FP32"), sent("x", x, "FP32")]
    )
    np.testing.assert_array_equal(result.as_numpy("y"), 3 * x)

    for shape in ((1, 2, 3), (4, 1, 1), (2, 7, 5)):
        x = np.float32(random.random(shape))
        result = client.infer("free", [sent("x", x, "FP32")])
        np.testing.assert_allclose(result.as_numpy("total"), x.sum((1, 2)), rtol=1e-5)
        np.testing.assert_array_equal(result.as_numpy("y"), 2 * x)

    texts = np.asarray([["one", "zwölf"], ["", "四"]], dtype=np.object_)
    result = client.infer("strings", [sent("text", texts, "BYTES")])
    assert [t.decode() for t in result.as_numpy("same").ravel()] == list(texts.ravel())

    halves = np.float16(random.random((2, 4)))
    result = client.infer("half", [sent("x", halves, "FP16")])
    np.testing.assert_array_equal(result.as_numpy("y"), 2 * halves)


def test_a_graph_that_fails_says_which_row(client: triton.InferenceServerClient) -> None:
    bad = np.int64([[1], [99]])
    with pytest.raises(InferenceServerException, match="row 1") as refusal:
        client.infer("lookup", [sent("index", bad, "INT64")])
    assert refusal.value.status() == "StatusCode.INTERNAL"
    result = client.infer("lookup", [sent("index", np.int64([[1], [9]]), "INT64")])
    assert result.as_numpy("y").tolist() == [[10], [90]]


def test_priority_timeout_and_ids(client: triton.InferenceServerClient) -> None:
    result = client.infer(
        "tiny", [tiny_input()], request_id="é", priority=1, timeout=20_000_000, client_timeout=30
    )
    assert result.get_response().id == "é"
    with pytest.raises(InferenceServerException, match="not offered by this server"):
        client.infer("tiny", [tiny_input()], sequence_id=3, sequence_start=True)
    with pytest.raises(InferenceServerException) as refusal:
        client.infer("tiny", [tiny_input()], timeout=1)
    assert refusal.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_what_tools_ask(client: triton.InferenceServerClient) -> None:
    assert client.get_server_metadata().extensions == [
        "classification", "logging", "model_configuration", "parameters", "schedule_policy",
        "statistics", "system_shared_memory",
    ]  # fmt: skip
    config = client.get_model_config("pool").config
    assert (config.max_batch_size, list(config.input[0].dims)) == (32, [32, 32, 3])
    index = {m.name: m for m in client.get_model_repository_index().models}
    assert index.keys() == {*GRAPHS, "cells"}
    assert {(m.version, m.state) for m in index.values()} == {("1", "READY")}
    with pytest.raises(InferenceServerException, match="--model-control"):
        client.load_model("tiny")
    assert client.get_log_settings(as_json=True)["settings"]["log_info"] == {"bool_param": True}
    changed = client.update_log_settings({"log_verbose_level": 1}, as_json=True)
    assert changed["settings"]["log_verbose_level"] == {"uint32_param": 1}
    client.update_log_settings({"log_verbose_level": 0})
    assert client.get_trace_settings(as_json=True)["settings"] == {
        "trace_level": {"value": ["OFF"]}
    }
    with pytest.raises(InferenceServerException, match="writes no traces"):
        client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})


def test_statistics_count(client: triton.InferenceServerClient) -> None:
    def counts() -> Any:
        [found] = client.get_inference_statistics("tiny", "1").model_stats
        return found

    before = counts()
    for _ in range(5):
        client.infer("tiny", [tiny_input()])
    with pytest.raises(InferenceServerException):
        client.infer("tiny", [tiny_input(np.zeros((2, 5), np.float32))])

    def counted() -> bool:
        return counts().inference_count - before.inference_count >= 10

    wait_for(counted, hint="10 more rows in the statistics")
    after, stats = counts(), counts().inference_stats
    # At least: requests that callers of other tests gave up may be counted in between.
    assert after.execution_count - before.execution_count >= 1
    assert stats.success.count - before.inference_stats.success.count >= 5
    assert stats.fail.count - before.inference_stats.fail.count >= 1
    assert stats.queue.count > before.inference_stats.queue.count
    assert stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert after.last_inference > 1_700_000_000_000


def test_asyncio(graphs: Server) -> None:
    async def all_of_it() -> None:
        async with triton_aio.InferenceServerClient(graphs.target) as client:
            assert await client.is_model_ready("tiny")

            async def one(number: int) -> None:
                x = np.full((1 + number % 5, 4), number, np.float32)
                result = await client.infer("tiny", [tiny_input(x)], request_id=str(number))
                assert result.get_response().id == str(number)
                np.testing.assert_array_equal(result.as_numpy("y"), 2 * x + 1)

            await asyncio.gather(*map(one, range(100)))

            async def requests() -> Any:
                for number in range(30):
                    x = np.full((1, 4), number, np.float32)
                    yield {
                        "model_name": "tiny",
                        "inputs": [tiny_input(x)],
                        "request_id": f"{number}",
                    }

            numbers = []
            async for result, error in client.stream_infer(requests()):
                assert error is None
                numbers.append(result.as_numpy("y")[0, 0])
            assert numbers == [2 * number + 1 for number in range(30)]

    asyncio.run(all_of_it())


def test_a_stream(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(20):
        x = np.full((1, 4 + (number == 7)), number, np.float32)
        client.async_stream_infer(
            "tiny", [tiny_input(x)], request_id=str(number), enable_empty_final_response=True
        )
    for number in range(20):
        result, error = answers.get(timeout=60)
        if number == 7:
            assert "it must be [rows, 4]" in error.message()
            continue
        assert error is None
        response = result.get_response()
        assert response.id == str(number)
        assert response.parameters["triton_final_response"].bool_param
        assert result.as_numpy("y").tolist() == [[2 * number + 1] * 4]
    client.stop_stream()


@pytest.fixture
def region() -> Iterator[Any]:
    """128 bytes of shared memory, as tritonclient makes it."""
    key = f"/visionloop-test-{os.getpid()}"
    made = shm.create_shared_memory_region("data", key, 128)
    made.key = key
    yield made
    shm.destroy_shared_memory_region(made)


def test_shared_memory(client: triton.InferenceServerClient, region: Any) -> None:
    shm.set_shared_memory_region(region, [ROWS])
    client.unregister_system_shared_memory()
    client.register_system_shared_memory("data", region.key, 128)
    status = client.get_system_shared_memory_status(as_json=True)["regions"]
    assert status == {"data": {"name": "data", "key": region.key, "byte_size": "128"}}
    with pytest.raises(InferenceServerException, match="registered already"):
        client.register_system_shared_memory("data", region.key, 128)
    x = triton.InferInput("x", [2, 4], "FP32")
    x.set_shared_memory("data", 32)
    y = triton.InferRequestedOutput("y")
    y.set_shared_memory("data", 32, offset=64)
    for turn in range(3):
        shm.set_shared_memory_region(region, [ROWS + turn])
        result = client.infer("tiny", [x], outputs=[y])
        output = result.get_output("y")
        found = shm.get_contents_as_numpy(region, np.float32, list(output.shape), offset=64)
        np.testing.assert_array_equal(found, 2 * (ROWS + turn) + 1)
    client.unregister_system_shared_memory("data")
    with pytest.raises(InferenceServerException, match="no shared memory region 'data'"):
        client.infer("tiny", [x], outputs=[y])
    client.unregister_cuda_shared_memory()


@pytest.mark.parametrize("key", ["/../etc/passwd", "/visionloop/x", "", "/none-such"])
def test_shared_memory_of_wrong_names(client: triton.InferenceServerClient, key: str) -> None:
    with pytest.raises(InferenceServerException) as refusal:
        client.register_system_shared_memory("data", key, 16)
    assert refusal.value.status() in ("StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND")
    assert not client.get_system_shared_memory_status().regions


def test_an_object_that_its_client_cuts_short(
    client: triton.InferenceServerClient, region: Any, graphs: Server
) -> None:
    """A server that had mapped it would be dead now."""
    client.register_system_shared_memory("data", region.key, 128)
    os.truncate(f"/dev/shm{region.key}", 0)
    x = triton.InferInput("x", [2, 4], "FP32")
    x.set_shared_memory("data", 32)
    for _ in range(3):
        with pytest.raises(InferenceServerException, match="has become shorter"):
            client.infer("tiny", [x])
    client.unregister_system_shared_memory()
    assert client.infer("tiny", [tiny_input()]).as_numpy("y") is not None
    assert "starting it again" not in graphs.text()


def test_regions_are_known_to_every_front_end(tmp_path: Path, graphs: Server, region: Any) -> None:
    """Registered by one connection, used by many: some of them end at another process."""
    url = f"file://{graphs.log.parent}/store"
    shm.set_shared_memory_region(region, [ROWS])
    with running_server(
        tmp_path, url, "--shared-memory", "--models=tiny", "--front-ends=3"
    ) as running:
        target = running.ready().target
        with triton.InferenceServerClient(target) as first:
            first.register_system_shared_memory("data", region.key, 128)
        for number in range(20):
            fresh = [("grpc.use_local_subchannel_pool", 1), ("visionloop.test", number)]
            with triton.InferenceServerClient(target, channel_args=fresh) as client:
                assert client.get_system_shared_memory_status().regions.keys() == {"data"}
                x = triton.InferInput("x", [2, 4], "FP32")
                x.set_shared_memory("data", 32)
                found = client.infer("tiny", [x]).as_numpy("y")
                np.testing.assert_array_equal(found, 2 * ROWS + 1)


def test_models_are_loaded_and_unloaded_by_request(tmp_path: Path, graphs: Server) -> None:
    url = f"file://{graphs.log.parent}/store"
    with (
        running_server(tmp_path, url, "--model-control=explicit") as running,
        triton.InferenceServerClient(running.target) as client,
    ):
        assert "model_repository" in client.get_server_metadata().extensions
        assert not client.is_model_ready("tiny")
        client.load_model("tiny")
        wait_for(lambda: client.is_model_ready("tiny"), hint="the model that was asked for")
        np.testing.assert_array_equal(
            client.infer("tiny", [tiny_input()]).as_numpy("y"), 2 * ROWS + 1
        )
        assert not client.is_model_ready("pool")
        with pytest.raises(InferenceServerException, match="dogs"):
            client.load_model("dogs")
        with pytest.raises(InferenceServerException, match=r"'config' .* is not offered"):
            client.load_model("pool", config="{}")
        client.unload_model("tiny")
        wait_for(lambda: not client.is_model_ready("tiny"), hint="the model to go")
        with pytest.raises(InferenceServerException):
            client.infer("tiny", [tiny_input()])


# perf_analyzer.


@pytest.fixture(scope="module")
def perf_analyzer() -> tuple[str, dict[str, str]]:
    """The program, as `make bench-serving` installs it or as PERF_ANALYZER names it, and its
    environment."""
    installed = ROOT / "build/bench/venvs/perf_analyzer"
    program = (
        os.environ.get("PERF_ANALYZER")
        or shutil.which("perf_analyzer")
        or str(installed / "bin/perf_analyzer")
    )
    libraries = installed.glob("lib/python*/site-packages/nvidia/*/lib")
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries))}
    try:
        done = subprocess.run(
            [program, "--version"], env=environment, capture_output=True, text=True, check=False
        )
    except OSError as error:
        pytest.skip(f"no perf_analyzer: {error} (`make perf-analyzer` installs it)")
    if done.returncode:
        pytest.skip(f"perf_analyzer does not start: {done.stderr or done.stdout}")
    return program, environment


@pytest.mark.perf_analyzer
@pytest.mark.parametrize(
    ("model", "flags"),
    [
        ("pool", ["-b", "1"]),
        ("pool", ["-b", "8", "--concurrency-range", "4", "-a"]),
        ("tiny", ["--streaming", "-a", "--concurrency-range", "4"]),
        ("tiny", ["--shared-memory", "system", "--output-shared-memory-size", "64"]),
        ("fixed", ["-x", "1"]),
        ("strings", ["--string-length", "16"]),
        ("free", ["--shape", "x:5,7"]),
        ("two", ["--request-rate-range", "50", "--request-distribution", "poisson"]),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_perf_analyzer(
    graphs: Server, perf_analyzer: tuple[str, dict[str, str]], model: str, flags: list[str]
) -> None:
    program, environment = perf_analyzer
    command = [
        program, "-i", "grpc", "-u", graphs.target, "-m", model, "--measurement-mode",
        "count_windows", "--measurement-request-count", "20", "-s", "999", "-r", "3", *flags,
    ]  # fmt: skip
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    throughput = re.search(r"[Tt]hroughput: ([0-9.]+) infer/sec", done.stdout)
    assert throughput, done.stdout
    assert float(throughput[1]) > 0
