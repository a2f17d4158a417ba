"""Checkpoints: whole or passed over, the newest first, gone when the run is over."""

from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta

import pytest
import torch

from visionloop.errors import UnavailableError
from visionloop.objectstore import ObjectStore
from visionloop_training import checkpoint as module
from visionloop_training.checkpoint import Checkpoint, Checkpoints, run_key
from visionloop_training.distributed import Workers

FOLDER = "models/cells/checkpoints/run/"


def at(step: int) -> Checkpoint:
    weights = torch.full((2, 3, 4, 4), float(step)).to(memory_format=torch.channels_last)
    return Checkpoint(step, {"a": weights, "b": torch.tensor(step)}, {"epoch": step, "loss": 0.1})


def saved(store: ObjectStore, *steps: int) -> None:
    checkpoints = Checkpoints(store, "cells", "run", 1e6)
    checkpoints.latest()
    for step in steps:
        checkpoints.save(at(step))
        checkpoints.flush()
    checkpoints.close()


def latest(store: ObjectStore) -> Checkpoint | None:
    return Checkpoints(store, "cells", "run", 1e6).latest()


def keys(store: ObjectStore) -> list[str]:
    return sorted(stat.key.removeprefix(FOLDER) for stat in store.list(FOLDER))


def test_what_was_saved_is_found_again(store: ObjectStore) -> None:
    assert latest(store) is None
    saved(store, 7)
    found = latest(store)
    assert found is not None
    assert (found.step, found.facts) == (7, {"epoch": 7, "loss": 0.1})
    assert torch.equal(found.tensors["a"], at(7).tensors["a"])
    assert found.tensors["b"].ndim == 0


def test_two_are_kept(file_store: ObjectStore) -> None:
    saved(file_store, 1, 2, 3)
    saved(file_store, 3, 4)  # by the process that went on
    steps = [name.partition("-")[0] for name in keys(file_store)]
    assert steps == ["0000000003", "0000000004", "latest.json"]


def test_another_of_the_same_step_leaves_the_one_before_whole(file_store: ObjectStore) -> None:
    """As at the end, or after a retry: killed between the two writes, the pointer still holds."""
    saved(file_store, 5)
    pointer = file_store.get(FOLDER + "latest.json").data
    other = Checkpoint(5, {"a": torch.ones(3)}, {"over": True})
    checkpoints = Checkpoints(file_store, "cells", "run", 1e6)
    assert checkpoints.latest() is not None
    checkpoints.save(other)
    checkpoints.close()
    found = latest(file_store)
    assert found is not None
    assert found.facts == {"over": True}
    file_store.put(FOLDER + "latest.json", pointer)
    found = latest(file_store)
    assert found is not None
    assert found.facts == at(5).facts


class Led(Workers):
    """Process 1 of 2, which hears what the leading one said."""

    def __init__(self, said: str) -> None:
        super().__init__(rank=1, count=2)
        self._heard = said

    def leaders_answer(self, ask: Callable[[], str]) -> str:
        return self._heard


class Leading(Workers):
    """Process 0 of 2, whose words are kept."""

    said = ""

    def __init__(self) -> None:
        super().__init__(rank=0, count=2)

    def leaders_answer(self, ask: Callable[[], str]) -> str:
        self.said = ask()
        return self.said


def test_all_processes_go_on_from_what_the_leading_one_found(file_store: ObjectStore) -> None:
    leading = Leading()
    assert Checkpoints(file_store, "cells", "run", 1e6).agreed(leading) is None
    saved(file_store, 1)
    assert Checkpoints(file_store, "cells", "run", 1e6).agreed(Led(leading.said)) is None
    found = Checkpoints(file_store, "cells", "run", 1e6).agreed(leading)
    saved(file_store, 2)  # by the run before, which is not quite dead
    theirs = Checkpoints(file_store, "cells", "run", 1e6).agreed(Led(leading.said))
    assert found is not None
    assert theirs is not None
    assert (found.step, theirs.step, theirs.facts) == (1, 1, at(1).facts)
    saved(file_store, 3)
    words = "checkpoint of step 1 that the leading process found is gone .* same command again"
    with pytest.raises(UnavailableError, match=words):  # which a Job does not take as final
        Checkpoints(file_store, "cells", "run", 1e6).agreed(Led(leading.said))


@pytest.mark.parametrize("harm", ["torn", "gone"])
def test_one_that_is_not_whole_is_passed_over(file_store: ObjectStore, harm: str) -> None:
    saved(file_store, 1, 2)
    [newest] = [stat.key for stat in file_store.list(FOLDER + "0000000002-")]
    if harm == "gone":
        file_store.delete(newest)
    else:
        file_store.put(newest, file_store.get(newest).data[:-5])
    found = latest(file_store)
    assert found is not None
    assert found.step == 1


def test_a_torn_pointer_begins_anew(file_store: ObjectStore) -> None:
    saved(file_store, 1)
    file_store.put(FOLDER + "latest.json", b"{")
    assert latest(file_store) is None


def test_a_store_that_fails_costs_a_checkpoint_and_not_the_run(
    file_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    checkpoints = Checkpoints(file_store, "cells", "run", 1e6)
    root = tmp_path / "store"
    root.rename(tmp_path / "away")
    root.write_text("no folder")
    checkpoints.save(at(1))
    checkpoints.flush()
    root.unlink()
    (tmp_path / "away").rename(root)
    checkpoints.save(at(2))
    checkpoints.close()
    found = latest(file_store)
    assert found is not None
    assert found.step == 2


class Hasty(Checkpoints):
    """Whose writer is done, and forgets what it wrote, just after anybody looked."""

    _seen: Future[None] | None = None

    @property
    def _writing(self) -> Future[None] | None:
        seen, self._seen = self._seen, None
        return seen

    @_writing.setter
    def _writing(self, writing: Future[None] | None) -> None:
        self._seen = writing


def test_a_writer_that_is_done_at_that_moment_is_not_waited_for(file_store: ObjectStore) -> None:
    checkpoints = Hasty(file_store, "cells", "run", 1e6)
    checkpoints.save(at(1))
    checkpoints.close()
    done: Future[None] = Future()
    done.set_result(None)
    checkpoints._writing = done
    checkpoints.flush()


def test_they_go_with_their_run_and_when_nobody_continued(
    file_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Checkpoints(file_store, "cells", "other", 1e6)
    other.save(at(1))
    other.close()
    saved(file_store, 1)
    Checkpoints(file_store, "cells", "run", 1e6).remove()
    left = [stat.key for stat in file_store.list("models/")]
    assert left
    assert all("/other/" in key for key in left)

    class Later(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(UTC) + timedelta(days=15)

    monkeypatch.setattr(module, "datetime", Later)
    Checkpoints(file_store, "cells", "run", 1e6).remove()
    assert list(file_store.list("models/")) == []


def test_a_run_is_named_by_all_that_decides_it() -> None:
    parts: dict[str, object] = {"snapshot": "sha256-1", "config": {"seed": 0}}
    assert run_key(parts) == run_key(dict(reversed(parts.items())))
    assert run_key(parts) != run_key({**parts, "config": {"seed": 1}})
