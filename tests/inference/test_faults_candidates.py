"""Candidates that must not serve: each is refused, and said so in metrics, log and index, while the
stable version goes on answering."""

import os
import re
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from support.bundles import LABELS, SIDE, build_bundle, encoded, promote_version, publish_bundle
from support.inference_server import Server, running_server
from support.onnx_graphs import model as graph_of
from support.onnx_graphs import node, value
from support.process_tree import running
from support.waiting import wait_for

from visionloop.bundle import (
    Bundle,
    ClassificationBundle,
    Source,
    TensorOutput,
    TensorsBundle,
    WarmUp,
)
from visionloop.objectstore import open_store
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop.proto.inference import open_inference_pb2_grpc
from visionloop.repository import ModelRepository, file_entry
from visionloop.signature import TensorSpec

IMAGE = encoded(5)
RUNNER = "visionloop_inference.runner_process"


class Asking:
    """One caller that never pauses; every failure is kept."""

    def __init__(self, server: Server) -> None:
        self.answered: list[int] = []  # versions
        self.errors: list[grpc.RpcError] = []
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._stop.wait(0.005):
            try:
                self.answered.append(self._server.recognize(IMAGE, model="cells").version)
            except grpc.RpcError as error:
                self.errors.append(error)

    def __enter__(self) -> "Asking":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class Place:
    """A server, its store, and the model "cells" whose version 1 serves."""

    def __init__(self, server: Server, url: str) -> None:
        self.server = server
        self.url = url
        self.repository = ModelRepository(open_store(url))
        self.stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(server.channel)

    def index(self, model: str, version: int) -> tuple[str, str]:
        """State and reason."""
        found = self.stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=30)
        for entry in found.models:
            if (entry.name, entry.version) == (model, str(version)):
                return entry.state, entry.reason
        return "", ""

    def refused(self) -> float:
        return self.server.metric("visionloop_model_swap_total", result="refused")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("candidates")
    url = f"file://{folder}/store"
    publish_bundle(ModelRepository(open_store(url)), seed=1, promote=True)
    with running_server(folder / "server", url) as server:
        yield Place(server.ready(), url)


# What is done to a good bundle: to its files before they are digested, or to bundle.json.


def with_nan_weights(folder: Path) -> None:
    change_constant(folder, "bias", lambda bias: bias * np.float32(np.nan))


