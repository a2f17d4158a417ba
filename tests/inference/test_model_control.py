"""Models that callers load and unload (--model-control explicit), at bad moments too."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.bundles import publish_bundle
from support.control_plane import Plane, in_plane
from support.waiting import until

from visionloop.errors import NotFoundError, RefusedError, UnavailableError
from visionloop.repository import ModelRepository
from visionloop_inference.hosted_runner import HostedRunner


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


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({}, NotFoundError, "it has no stable version yet"),
        ({"promote": True, "wrong_golden": 0}, RefusedError, "version 1 was refused"),
        ({"promote": True}, UnavailableError, "the store is away"),
    ],
)
def test_why_a_model_cannot_serve_is_said_and_whether_to_try_again(
    tmp_path: Path,
    repository: ModelRepository,
    store_of_models: str,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    kind: type[Exception],
    words: str,
) -> None:
    publish_bundle(repository, **change)

    def away(*_: object) -> None:
        raise OSError("the store is away")

    async def scenario(plane: Plane) -> None:
        if kind is UnavailableError:
            monkeypatch.setattr(plane.supervisor._loader.repository, "fetch", away)
        with pytest.raises(kind, match=words):
            await plane.supervisor.load("cells")

    in_plane(tmp_path, store_of_models, scenario, "--model-control=explicit")


def test_a_runner_that_dies_before_its_version_is_proven_is_worth_another_try(
    tmp_path: Path,
    repository: ModelRepository,
    store_of_models: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish_bundle(repository, promote=True)

    async def dies(*_: object) -> float:
        raise UnavailableError("the runner died")

    async def scenario(plane: Plane) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(HostedRunner, "replay", dies)
            with pytest.raises(UnavailableError, match="demoted: the runner died"):
                await plane.supervisor.load("cells")
        await plane.supervisor.load("cells")
        assert plane.supervisor.models["cells"].serving

    in_plane(tmp_path, store_of_models, scenario, "--model-control=explicit")


def test_a_failure_of_long_ago_does_not_make_a_refused_version_worth_another_try(
    tmp_path: Path,
    repository: ModelRepository,
    store_of_models: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish_bundle(repository, promote=True)

    def away(*_: object) -> None:
        raise OSError("the store is away")

    async def scenario(plane: Plane) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(plane.supervisor._loader.repository, "fetch", away)
            with pytest.raises(UnavailableError):
                await plane.supervisor.load("cells")
        for _ in range(2):
            publish_bundle(repository, promote=True, wrong_golden=0)
        with pytest.raises(RefusedError, match="version 3 was refused"):
            await plane.supervisor.load("cells")

    in_plane(tmp_path, store_of_models, scenario, "--model-control=explicit")


def test_a_model_that_was_unloaded_is_no_candidate_for_an_empty_name(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, "cells", promote=True)
    publish_bundle(repository, "dogs", promote=True)

    async def scenario(plane: Plane) -> None:
        for name in ("cells", "dogs"):
            await plane.supervisor.load(name)
            assert plane.front_ends._routes[name]["wanted"]
        await plane.supervisor.unload("dogs")
        assert not plane.front_ends._routes["dogs"]["wanted"]
        assert "it was unloaded" in plane.front_ends._routes["dogs"]["problem"]
        assert plane.front_ends._routes["cells"]["wanted"]

    in_plane(tmp_path, store_of_models, scenario, "--model-control=explicit")
