"""From an ONNX file to an answer: `visionloop models add`, the real server, NVIDIA's client."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from support import onnx_graphs
from support.bundles import publish_bundle
from support.command_line import visionloop
from support.inference_server import Server, running_server
from support.waiting import wait_for
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from visionloop.errors import CorruptError
from visionloop.graph_file import publish_graph
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository
from visionloop_inference.describe import describe

GRAPHS = {
    "tiny": onnx_graphs.tiny(),
    "two": onnx_graphs.two_inputs(),
    "whole": onnx_graphs.no_batch(),
    "words": onnx_graphs.strings(),
    "half": onnx_graphs.fp16(),
    "free": onnx_graphs.free_axes(),
    "mixing": onnx_graphs.mixing(),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store into which every graph was added by the CLI."""
    folder = tmp_path_factory.mktemp("plain")
    url = (folder / "store").as_uri()
    open_store(url)
    for name, graph in GRAPHS.items():
        add(folder, graph, name, url, "--promote")
    return url


def add(folder: Path, graph: onnx.ModelProto, model: str, store: str, *flags: str) -> None:
    path = folder / f"{model}.onnx"
    path.write_bytes(graph.SerializeToString())
    visionloop("models", "add", path, "--model", model, "--store", store, *flags)


@pytest.fixture(scope="module")
def server(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server"), store, "--front-ends=0") as running:
        for name in GRAPHS:
            wait_for(
                lambda name=name: running.metric("visionloop_model_info", model=name),
                hint=f"{name}; log: {running.log}",
            )
        yield running


def infer(server: Server, model: str, version: str = "", **arrays: np.ndarray) -> list[np.ndarray]:
    """The outputs in the graph's order, asked with NVIDIA's client."""
    client = triton.InferenceServerClient(server.target)
    inputs = []
    for name, array in arrays.items():
        given = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        given.set_data_from_numpy(array)
        inputs.append(given)
    try:
        answer = client.infer(model, inputs, model_version=version, client_timeout=30)
        return [answer.as_numpy(output.name) for output in answer.get_response().outputs]
    finally:
        client.close()


def test_rows(server: Server) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    [y] = infer(server, "tiny", x=x)
    np.testing.assert_array_equal(y, 2 * x + 1)


def test_two_inputs_with_odd_names(server: Server) -> None:
    a, b = np.int32([[1, 2, 3]]), np.int32([[10, 20, 30]])
    total, difference = infer(server, "two", **{"in/a:0": a, "in b": b})
    np.testing.assert_array_equal(total, a + b)
    np.testing.assert_array_equal(difference, a - b)


def test_no_batch_dimension(server: Server) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    [y] = infer(server, "whole", x=x, factor=np.asarray(3, np.float32).reshape(()))
    np.testing.assert_array_equal(y, 3 * x)


def test_strings_and_half_precision(server: Server) -> None:
    text = np.array([[b"\xf0\x9f\x90\xa6", b""], [b"a", b"bc"]], object)
    [same] = infer(server, "words", text=text)
    np.testing.assert_array_equal(same, text)
    half = np.float16([[1, 0.5, -2, 100]])
    [double] = infer(server, "half", x=half)
    np.testing.assert_array_equal(double, half * 2)


def test_free_sizes(server: Server) -> None:
    for height, width in ((1, 1), (5, 2)):
        x = np.arange(2 * height * width, dtype=np.float32).reshape(2, height, width)
        total, y = infer(server, "free", x=x)
        np.testing.assert_allclose(total, x.sum(axis=(1, 2)))
        np.testing.assert_array_equal(y, 2 * x)


def test_rows_that_depend_on_one_another_run_as_they_came(server: Server) -> None:
    x = np.float32([[0, 1, 2], [3, 4, 5]])
    [share] = infer(server, "mixing", x=x)
    np.testing.assert_allclose(share.sum(axis=0), 1, rtol=1e-6)


def test_a_wrong_shape_is_refused_in_words(server: Server) -> None:
    with pytest.raises(InferenceServerException, match="x"):
        infer(server, "whole", x=np.zeros((3, 3), np.float32), factor=np.zeros((), np.float32))


def test_a_canary_is_asked_by_its_name_and_ends(server: Server, store: str, tmp_path: Path) -> None:
    add(tmp_path, onnx_graphs.tiny(scale=10), "tiny", store)
    flags = ("--why", "a test", "--store", store)
    visionloop("models", "canary", "tiny", "2", "--percent", "50", *flags)
    x = np.ones((1, 4), np.float32)
    wait_for(lambda: answers(server, "tiny", "canary", x) == [11.0], hint="the canary")
    assert answers(server, "tiny", "stable", x) == [3.0]
    shared = {tuple(answers(server, "tiny", "", x)) for _ in range(64)}
    assert shared == {(3.0,), (11.0,)}
    visionloop("models", "promote", "tiny", "2", *flags)
    wait_for(lambda: answers(server, "tiny", "stable", x) == [11.0], hint="the promotion")
    visionloop("models", "rollback", "tiny", *flags)
    wait_for(lambda: answers(server, "tiny", "", x) == [3.0], hint="the rollback")


def answers(server: Server, model: str, version: str, x: np.ndarray) -> list[float]:
    """The first number of the answer; empty while there is none."""
    try:
        return [float(infer(server, model, version, x=x)[0].flat[0])]
    except InferenceServerException:
        return []


def test_a_file_that_changes_while_it_is_added_is_not_published(tmp_path: Path) -> None:
    repository = ModelRepository(open_store((tmp_path / "store").as_uri()))
    path = tmp_path / "graph.onnx"
    path.write_bytes(onnx_graphs.tiny().SerializeToString())
    description = describe(path)
    path.write_bytes(onnx_graphs.tiny(scale=3).SerializeToString())
    with pytest.raises(CorruptError, match=r"graph\.onnx changed while it was added"):
        publish_graph(repository, path, description, model="tiny", who="me", why="a test")
    assert repository.versions("tiny") == []


def test_a_server_that_starts_after_a_bad_promotion_is_not_misled_by_the_canary(
    tmp_path: Path,
) -> None:
    url = (tmp_path / "store").as_uri()
    repository = ModelRepository(open_store(url))
    publish_bundle(repository, seed=1, promote=True)
    publish_bundle(repository, seed=2, promote=True, wrong_golden=0)
    publish_bundle(repository, seed=3)
    # From now on the newest move says nothing of what was stable before.
    flags = ("--percent", "5", "--why", "a test", "--store", url)
    visionloop("models", "canary", "cells", "3", *flags)
    with running_server(tmp_path / "server", url, "--front-ends=0") as server:
        server.ready()
        server.serves(1)
