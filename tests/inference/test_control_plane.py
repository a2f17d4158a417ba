"""The supervisor's side under bad luck: children that cannot be started or do not come up in time,
versions that must not be tried again, models that are asked for and are not there."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton
from support.bundles import encoded, promote_version, publish_bundle
from support.inference_server import PATIENCE, Server, running_server, wait_for
from support.process_tree import running

from visionloop.errors import CorruptError, NotFoundError, UnavailableError
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository
from visionloop.telemetry import metrics
from visionloop_inference import front_ends, hosted_front_end
from visionloop_inference.answers import Answers
from visionloop_inference.catalogue import Catalogue
from visionloop_inference.children import Child
from visionloop_inference.control import Control, Message
from visionloop_inference.front_end import FrontEnd, link_runner
from visionloop_inference.front_ends import FrontEnds
from visionloop_inference.hosted_runner import HostedRunner
from visionloop_inference.lifecycle import State
from visionloop_inference.loading import Loader
from visionloop_inference.settings import parse
from visionloop_inference.supervisor import Supervisor

IMAGE = encoded(7)
RUNNER, FRONT_END = "visionloop_inference.runner_process", "visionloop_inference.front_end"


class Plane:
    """A supervisor and its children in this process, without signals and HTTP."""

    def __init__(self, supervisor: Supervisor, all_front_ends: FrontEnds) -> None:
        self.supervisor = supervisor
        self.front_ends = all_front_ends

    async def settle(self) -> bool:
        """One look at "cells" as it stands in the store; whether it is settled."""
        model = self.supervisor._model("cells")
        await self.supervisor.look(model)
        return "cells" in self.supervisor._settled


def in_plane(
    folder: Path, store: str, scenario: Callable[[Plane], Awaitable[None]], *flags: str
) -> None:
    @asynccontextmanager
    async def plane() -> AsyncIterator[Plane]:
        settings = parse(
            [f"--store={store}", "--port=0", "--front-ends=1", "--threads=1", *flags], {}
        )
        answers = Answers()
        everyone = answers.front_ends = FrontEnds(settings, answers)
        with ThreadPoolExecutor(2) as pool:
            repository = ModelRepository(open_store(store))
            loader = Loader(repository, folder / "cache", settings, pool, everyone)
            supervisor = answers.supervisor = Supervisor(loader, settings, lambda: None)
            try:
                everyone.start(settings.host, settings.port)
                await everyone.listening()
                yield Plane(supervisor, everyone)
            finally:
                await supervisor.close()
                await everyone.close()

    async def run() -> None:
        async with asyncio.timeout(PATIENCE), plane() as the_plane:
            await scenario(the_plane)

    asyncio.run(run())


async def until(what: Callable[[], Any]) -> None:
    """Waits for a condition, a turn of the loop at a time; the scenario's patience is its end."""
    while not what():  # noqa: ASYNC110 — what is waited for is another process's doing
        await asyncio.sleep(0.01)


def restarts(process: str) -> float:
    found = metrics.values()["visionloop_restarts_total"]
    return found.get((process,), [0.0])[0]


# --- children that cannot be started


@contextmanager
def no_room_for_a_process(monkeypatch: pytest.MonkeyPatch, times: int) -> Iterator[list[str]]:
    """The next `times` processes cannot be made, as when the machine has no memory left."""
    refused: list[str] = []
    spawn = subprocess.Popen

    def popen(command: list[str], **options: Any) -> Any:
        if len(refused) < times:
            refused.append(command[2])
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return spawn(command, **options)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", popen)
        yield refused


