"""Versions on their way into service: which are tried again, and what is told of the others."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from support.bundles import promote_version, publish_bundle
from support.control_plane import Plane, in_plane
from support.waiting import until

from visionloop.repository import ModelRepository
from visionloop_inference.hosted_runner import HostedRunner
from visionloop_inference.lifecycle import State
from visionloop_inference.loading import Loader


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
        await until(lambda: not model._releases._under_way)
        promote_version(repository, 4)
        assert await plane.settle()
        assert not loader.folder("cells", 1).exists()
        assert not loader.folder("cells", 2).exists()
        assert loader.folder("cells", 4).exists()

    in_plane(tmp_path, store_of_models, scenario)
