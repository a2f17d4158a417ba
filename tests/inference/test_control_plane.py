"""Children of the supervisor that die, cannot be started, or lose their links: all come back."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton
from support.bundles import publish_bundle
from support.control_plane import FRONT_END, RUNNER, Plane, in_plane
from support.waiting import PATIENCE, until

from visionloop.errors import CorruptError
from visionloop.repository import ModelRepository
from visionloop.telemetry import metrics
from visionloop_inference import front_ends, hosted_front_end
from visionloop_inference.catalogue import Catalogue
from visionloop_inference.children import Child
from visionloop_inference.control import Control, Message
from visionloop_inference.front_end import FrontEnd, link_runner


def restarts(process: str) -> float:
    found = metrics.values()["visionloop_restarts_total"]
    return found.get((process,), [0.0])[0]


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


async def is_ready(plane: Plane, model: str, version: str = "") -> bool:
    """What the (first) front end says of a model, or of a version of it."""
    async with grpc.aio.insecure_channel(plane.front_ends.local) as channel:
        client = triton.service_pb2_grpc.GRPCInferenceServiceStub(channel)
        asked = triton.service_pb2.ModelReadyRequest(name=model, version=version)
        return bool((await client.ModelReady(asked, wait_for_ready=True)).ready)


async def until_ready(plane: Plane, model: str, version: str = "") -> None:
    """Waits until the (first) front end says that it can serve it."""
    while not await is_ready(plane, model, version):  # noqa: ASYNC110
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


def test_a_new_front_end_serves_the_versions_that_no_alias_means(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    """It gets their links first and the routes then, which must name them."""
    publish_bundle(repository, seed=1)
    publish_bundle(repository, seed=2, promote=True)

    async def scenario(plane: Plane) -> None:
        assert await plane.settle()
        await until_ready(plane, "cells", "1")
        [dead] = plane.front_ends._hosted
        os.kill(dead.child.pid, signal.SIGKILL)
        await until(lambda: plane.front_ends._hosted[0] is not dead)
        await until_ready(plane, "cells")  # it has heard the routes
        assert await is_ready(plane, "cells", "1")

    in_plane(tmp_path, store_of_models, scenario, "--version-policy=latest:2")


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