def test_a_runner_comes_back_when_there_was_no_room_for_a_process(
    tmp_path: Path,
    repository: ModelRepository,
    store_of_models: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish_bundle(repository, promote=True)

    async def scenario(plane: Plane) -> None:
        assert await plane.settle()
        stable = plane.supervisor.models["cells"].stable
        assert stable is not None
        dead = stable.runners[0]
        pages = len(metrics._children)
        with no_room_for_a_process(monkeypatch, times=1) as refused:
            os.kill(dead.child.pid, signal.SIGKILL)
            await until(lambda: stable.runners[0] is not dead)
        assert refused == [RUNNER]
        assert not stable.runners[0].child.ended.done()
        assert len(metrics._children) == pages

    in_plane(tmp_path, store_of_models, scenario)


def test_a_front_end_comes_back_when_there_was_no_room_for_a_process(
    tmp_path: Path, store_of_models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(plane: Plane) -> None:
        [dead] = plane.front_ends._hosted
        with no_room_for_a_process(monkeypatch, times=2) as refused:
            os.kill(dead.child.pid, signal.SIGKILL)
            await until(lambda: plane.front_ends._hosted[0] is not dead)
        assert refused == [FRONT_END, FRONT_END]
        assert await plane.front_ends._hosted[0].listening() > 0

    in_plane(tmp_path, store_of_models, scenario)


def test_a_front_end_that_comes_up_too_slowly_is_started_once_more(
    tmp_path: Path,
    repository: ModelRepository,
    store_of_models: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish_bundle(repository, promote=True)

    async def scenario(plane: Plane) -> None:
        assert await plane.settle()
        plane.front_ends.log_level("WARNING")
        before = restarts("front_end")
        [dead] = plane.front_ends._hosted
        said: list[tuple[Child, Message]] = []
        send = Child.send

        def recorded(self: Child, message: Message, fds: Sequence[int] = ()) -> None:
            said.append((self, message))
            send(self, message, fds)

        monkeypatch.setattr(Child, "send", recorded)
        with monkeypatch.context() as patch:
            patch.setattr(hosted_front_end, "START_PATIENCE", 0.0)
            os.kill(dead.child.pid, signal.SIGKILL)
            await until(lambda: restarts("front_end") >= before + 2)

        def listens() -> bool:
            listening = plane.front_ends._hosted[0]._listening
            return listening.done() and not listening.cancelled() and not listening.exception()

        await until(listens)
        async with grpc.aio.insecure_channel(plane.front_ends.local) as channel:
            client = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
            ready = triton.service_pb2.ModelReadyRequest(name="cells")

            while not (await client.ModelReady(ready)).ready:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        # What it would miss otherwise, each once.
        heard = [message for child, message in said if child is plane.front_ends._hosted[0].child]
        assert [message["do"] for message in heard] == ["start", "link", "model", "log"]

    in_plane(tmp_path, store_of_models, scenario)


def test_a_front_end_that_dies_before_a_drain_is_not_started_into_it(
    tmp_path: Path, store_of_models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(plane: Plane) -> None:
        [dead] = plane.front_ends._hosted
        before = restarts("front_end")
        with no_room_for_a_process(monkeypatch, times=10) as asked:
            os.kill(dead.child.pid, signal.SIGKILL)
            await until(lambda: restarts("front_end") == before + 1)
            await plane.front_ends.drain(0.0, 5.0)
            await asyncio.gather(*plane.front_ends._keepers)
        assert asked == []

    in_plane(tmp_path, store_of_models, scenario)


def test_a_runner_comes_back_when_its_files_were_swept_away(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, promote=True)

    async def scenario(plane: Plane) -> None:
        assert await plane.settle()
        stable = plane.supervisor.models["cells"].stable
        assert stable is not None
        dead = stable.runners[0]
        shutil.rmtree(stable.folder)
        os.kill(dead.child.pid, signal.SIGKILL)
        await until(lambda: stable.runners[0] is not dead)
        assert (stable.folder / "bundle.json").exists()

    in_plane(tmp_path, store_of_models, scenario)


async def until_ready(plane: Plane, model: str) -> None:
    """Waits until the (first) front end says that it can serve the model."""
    async with grpc.aio.insecure_channel(plane.front_ends.local) as channel:
        client = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        asked = triton.service_pb2.ModelReadyRequest(name=model)
        while not (await client.ModelReady(asked, wait_for_ready=True)).ready:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_a_new_front_end_serves_though_the_files_were_swept_away(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, promote=True)

    async def scenario(plane: Plane) -> None:
        assert await plane.settle()
        stable = plane.supervisor.models["cells"].stable
        assert stable is not None
        shutil.rmtree(stable.folder)
        [dead] = plane.front_ends._hosted
        os.kill(dead.child.pid, signal.SIGKILL)
        await until(lambda: plane.front_ends._hosted[0] is not dead)
        await until_ready(plane, "cells")

    in_plane(tmp_path, store_of_models, scenario)


def test_a_link_that_the_machine_had_no_room_for_is_made_later(
    tmp_path: Path,
    repository: ModelRepository,
    store_of_models: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish_bundle(repository, promote=True)
    memfd_create = os.memfd_create
    refused: list[str] = []

    def no_descriptor_left(name: str, flags: int = 0) -> int:
        if name == "visionloop-rows" and not refused:
            refused.append(name)
            raise OSError(24, "Too many open files")
        return memfd_create(name, flags)

    monkeypatch.setattr(os, "memfd_create", no_descriptor_left)
    monkeypatch.setattr(front_ends, "LINK_PAUSE", 0.01)

    async def scenario(plane: Plane) -> None:
        assert await plane.settle()
        await until_ready(plane, "cells")
        assert refused

    in_plane(tmp_path, store_of_models, scenario)


def test_a_link_that_breaks_while_its_runner_lives_is_made_anew(
    tmp_path: Path,
    repository: ModelRepository,
    store_of_models: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody starts that runner again, so its front end would refuse requests for ever."""
    publish_bundle(repository, promote=True)
    monkeypatch.setattr(front_ends, "LINK_PAUSE", 0.01)
    pair = socket.socketpair
    ends: list[socket.socket] = []

    def kept(*kind: Any) -> tuple[socket.socket, socket.socket]:
        ours, theirs = pair(*kind)
        if not kind:  # with one it is a control channel
            ends.append(ours.dup())
        return ours, theirs

    async def scenario(plane: Plane) -> None:
        monkeypatch.setattr(socket, "socketpair", kept)
        assert await plane.settle()
        await until_ready(plane, "cells")
        stable = plane.supervisor.models["cells"].stable
        assert stable is not None
        [runner] = stable.runners
        ends[0].shutdown(socket.SHUT_RDWR)
        await until(lambda: len(ends) == 2)
        await until_ready(plane, "cells")
        assert stable.runners == [runner]
        assert not runner.child.ended.done()

    in_plane(tmp_path, store_of_models, scenario)
    for end in ends:
        end.close()


def test_the_pause_grows_for_a_front_end_that_dies_again_and_again(
    tmp_path: Path, store_of_models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(seconds)

    async def scenario(plane: Plane) -> None:
        monkeypatch.setattr(asyncio, "sleep", noted)
        for _ in range(3):
            [dead] = plane.front_ends._hosted
            os.kill(dead.child.pid, signal.SIGKILL)
            await until(lambda dead=dead: plane.front_ends._hosted[0] is not dead)
            await plane.front_ends._hosted[0].listening()

    in_plane(tmp_path, store_of_models, scenario)
    assert [seconds for seconds in slept if seconds >= 0.1] == [0.1, 0.2, 0.4]


def test_a_link_that_cannot_be_made_is_closed() -> None:
    """The runner at its other end would wait for it when it is to go."""
    ours, theirs = socket.socketpair()
    arena = os.memfd_create("arena")
    with pytest.raises(CorruptError):
        link_runner(
            Catalogue(10, 1000), '{"format_version": 1}', [theirs.detach(), arena], lambda: None
        )
    ours.settimeout(PATIENCE)
    assert ours.recv(1) == b""
    ours.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(arena)


def test_a_front_end_that_missed_a_message_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when it has no descriptor left for a large one: it would follow old routes for ever."""

    def no_descriptor_left() -> None:
        raise OSError(24, "Too many open files")

    async def scenario() -> None:
        ours, theirs = Control.pair()
        front_end = FrontEnd(theirs)
        monkeypatch.setattr(theirs, "receive", no_descriptor_left)
        ours.send({"do": "start"})
        await asyncio.wait_for(front_end.run(), 10)
        ours.close()

    asyncio.run(scenario())


# --- versions that must not be tried again


class Fetches:
    """Which versions were fetched from the repository; those that `fail` are not there now."""

    def __init__(self, plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
        self.numbers: list[int] = []
        self.fail: set[int] = set()
        repository = plane.supervisor._loader.repository
        fetch = repository.fetch

        def counted(model: str, version: int, folder: Path) -> Any:
            self.numbers.append(version)
            if version in self.fail:
                raise OSError("the store is away")
            return fetch(model, version, folder)

        monkeypatch.setattr(repository, "fetch", counted)


def set_canary(repository: ModelRepository, version: int, percent: float) -> None:
    repository.set_canary(
        "cells", version, percent, expected=repository.aliases("cells"), who="a test", why="to see"
    )


@pytest.mark.long
def test_what_was_refused_or_demoted_waits_for_the_aliases(
    tmp_path: Path,
    repository: ModelRepository,
    store_of_models: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    publish_bundle(repository, seed=2, wrong_golden=0)  # refused
    publish_bundle(repository, seed=3)
    publish_bundle(repository, seed=4, wrong_golden=11)  # demoted

    async def scenario(plane: Plane) -> None:
        fetches = Fetches(plane, monkeypatch)
        fetches.fail = {3}
        assert not await plane.settle()
        assert sorted(fetches.numbers) == [1, 2, 3, 4]
        model = plane.supervisor.models["cells"]
        assert model.versions[2].state is State.REFUSED
        assert model.versions[4].state is State.DEMOTED  # though no alias means it
        promote_version(repository, 4)
        fetches.numbers.clear()
        assert not await plane.settle()
        assert sorted(fetches.numbers) == [2, 3, 4]  # the aliases moved: each once
        assert model.stable is model.versions[1]

        fetches.numbers.clear()
        assert not await plane.settle()
        assert fetches.numbers == [3]  # only this one may end otherwise
        assert model.stable is model.versions[1]
        assert "version 4 was demoted" in model.problem  # what stable means comes first

        fetches.fail.clear()
        assert await plane.settle()
        publish_bundle(repository, seed=5)
        fetches.numbers.clear()
        assert await plane.settle()
        assert fetches.numbers == [5]

        # The problem is over when the aliases mean what serves.
        promote_version(repository, 5)
        assert await plane.settle()
        assert model.stable is model.versions[5]

    in_plane(tmp_path, store_of_models, scenario, "--version-policy=all")


def test_a_problem_is_over_with_what_it_was_about(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    publish_bundle(repository, seed=2, wrong_golden=0)

    async def scenario(plane: Plane) -> None:
        promote_version(repository, 2)
        assert await plane.settle()
        model = plane.supervisor.models["cells"]
        assert "version 2 was refused" in model.problem
        promote_version(repository, 1)
        assert await plane.settle()
        assert model.problem == ""
        assert plane.front_ends._routes["cells"]["problem"] == ""

    in_plane(tmp_path, store_of_models, scenario)


def test_a_refused_canary_does_not_leave_its_share_to_the_one_before(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    publish_bundle(repository, seed=2)
    publish_bundle(repository, seed=3, wrong_golden=0)

    async def scenario(plane: Plane) -> None:
        set_canary(repository, 2, 30.0)
        assert await plane.settle()
        model = plane.supervisor.models["cells"]
        assert model.canary is model.versions[2]
        set_canary(repository, 2, 40.0)
        assert await plane.settle()
        assert plane.front_ends._routes["cells"]["canary"] == {"version": 2, "percent": 40.0}
        set_canary(repository, 3, 30.0)
        assert await plane.settle()
        assert model.canary is None
        assert plane.front_ends._routes["cells"]["canary"] is None
        assert model.versions[2].state in (State.RETIRING, State.RELEASED)

    in_plane(tmp_path, store_of_models, scenario)


def test_a_first_version_whose_runner_is_killed_before_it_is_proven_is_tried_again(
    tmp_path: Path,
    repository: ModelRepository,
    store_of_models: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish_bundle(repository, seed=1, promote=True)

    async def scenario(plane: Plane) -> None:
        model = plane.supervisor._model("cells")
        proven = model._proven

        async def killed_first(version: Any) -> bool:
            os.kill(version.runners[0].child.pid, signal.SIGKILL)
            await version.runners[0].child.ended
            return await proven(version)

        with monkeypatch.context() as patch:
            patch.setattr(model, "_proven", killed_first)
            assert not await plane.settle()
        assert model.stable is None
        assert await plane.settle()
        assert model.stable is model.versions[1]
        assert model.problem == ""

    in_plane(tmp_path, store_of_models, scenario)


def test_a_version_that_hangs_before_it_is_proven_gives_way_to_the_one_before(
    tmp_path: Path,
    repository: ModelRepository,
    store_of_models: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    publish_bundle(repository, seed=2)

    async def scenario(plane: Plane) -> None:
        assert await plane.settle()
        model = plane.supervisor.models["cells"]
        replay = HostedRunner.replay

        async def hangs(self: HostedRunner, patience: float) -> float:
            assert model.stable is model.versions[2]
            os.kill(self.child.pid, signal.SIGSTOP)
            return await replay(self, patience / 1000.0)

        monkeypatch.setattr(HostedRunner, "replay", hangs)
        promote_version(repository, 2)
        assert await plane.settle()
        assert model.stable is model.versions[1]
        assert "it hangs" in model.problem

    in_plane(tmp_path, store_of_models, scenario, "--drain-seconds=2")


@pytest.mark.long
def test_the_files_of_a_version_that_drains_for_long_are_removed_later(
    tmp_path: Path,
    repository: ModelRepository,
    store_of_models: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seed in (1, 2, 3, 4):
        publish_bundle(repository, seed=seed)

    async def scenario(plane: Plane) -> None:
        loader = plane.supervisor._loader
        release, drained = Loader.release, asyncio.Event()

        async def slowly(self: Loader, version: Any) -> None:
            await drained.wait()
            await release(self, version)

        monkeypatch.setattr(Loader, "release", slowly)
        for number in (1, 2, 3):
            promote_version(repository, number)
            assert await plane.settle()
        model = plane.supervisor.models["cells"]
        assert loader.folder("cells", 1).exists()
        drained.set()
        await until(lambda: not model._releases)
        promote_version(repository, 4)
        assert await plane.settle()
        assert not loader.folder("cells", 1).exists()
        assert not loader.folder("cells", 2).exists()
        assert loader.folder("cells", 4).exists()

    in_plane(tmp_path, store_of_models, scenario)


# --- models by request


def test_names_that_are_asked_for_and_not_there_leave_nothing(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, promote=True)

    async def scenario(plane: Plane) -> None:
        supervisor = plane.supervisor
        await supervisor.load("cells")
        names = [f"model-{number % 3}" for number in range(12)]  # each by several at once
        found = await asyncio.gather(*map(supervisor.load, names), return_exceptions=True)
        assert [type(error) for error in found] == [NotFoundError] * len(names)
        for known in (supervisor.models, supervisor._settled, supervisor._acting):
            assert set(known) == {"cells"}
        assert supervisor._tried == {"cells"}
        assert not supervisor._loads

    in_plane(tmp_path, store_of_models, scenario, "--model-control=explicit")


@pytest.mark.parametrize("well", [True, False])
def test_a_load_that_the_end_of_the_server_overtakes_is_told_so(
    tmp_path: Path,
    repository: ModelRepository,
    store_of_models: str,
    monkeypatch: pytest.MonkeyPatch,
    well: bool,
) -> None:
    publish_bundle(repository, promote=True)

    async def scenario(plane: Plane) -> None:
        replay, begun, go = HostedRunner.replay, asyncio.Event(), asyncio.Event()

        async def late(self: HostedRunner, patience: float) -> float:
            difference = await replay(self, patience) if well else 0.0
            begun.set()
            await go.wait()
            return difference if well else await replay(self, patience)

        monkeypatch.setattr(HostedRunner, "replay", late)
        load = asyncio.create_task(plane.supervisor.load("cells"))
        await begun.wait()
        runner = plane.supervisor.models["cells"].versions[1].runners[0]
        await plane.supervisor.close()
        go.set()
        with pytest.raises(UnavailableError, match="the server is shutting down"):
            await load
        assert runner.child.ended.done()

    in_plane(tmp_path, store_of_models, scenario, "--model-control=explicit")


def test_a_named_model_that_was_unloaded_stays_so(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, promote=True)

    async def scenario(plane: Plane) -> None:
        supervisor = plane.supervisor
        await supervisor.start()
        await until(lambda: supervisor.ready)
        await supervisor.unload("cells")
        await supervisor._discover()  # as `run` does every few seconds
        await asyncio.gather(*supervisor._followers.values(), return_exceptions=True)
        assert not supervisor.models["cells"].serving
        await supervisor.load("cells")
        assert supervisor.ready

    flags = ("--model-control=explicit", "--models=cells")
    in_plane(tmp_path, store_of_models, scenario, *flags)


# --- the whole program


@pytest.fixture
def server(tmp_path: Path, repository: ModelRepository, store_of_models: str) -> Iterator[Server]:
    publish_bundle(repository, seed=1, promote=True)
    with running_server(tmp_path / "server", store_of_models, "--front-ends=1") as running_one:
        yield running_one.ready()


def test_a_sigterm_for_the_whole_group_is_the_supervisors_alone(server: Server) -> None:
    [front_end] = running(server.process.pid, FRONT_END)
    [runner] = running(server.process.pid, RUNNER)
    for child in (front_end, runner):
        os.kill(child, signal.SIGTERM)
    assert server.recognize(IMAGE).version == 1
    assert running(server.process.pid, FRONT_END) == [front_end]
    assert server.terminate() == 0
    assert server.text().count("starting it again") == 0
    wait_for(lambda: not Path(f"/proc/{front_end}").exists())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_store_that_never_answers_does_not_hold_up_the_end_of_a_start(
    tmp_path: Path, number: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as store:
        server = Server(
            tmp_path / "server",
            "s3://models/here",
            AWS_ENDPOINT_URL=f"http://127.0.0.1:{store.getsockname()[1]}",
            AWS_ACCESS_KEY_ID="nobody",
            AWS_SECRET_ACCESS_KEY="nothing",
        )
        try:
            store.settimeout(PATIENCE)
            with store.accept()[0] as asked:
                assert asked.recv(1)
                server.process.send_signal(number)
                # Far below the minute for which a read from the store may hang, and its retries.
                assert server.process.wait(timeout=25) == 0, server.text()
        finally:
            server.close()
