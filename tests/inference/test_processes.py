"""Processes of the service die, and the service does not."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from support.bundles import encoded, promote_version, publish_bundle
from support.inference_server import Server, running_server
from support.process_tree import (
    children,
    descriptors,
    is_alive,
    resident,
    running,
    shared_mappings,
)
from support.waiting import wait_for

from visionloop.repository import ModelRepository

IMAGE = encoded(3)
RUNNER, FRONT_END = "visionloop_inference.runner_process", "visionloop_inference.front_end"
DEATHS = int(os.environ.get("KILL_ROUNDS", "4")) * 2
LOST = {grpc.StatusCode.UNAVAILABLE}


@pytest.fixture
def server(tmp_path: Path, repository: ModelRepository, store_of_models: str) -> Iterator[Server]:
    publish_bundle(repository, seed=1, promote=True)
    with running_server(tmp_path / "server", store_of_models, "--front-ends=1") as running_one:
        yield running_one.ready()


def answers(server: Server) -> bool:
    try:
        return server.recognize(IMAGE, timeout=10.0).results[0].status.code == 0
    except grpc.RpcError as error:
        assert error.code() in LOST, error  # noqa: PT017
        return False


class Asking:
    """Threads that ask without a pause, and what they were told."""

    def __init__(self, server: Server, threads: int = 4) -> None:
        self.errors: list[grpc.RpcError] = []
        self.answered = 0
        self._server = server
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                self._server.recognize(IMAGE, timeout=20.0)
                self.answered += 1
            except grpc.RpcError as error:
                self.errors.append(error)
                time.sleep(0.01)  # a caller that is told to come back does not hammer

    def more(self, count: int = 10) -> None:
        aim = self.answered + count
        wait_for(lambda: self.answered >= aim, hint=f"{count} more answers; {self.errors[-1:]}")

    def __enter__(self) -> "Asking":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize(
    "sent", [pytest.param(signal.SIGKILL, marks=pytest.mark.long), signal.SIGSEGV]
)
def test_a_runner_that_dies_costs_what_it_held_and_comes_back(server: Server, sent: int) -> None:
    [runner] = running(server.process.pid, RUNNER)
    with Asking(server) as asking:
        asking.more()
        os.kill(runner, sent)
        wait_for(lambda: server.metric("visionloop_restarts_total", process="runner") == 1)
        asking.more(20)
    assert running(server.process.pid, RUNNER) != [runner]
    assert {error.code() for error in asking.errors} <= LOST
    for error in asking.errors:
        assert "grpc-retry-pushback-ms" in dict(error.trailing_metadata())
    assert signal.Signals(sent).name in server.text()


def test_only_the_model_of_a_dead_runner_suffers(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, "cats", seed=1, promote=True)
    with running_server(tmp_path / "server", store_of_models) as server:
        server.ready()
        [cats] = running(server.process.pid, RUNNER)
        publish_bundle(repository, "dogs", seed=2, promote=True)
        wait_for(lambda: server.metric("visionloop_model_info", model="dogs") == 1)
        os.kill(cats, signal.SIGSTOP)  # it hangs, and so does what it holds
        with pytest.raises(grpc.RpcError) as late:
            server.recognize(IMAGE, model="cats", timeout=0.5)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        for _ in range(5):
            assert server.recognize(IMAGE, model="dogs").model == "dogs"
        os.kill(cats, signal.SIGKILL)
        wait_for(lambda: server.metric("visionloop_restarts_total", process="runner") == 1)

        def back() -> bool:
            try:
                return server.recognize(IMAGE, model="cats", timeout=10.0).model == "cats"
            except grpc.RpcError as error:
                assert error.code() in LOST  # noqa: PT017
                return False

        wait_for(back, hint="cats")


def test_a_front_end_that_dies_is_started_again_on_the_same_port(server: Server) -> None:
    for _ in range(3):
        server.recognize(IMAGE)
    counted = server.metric("grpc_server_handled_total", grpc_method="Recognize")
    assert counted == 3
    [front_end] = running(server.process.pid, FRONT_END)
    os.kill(front_end, signal.SIGKILL)
    wait_for(lambda: server.metric("visionloop_restarts_total", process="front_end") == 1)
    wait_for(lambda: answers(server), hint="an answer of the new front end")
    assert server.metric("grpc_server_handled_total", grpc_method="Recognize") >= counted + 1
    wait_for(lambda: server.metric("visionloop_inflight_requests") == 0)


def test_a_killed_supervisor_leaves_nobody_behind(server: Server) -> None:
    below = children(server.process.pid)
    assert len(below) == 2
    server.process.kill()
    server.process.wait()
    wait_for(lambda: not any(map(is_alive, below)), hint="the end of all children")


@pytest.mark.long
@pytest.mark.kill
@pytest.mark.timeout(7200)
def test_many_deaths_leak_nothing(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    """Odd deaths are a runner's, even ones a front end's."""
    publish_bundle(repository, seed=1, promote=True)
    flags = ("--front-ends=1", "--restart-pause-seconds=0.1")
    with running_server(tmp_path / "server", store_of_models, *flags) as server:
        kill_many(server.ready())


def kill_many(server: Server) -> None:
    pid = server.process.pid

    def settled() -> bool:
        return len(running(pid, RUNNER)) == len(running(pid, FRONT_END)) == 1 and answers(server)

    def held() -> tuple[int, int, int]:
        [front_end] = running(pid, FRONT_END)
        return descriptors(pid), shared_mappings(pid), shared_mappings(front_end)

    before = None
    memory = []
    for death in range(DEATHS):
        module, word = ((RUNNER, "runner"), (FRONT_END, "front_end"))[death % 2]
        restarts = server.metric("visionloop_restarts_total", process=word)
        [victim] = running(pid, module)
        os.kill(victim, signal.SIGKILL)
        wait_for(
            lambda word=word, n=restarts: (
                server.metric("visionloop_restarts_total", process=word) == n + 1
            )
        )
        wait_for(settled, hint="life after a death")
        memory.append(resident(pid))
        if death == 1:  # each has died once: what a first time costs is paid
            before = held()
    assert before is not None
    wait_for(lambda: held() == before, hint=f"what was held before: {before}, now {held()}")
    # The supervisor remembers nobody: after the first deaths it grows no more.
    grown = memory[-1] - memory[len(memory) // 2]
    assert grown < 4 * 2**20, f"{grown / DEATHS * 2:.0f} bytes more with each death: {memory}"


@pytest.mark.long
def test_a_version_that_kills_its_runner_at_load_is_refused(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    flags = {"VISIONLOOP_FAILPOINT": "runner.load.2"}
    with running_server(tmp_path / "server", store_of_models, **flags) as server:
        server.ready()
        with Asking(server) as asking:
            publish_bundle(repository, seed=2, promote=True)
            wait_for(lambda: server.metric("visionloop_model_swap_total", result="refused") == 1)
            asking.more()
        assert not asking.errors
        assert "SIGKILL while it loaded, 2 times" in server.text()
        publish_bundle(repository, seed=3, promote=True)
        server.serves(3)


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(("--front-ends=0",), id="one process"),
        pytest.param(("--front-ends=2",), id="two front ends", marks=pytest.mark.long),
        pytest.param(("--front-ends=1", "--instances=2"), id="two runners", marks=pytest.mark.long),
    ],
)
def test_every_shape_serves_swaps_and_drains(
    tmp_path: Path, repository: ModelRepository, store_of_models: str, flags: tuple[str, ...]
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    with running_server(tmp_path / "server", store_of_models, *flags) as server:
        server.ready()
        with Asking(server) as asking:
            asking.more()
            publish_bundle(repository, seed=2, promote=True)
            server.serves(2)
            asking.more()
            promote_version(repository, 1)
            server.serves(1)
            asking.more()
        assert not asking.errors
        assert server.metric("visionloop_batch_rows_sum") >= asking.answered
        assert server.terminate() == 0
