"""Datasets get their next snapshot by themselves, and only where it brings something."""

from datetime import UTC, datetime, timedelta

import pytest
from support.pictures import noise

from visionloop.errors import NotFoundError, UnavailableError
from visionloop.record import record_bytes
from visionloop.snapshot import SnapshotManifest, SnapshotRepository
from visionloop.snapshot_latest import LatestPointer, LatestSnapshot
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


def pointer_of(name: str) -> str:
    return f"datasets/{name}/refs/latest.json"


def said_of(caplog, name: str) -> list[str]:
    """What the log says of a dataset."""
    return [one.getMessage() for one in caplog.records if vars(one).get("dataset") == name]


def test_a_database_behind_its_store_is_told_of_once_in_a_while(
    core, schedule, clock, cuts, caplog
) -> None:
    labelled(core, "cells", 3)
    first = snapshots.cut(core.database, core.store, "cells")
    # The store knows of labels that the database does not, as after the return of an old backup.
    key = f"datasets/cells/snapshots/{first.manifest.id}/manifest.json"
    ahead = first.manifest.model_copy(update={"label_sequence": 1000})
    core.store.put(key, record_bytes(ahead))
    LatestPointer(core.store, "cells").move(
        LatestSnapshot(id=ahead.id, label_sequence=ahead.label_sequence)
    )
    cuts.clear()
    clock.now += 2 * DAY
    caplog.clear()
    for _ in range(3):
        schedule.work()
    assert cuts == ["cells"]
    (told,) = said_of(caplog, "cells")
    assert "it is a new or an older one" in told
    clock.now += DAY
    schedule.work()
    assert cuts == ["cells", "cells"]


@pytest.mark.parametrize("wrong", [b"{", None])
def test_what_cannot_be_cut_holds_up_nothing_and_is_tried_once_in_a_while(
    core, schedule, clock, cuts, monkeypatch, caplog, wrong: bytes | None
) -> None:
    for name in ("broken", "cells"):
        labelled(core, name, 2)
        snapshots.cut(core.database, core.store, name)
        core.add(noise(9), "a", dataset=name)
    stored, whole = pointer_of("broken"), core.store.get(pointer_of("broken")).data
    read = core.store.get

    def breaks(key: str):
        if key == stored:
            raise OSError("Input/output error")
        return read(key)

    if wrong is None:
        monkeypatch.setattr(core.store, "get", breaks)
    else:
        core.store.put(stored, wrong)
    cuts.clear()
    caplog.clear()
    clock.now += 2 * DAY
    for _ in range(3):
        schedule.work()
    assert cuts == ["cells"]
    assert sum(latest(core, "cells").split_images.values()) == 3
    (told,) = [one for one in caplog.records if vars(one).get("dataset") == "broken"]
    assert bool(told.exc_info) is (wrong is None)
    monkeypatch.undo()
    core.store.put(stored, whole)
    clock.now += DAY
    schedule.work()
    assert sum(latest(core, "broken").split_images.values()) == 3


def test_a_store_that_is_away_is_no_fault_of_a_dataset(
    core, schedule, clock, cuts, monkeypatch
) -> None:
    labelled(core, "cells", 2)
    snapshots.cut(core.database, core.store, "cells")
    core.add(noise(9), "a", dataset="cells")
    cuts.clear()
    clock.now += 2 * DAY

    def away(_key: str):
        raise UnavailableError("the store does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(core.store, "get", away)
        with pytest.raises(UnavailableError):
            schedule.work()
    schedule.work()
    assert cuts == ["cells"]
