"""Datasets get their next snapshot by themselves, and only where it brings something."""

from datetime import UTC, datetime, timedelta

import pytest
from support.pictures import noise

from visionloop.errors import NotFoundError, RefusedError
from visionloop.snapshot import SnapshotManifest, SnapshotRepository
from visionloop_labeling import labels, snapshots
from visionloop_labeling.fold import AuthorKind, EventKind
from visionloop_labeling.snapshot_schedule import SnapshotSchedule
from visionloop_labeling.statements import Statement

DAY = timedelta(days=1)


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def schedule(core, clock: Clock) -> SnapshotSchedule:
    return SnapshotSchedule(core.database, core.store, DAY, clock)


@pytest.fixture
def cuts(monkeypatch) -> list[str]:
    """The datasets that are cut, in their order."""
    made: list[str] = []
    cut = snapshots.cut

    def counted(database, store, name: str) -> snapshots.Cut:
        made.append(name)
        return cut(database, store, name)

    monkeypatch.setattr(snapshots, "cut", counted)
    return made


def latest(core, name: str) -> SnapshotManifest:
    return SnapshotRepository(core.store).latest(name)


def labelled(core, name: str, count: int) -> None:
    core.create(name)
    for number in range(count):
        core.add(noise(number), "ab"[number % 2], dataset=name)


def test_the_first_snapshot_is_left_to_people(core, schedule, clock, cuts) -> None:
    labelled(core, "young", 3)
    clock.now += 10 * DAY
    assert schedule.work() is False
    assert cuts == []
    with pytest.raises(NotFoundError):
        latest(core, "young")


def test_new_labels_are_in_a_snapshot_when_the_latest_one_is_a_day_old(
    core, schedule, clock, cuts
) -> None:
    labelled(core, "cells", 3)
    labelled(core, "quiet", 2)
    first = snapshots.cut(core.database, core.store, "cells").manifest
    snapshots.cut(core.database, core.store, "quiet")
    core.add(noise(9), "a", dataset="cells")
    cuts.clear()
    clock.now += DAY / 2
    schedule.work()
    assert cuts == []
    clock.now += DAY
    schedule.work()
    assert cuts == ["cells"]  # nothing was said of the other one
    second = latest(core, "cells")
    assert (second.parent, sum(second.split_images.values())) == (first.id, 4)
    schedule.work()
    assert cuts == ["cells"]


def test_events_that_change_nothing_cost_one_cut_and_make_no_snapshot(
    core, schedule, clock, cuts
) -> None:
    labelled(core, "cells", 3)
    waiting = core.add(noise(9), dataset="cells").sha256
    first = snapshots.cut(core.database, core.store, "cells").manifest
    skipped = Statement(AuthorKind.HUMAN, "ada", EventKind.SKIP)
    labels.submit(core.database, "cells", waiting, skipped)
    cuts.clear()
    clock.now += 2 * DAY
    for _ in range(3):
        schedule.work()
    assert cuts == ["cells"]
    assert latest(core, "cells").id == first.id


def test_what_cannot_be_cut_holds_up_nothing_and_is_tried_once_in_a_while(
    core, schedule, clock, monkeypatch, caplog
) -> None:
    for name in ("broken", "cells"):
        labelled(core, name, 2)
        snapshots.cut(core.database, core.store, name)
        core.add(noise(9), "a", dataset=name)
    cut, tried = snapshots.cut, []

    def refuses(database, store, name: str) -> snapshots.Cut:
        tried.append(name)
        if name == "broken":
            raise RefusedError("this database knows less than the store")
        return cut(database, store, name)

    monkeypatch.setattr(snapshots, "cut", refuses)
    clock.now += 2 * DAY
    for _ in range(3):
        schedule.work()
    assert sorted(tried) == ["broken", "cells"]
    assert sum(latest(core, "cells").split_images.values()) == 3
    assert "this database knows less" in caplog.text
    clock.now += DAY
    schedule.work()
    assert sorted(tried) == ["broken", "broken", "cells"]
