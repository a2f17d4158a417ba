"""Versions change under load, and bad ones do no harm."""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest
from support.bundles import (
    LABELS,
    answers,
    encoded,
    graph,
    promote_version,
    publish_bundle,
)
from support.inference_server import Server, running_server
from support.waiting import wait_for

from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository

IMAGE = encoded(11)
ROUNDS = int(os.environ.get("KILL_ROUNDS", "1"))


@dataclass(frozen=True)
class Call:
    """One request of the load."""

    sent: float
    answered: float
    version: int
    probabilities: list[float]


class Load:
    """Open-loop requests from many threads: a slow answer does not hold back the next request."""

    def __init__(self, server: Server, rate: float = 60.0) -> None:
        self._server = server
        self._rate = rate
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(32)
        self._futures: list[Future[Call]] = []
        self._thread = threading.Thread(target=self._send)

    def _one(self) -> Call:
        sent = time.monotonic()
        response = self._server.recognize(IMAGE, timeout=10.0)
        found = {s.class_id: s.probability for s in response.results[0].classification.labels}
        answer = [found[name] for name in LABELS]
        return Call(sent, time.monotonic(), response.version, answer)

    def _send(self) -> None:
        began = time.monotonic()
        while not self._stop.wait(
            max(0.0, began + len(self._futures) / self._rate - time.monotonic())
        ):
            self._futures.append(self._pool.submit(self._one))

    def count(self) -> int:
        return len(self._futures)

    def more(self, requests: int = 20) -> None:
        """Waits until so many more were sent."""
        aim = self.count() + requests
        wait_for(lambda: self.count() >= aim, hint="more requests")

    def calls(self) -> list[Call]:
        """All calls, in the order sent; raises the error of one that failed."""
        return [future.result() for future in self._futures]

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._pool.shutdown()


def expected(seed: int) -> list[float]:
    found: list[float] = answers(graph(seed).SerializeToString(), [IMAGE])["probabilities"][
        0
    ].tolist()
    return found


def check_calls(calls: list[Call], seeds: dict[int, int]) -> None:
    """Every answer is that of the version it names."""
    truth = {version: expected(seed) for version, seed in seeds.items()}
    for call in calls:
        assert call.probabilities == pytest.approx(truth[call.version], abs=1e-5)


@contextmanager
def serving(folder: Path, store: str, *flags: str, **environment: str) -> Iterator[Server]:
    with running_server(folder / "server", store, *flags, **environment) as server:
        yield server.ready()