def with_another_input(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    size = model.graph.input[0].type.tensor_type.shape.dim[1]
    size.dim_value = SIDE + 1
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = SIDE + 1
    del model.graph.value_info[:]
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def with_one_class_less(folder: Path) -> None:
    change_constant(folder, "weight", lambda weight: weight[:, :-1])
    change_constant(folder, "bias", lambda bias: bias[:-1])
    model = onnx.load(folder / "model.onnx")
    for output in model.graph.output[:2]:
        output.type.tensor_type.shape.dim[1].dim_value = len(LABELS) - 1
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def with_noise_for_a_graph(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(np.random.default_rng(0).bytes(5000))


def with_an_empty_graph(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"")


def with_a_torn_golden_list(folder: Path) -> None:
    path = folder / "golden/golden.json"
    path.write_bytes(path.read_bytes()[:-40])


def change_constant(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    model = onnx.load(folder / "model.onnx")
    [constant] = [c for c in model.graph.initializer if c.name == name]
    changed = np.ascontiguousarray(change(numpy_helper.to_array(constant)))
    constant.CopyFrom(numpy_helper.from_array(changed, name))
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def of_another_width(bundle: ClassificationBundle) -> Bundle:
    outputs = [
        TensorOutput(name=o.name, kind=o.kind, shape=[o.shape[0] + (o.kind == "embedding")])
        for o in bundle.outputs
    ]
    return bundle.model_copy(update={"outputs": outputs})


def of_an_output_that_is_not_there(bundle: ClassificationBundle) -> Bundle:
    outputs = [o.model_copy(update={"name": f"{o.name}_2"}) for o in bundle.outputs]
    return bundle.model_copy(update={"outputs": outputs})


@pytest.mark.parametrize(
    ("change", "said", "words"),
    [
        (with_nan_weights, None, "gives probabilities nan away"),
        (with_another_input, None, "pixels"),
        (with_one_class_less, None, "logits"),
        (with_noise_for_a_graph, None, "model.onnx"),
        (with_an_empty_graph, None, "model.onnx"),
        (with_a_torn_golden_list, None, "golden.json"),
        (None, of_another_width, "embedding"),
        (None, of_an_output_that_is_not_there, "logits_2"),
    ],
)
def test_a_candidate_that_must_not_serve_is_refused_and_said_so(
    tmp_path: Path,
    place: Place,
    change: Callable[[Path], None] | None,
    said: Callable[[ClassificationBundle], Bundle] | None,
    words: str,
) -> None:
    refused = place.refused()
    with Asking(place.server) as asking:
        version = place.repository.claim("cells", f"run-{time.monotonic_ns()}")
        bundle: Any = build_bundle(tmp_path, version=version, seed=version, change=change)
        publish(place, bundle if said is None else said(bundle), tmp_path)
        promote_version(place.repository, version)
        wait_for(lambda: place.refused() == refused + 1, hint=f"the refusal; {place.server.log}")
        aim = len(asking.answered) + 5
        wait_for(lambda: len(asking.answered) >= aim or asking.errors, hint="answers")
    assert not asking.errors
    assert set(asking.answered) == {1}
    check_told(place, version, words)


def publish(place: Place, bundle: Any, folder: Path) -> None:
    """Puts the files and bundle.json into the store, as they are."""
    store = open_store(place.url)
    start = f"models/{bundle.model}/versions/{bundle.version}/"
    for name in bundle.files:
        store.upload(folder / name, start + name)
    store.put(start + "bundle.json", bundle.model_dump_json().encode())


def check_told(place: Place, version: int, words: str) -> None:
    state, reason = place.index("cells", version)
    assert state == "UNAVAILABLE"
    assert words in reason
    assert f"cells version {version} was refused: {reason}" in place.server.text().replace("\\", "")
    assert place.index("cells", 1) == ("READY", "")
    assert place.server.get("/readyz")[0] == 200


def test_a_bundle_json_that_is_none_is_refused(place: Place) -> None:
    good = publish_bundle(place.repository)
    store = open_store(place.url)
    store.put(f"models/cells/versions/{good.version}/bundle.json", b'{"format_version": 1, "mod')
    refused = place.refused()
    aliases = store.get("models/cells/aliases.json")
    moved = re.sub(rb'"stable": *[0-9]+', b'"stable": %d' % good.version, aliases.data, count=1)
    assert moved != aliases.data
    store.put("models/cells/aliases.json", moved)  # `promote` would have seen it
    wait_for(lambda: place.refused() == refused + 1, hint=f"the refusal; {place.server.log}")
    assert place.server.recognize(IMAGE, model="cells").version == 1
    check_told(place, good.version, "bundle.json")
    promote_version(place.repository, 1)


@pytest.mark.long
def test_a_runner_that_hangs_while_it_loads_is_given_up_and_tried_again(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    flags = ("--load-seconds=5",)  # the others need about one
    with running_server(tmp_path / "server", store_of_models, *flags) as server:
        pid = server.ready().process.pid
        place = Place(server, store_of_models)
        [stable] = running(pid, RUNNER)
        publish_bundle(repository, seed=2, promote=True)

        def loading() -> list[int]:
            return [runner for runner in running(pid, RUNNER) if runner != stable]

        with Asking(server) as asking:
            [candidate] = wait_for(loading, hint="the new runner")
            os.kill(candidate, signal.SIGSTOP)
            wait_for(
                lambda: server.metric("visionloop_model_load_total", outcome="failed") == 1,
                hint="the end of patience",
            )
            server.serves(2)  # what hung once may not hang the next time
        assert not asking.errors
        assert set(asking.answered) <= {1, 2}
        assert "was not ready after 5 s (--load-seconds)" in server.text()
        wait_for(lambda: place.index("cells", 2) == ("READY", ""))
        wait_for(lambda: candidate not in running(pid, RUNNER), hint="the end of what hung")


def greedy() -> onnx.ModelProto:
    """y = the sum of x repeated 2^30 times: 16 GiB for each row."""
    return graph_of(
        [
            node("Unsqueeze", ["x", "last"], ["columns"]),
            node("Expand", ["columns", "times"], ["wide"]),
            node("ReduceSum", ["wide", "last"], ["y"], keepdims=0),
        ],
        [value("x", TensorProto.FLOAT, ["n", 4])],
        [value("y", TensorProto.FLOAT, ["n", 4])],
        {"last": np.int64([2]), "times": np.int64([1, 1, 2**30])},
    )


def indefinite() -> onnx.ModelProto:
    """y = 0 / (x - x): NaN, whatever x is."""
    return graph_of(
        [node("Sub", ["x", "x"], ["zero"]), node("Div", ["zero", "zero"], ["y"])],
        [value("x", TensorProto.FLOAT, ["n", 4])],
        [value("y", TensorProto.FLOAT, ["n", 4])],
        {},
    )


def tensors_bundle(
    graph: onnx.ModelProto, folder: Path, version: int, model: str = "sums"
) -> TensorsBundle:
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    spec = TensorSpec(name="x", datatype="FP32", shape=[4])
    return TensorsBundle(
        model=model,
        version=version,
        created=datetime.now(UTC),
        inputs=[spec],
        outputs=[TensorSpec(name="y", datatype="FP32", shape=[4])],
        batched=True,
        warm_up=WarmUp(shapes=[[4]], value=1, finite=True),
        source=Source(
            file="sums.onnx", run_id="test", who="a test", why="", producer="", batching="rows"
        ),
        files={"model.onnx": file_entry(folder / "model.onnx")},
    )


def test_a_graph_that_answers_nan_where_it_answered_numbers_is_refused(
    tmp_path: Path, place: Place
) -> None:
    refused = place.refused()
    publish(place, tensors_bundle(indefinite(), tmp_path, 1, "ratios"), tmp_path)
    promote_version(place.repository, 1, model="ratios")
    wait_for(lambda: place.refused() == refused + 1, hint=f"the refusal; {place.server.log}")
    state, reason = place.index("ratios", 1)
    assert state == "UNAVAILABLE"
    assert "answers NaN or infinity in output 'y'" in reason


def test_a_graph_that_needs_more_memory_than_there_is_is_refused(
    tmp_path: Path, place: Place
) -> None:
    # For everything the server starts from now on.
    limit = 2 * 2**30
    resource.prlimit(place.server.process.pid, resource.RLIMIT_DATA, (limit, limit))
    refused = place.refused()
    publish(place, tensors_bundle(greedy(), tmp_path, 1), tmp_path)
    promote_version(place.repository, 1, model="sums")
    wait_for(lambda: place.refused() == refused + 1, hint=f"the refusal; {place.server.log}")
    state, reason = place.index("sums", 1)
    assert state == "UNAVAILABLE"
    assert "model.onnx does not run" in reason
    with pytest.raises(grpc.RpcError) as error:
        place.stub.ModelInfer(pb.ModelInferRequest(model_name="sums"), timeout=30)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "sums version 1 was refused" in place.server.text()
    assert place.server.recognize(IMAGE, model="cells").version == 1