def test_a_swap_under_load_loses_nothing_and_never_goes_back(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    with serving(tmp_path, store_of_models) as server, Load(server) as load:
        load.more()
        for version in (2, 3):
            publish_bundle(repository, seed=version, promote=True)
            server.serves(version)
            load.more()
        assert server.metric("visionloop_model_info", version="1") == 0.0
    calls = load.calls()
    check_calls(calls, {1: 1, 2: 2, 3: 3})
    assert {call.version for call in calls} == {1, 2, 3}
    # Whoever asks after somebody was answered by a version gets that one or a newer one.
    answered = sorted((call.answered, call.version) for call in calls)
    for call in calls:
        before = [version for moment, version in answered if moment < call.sent]
        assert call.version >= max(before, default=1)


def test_the_alias_is_followed_in_every_kind_of_store(tmp_path: Path, store_url: str) -> None:
    models = ModelRepository(open_store(store_url))
    publish_bundle(models, seed=1, promote=True)
    with serving(tmp_path, store_url) as server, Load(server) as load:
        load.more()
        publish_bundle(models, seed=2, promote=True)
        server.serves(2)
        load.more()
    check_calls(load.calls(), {1: 1, 2: 2})


@pytest.mark.long
def test_a_rollback_serves_the_version_before(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    publish_bundle(repository, seed=2, promote=True)
    with serving(tmp_path, store_of_models) as server, Load(server) as load:
        load.more()
        repository.rollback("cells", who="a test", why="to see it served again")
        server.serves(1)
        load.more()
    calls = load.calls()
    check_calls(calls, {1: 1, 2: 2})
    assert (calls[0].version, calls[-1].version) == (2, 1)


def with_external_data(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    onnx.save(
        model,
        folder / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )


def with_a_foreign_operator(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    model.graph.node[0].domain = "com.example"
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def with_half_a_graph(folder: Path) -> None:
    data = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(data[: len(data) // 2])


def with_a_golden_image_that_is_none(folder: Path) -> None:
    for image in (folder / "golden").glob("*-0.jpg"):
        image.write_bytes(b"not an image")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wrong_golden": 0}, "gives probabilities"),
        pytest.param({"change": with_external_data}, "external data", marks=pytest.mark.long),
        pytest.param(
            {"change": with_a_foreign_operator}, "com.example:Cast", marks=pytest.mark.long
        ),
        pytest.param({"change": with_half_a_graph}, "model.onnx", marks=pytest.mark.long),
        pytest.param(
            {"change": with_a_golden_image_that_is_none}, "golden image", marks=pytest.mark.long
        ),
    ],
)
def test_a_bad_version_is_refused_while_the_old_one_serves(
    tmp_path: Path,
    repository: ModelRepository,
    store_of_models: str,
    options: dict[str, object],
    words: str,
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    with serving(tmp_path, store_of_models) as server, Load(server) as load:
        publish_bundle(repository, seed=2, promote=True, **options)
        wait_for(
            lambda: server.metric("visionloop_model_swap_total", result="refused") == 1,
            hint="the refusal",
        )
        load.more()
        assert server.get("/readyz")[0] == 200
        assert words in server.text()
        assert "cells version 1 goes on serving" in server.text()
        # The next promotion is tried, and the refused one was tried once.
        publish_bundle(repository, seed=3, promote=True)
        server.serves(3)
        load.more()
        assert server.metric("visionloop_model_swap_total", result="refused") == 1
    calls = load.calls()
    check_calls(calls, {1: 1, 3: 3})


@pytest.mark.long
def test_an_altered_file_is_refused_by_its_digest(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    with serving(tmp_path, store_of_models) as server:
        publish_bundle(repository, seed=2)
        stored = tmp_path / "models-store/models/cells/versions/2/model.onnx"
        data = bytearray(stored.read_bytes())
        data[len(data) // 2] ^= 1
        stored.write_bytes(data)
        promote_version(repository, 2)
        wait_for(
            lambda: server.metric("visionloop_model_load_total", outcome="refused") == 1,
            hint="the refusal",
        )
        assert server.recognize(IMAGE).version == 1


def test_a_late_golden_mismatch_demotes_the_version(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    with serving(tmp_path, store_of_models) as server, Load(server) as load:
        load.more()
        publish_bundle(repository, seed=2, promote=True, wrong_golden=11)  # not among the first
        wait_for(
            lambda: server.metric("visionloop_model_swap_total", result="demoted") == 1,
            hint="the demotion",
        )
        server.serves(1)
        load.more()
        assert "cells version 2 was demoted" in server.text()
        publish_bundle(repository, seed=3, promote=True)
        server.serves(3)
        assert server.metric("visionloop_model_load_total", outcome="loaded") == 3  # 2 only once
    check_calls(load.calls(), {1: 1, 2: 2, 3: 3})


def test_a_demoted_first_version_leaves_nothing_that_serves(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True, wrong_golden=11)
    with running_server(tmp_path / "server", store_of_models) as server:
        wait_for(
            lambda: server.metric("visionloop_model_swap_total", result="demoted") == 1,
            hint="the demotion",
        )
        status, reason = server.get("/readyz")
        assert status == 503
        assert "version 1 was demoted" in reason
        publish_bundle(repository, seed=2, promote=True)
        server.ready()


def test_a_server_that_starts_after_a_bad_promotion_serves_the_version_before(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    publish_bundle(repository, seed=2, promote=True, wrong_golden=0)
    with serving(tmp_path, store_of_models) as server:
        assert server.recognize(IMAGE).version == 1
        assert server.metric("visionloop_model_swap_total", result="refused") == 1
        promote_version(repository, publish_bundle(repository, seed=3).version)
        server.serves(3)


def test_the_version_before_is_tried_until_it_loads(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    publish_bundle(repository, seed=2, promote=True, wrong_golden=0)
    in_the_way = tmp_path / "cache/cells/1"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()
    flags = (f"--cache={tmp_path}/cache",)
    with running_server(tmp_path / "server", store_of_models, *flags) as server:
        wait_for(
            lambda: server.metric("visionloop_model_load_total", outcome="failed") >= 1,
            hint="the failed load of version 1",
        )
        in_the_way.unlink()
        server.ready()
        assert server.recognize(IMAGE).version == 1


@pytest.mark.kill
@pytest.mark.parametrize("_", range(ROUNDS))
def test_killed_between_load_and_swap_it_comes_back_with_the_new_version(
    tmp_path: Path, repository: ModelRepository, store_of_models: str, _: int
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    cache = f"--cache={tmp_path}/cache"
    with serving(tmp_path, store_of_models, cache, VISIONLOOP_FAILPOINT="swap.loaded:2") as server:
        assert server.recognize(IMAGE).version == 1
        publish_bundle(repository, seed=2, promote=True)
        assert server.process.wait(timeout=60) == -signal.SIGKILL
    with serving(tmp_path, store_of_models, cache) as server, Load(server) as load:
        load.more()
    check_calls(load.calls(), {2: 2})


@pytest.mark.kill
@pytest.mark.parametrize("_", range(ROUNDS))
def test_killed_at_any_moment_of_a_swap_it_comes_back_whole(
    tmp_path: Path, repository: ModelRepository, store_of_models: str, _: int
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    cache = f"--cache={tmp_path}/cache"
    with serving(tmp_path, store_of_models, cache) as server:
        publish_bundle(repository, seed=2, promote=True, hidden=512)
        time.sleep(random.uniform(0.0, 0.3))  # where the kill lands is the point of the test
        server.process.kill()
        server.process.wait()
    with serving(tmp_path, store_of_models, cache) as server:
        assert server.recognize(IMAGE).version == 2
        kept = json.loads((tmp_path / "cache/cells/2/bundle.json").read_text())
        assert kept["version"] == 2
