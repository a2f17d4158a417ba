"""The search for better settings: on val alone, within its time, and nothing lost to a kill."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from support.tiny_network import BASE, PIXELS, tiny_backbone
from support.training_site import Site

from visionloop.errors import ConfigurationError
from visionloop.snapshot import SnapshotRepository
from visionloop_training import backbones, config, lanes, pipeline
from visionloop_training import fit as fit_module
from visionloop_training.config import TrainingConfig
from visionloop_training.data import Blobs, Dataset, dataset
from visionloop_training.distributed import Workers
from visionloop_training.fit_state import Epoch
from visionloop_training.lanes import FullLane, Surroundings, open_checkpoints
from visionloop_training.reproduce import reproduce
from visionloop_training.search import budget, stage, trials
from visionloop_training.search.budget import Budget, Deadline
from visionloop_training.search.record import RecordFile, Tried
from visionloop_training.search.space import applied, space
from visionloop_training.search.table import as_json, table
from visionloop_training.stable import same_training
from visionloop_training.stop import PreemptedError, Stop
from visionloop_training.triggers import Decision
from visionloop_training.words import told

PLAIN = config.load(overrides=BASE)


@pytest.fixture
def digits(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Two digits, and the tiny network in the place of every backbone."""
    monkeypatch.setattr(backbones, "build", lambda *_: (tiny_backbone(), PIXELS))
    site.write({"0": 40, "1": 40})
    return site


class Trials(Budget):
    """Time for so many trials; `used` is called when one is over."""

    def __init__(self, count: int) -> None:
        super().__init__(1e6)
        self._count = count

    @property
    def left(self) -> float:
        return super().left if self._count > 0 else -1.0

    def used(self) -> None:
        self._count -= 1


class Unread(tuple):  # type: ignore[type-arg]
    """The test images, which no trial may look at."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("the test images are read")

    __len__ = __getitem__ = __iter__  # type: ignore[assignment]


def data_of(site: Site) -> Dataset:
    data = dataset(SnapshotRepository(site.store).read("digits", "latest"))
    return replace(data, test=Unread())


def surroundings(site: Site, stop: Stop | None = None) -> Surroundings:
    return Surroundings(Blobs(site.store, site.cache / "blobs"), site.cache, stop or Stop())


def searched(
    site: Site,
    count: int,
    given: TrainingConfig = PLAIN,
    stop: Stop | None = None,
    *,
    seconds: float = 1e6,
) -> trials.Found:
    """A search with time for `count` trials, which it takes for `seconds`."""
    budget = Trials(count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials._Search, "_told", lambda *_: budget.used())
        return trials.search(
            data_of(site), given, surroundings(site, stop), site.store, "reader",
            open_checkpoints(site.store, "reader", 1e6), seconds, lambda _: budget,
        )  # fmt: skip


def checkpoint_folders(site: Site) -> set[str]:
    prefix = "models/reader/checkpoints/"
    keys = [stat.key.removeprefix(prefix) for stat in site.store.list(prefix)]
    return {key.partition("/")[0] for key in keys if key.endswith("latest.json")}


def test_what_is_given_is_tried_first_and_the_best_on_val_wins(digits: Site):
    found = searched(digits, 4)
    tried = found.record.tried
    assert len(tried) == 4
    assert tried[0].settings == space(PLAIN, tiny_backbone()).given
    scores = [one.score for one in tried if one.score is not None]
    assert found.record.best is not None
    assert found.record.best.score == min(scores)
    assert found.config == applied(PLAIN, found.record.best.settings)
    assert len(checkpoint_folders(digits)) == 1  # the winner's


def test_the_winner_is_not_trained_again(digits: Site, monkeypatch: pytest.MonkeyPatch):
    found = searched(digits, 3)

    def learns(*_: object) -> None:
        raise AssertionError("it trains again")

    monkeypatch.setattr(fit_module._Run, "fine_tune", learns)
    checkpoints = open_checkpoints(digits.store, "reader", 1e6)
    lane = FullLane(data_of(digits), found.config, surroundings(digits), checkpoints)
    lane.load()
    assert lane.fit().kept_epoch == found.config.fit.epochs  # fit.keep=last


def test_a_search_that_was_killed_goes_on_with_the_trial_that_ran(
    digits: Site, monkeypatch: pytest.MonkeyPatch
):
    whole = searched(digits, 4)
    for stat in list(digits.store.list("models/")):
        digits.store.delete(stat.key)

    class KilledError(BaseException):
        pass

    fit = FullLane.fit
    calls: list[None] = []

    def killed(lane: FullLane) -> Any:
        calls.append(None)
        if len(calls) == 3:
            raise KilledError
        return fit(lane)

    with monkeypatch.context() as patch:
        patch.setattr(FullLane, "fit", killed)
        with pytest.raises(KilledError):
            searched(digits, 4)
    resumed = searched(digits, 2)
    pairs = list(zip(whole.record.tried, resumed.record.tried, strict=True))
    # Three as before the kill; what comes after them is drawn anew.
    assert all(a.settings == b.settings and a.score == b.score for a, b in pairs[:3])
    assert len({repr(one.settings) for one in resumed.record.tried}) == 4, "none twice"
    again = searched(digits, 9)
    assert again.record == resumed.record  # it is over
    longer = searched(digits, 1, seconds=2e6)
    assert longer.record.tried[:4] == resumed.record.tried
    assert len(longer.record.tried) == 5
    assert len(checkpoint_folders(digits)) == 1


def test_the_time_ends_a_trial_and_what_was_given_stays(digits: Site):
    class Short(Trials):
        """Over in the midst of the first trial."""

        asked = 0

        @property
        def left(self) -> float:
            self.asked += 1
            return 1.0 if self.asked <= 6 else -1.0

    found = trials.search(
        data_of(digits), PLAIN, surroundings(digits), digits.store, "reader",
        open_checkpoints(digits.store, "reader", 1e6), 1e6, lambda _: Short(1),
    )  # fmt: skip
    assert found.record.best is None
    given = space(PLAIN, tiny_backbone()).given
    assert found.config == applied(PLAIN, given)
    # So what the trial had learned is gone on from.
    assert found.config.fit.learning_rate == given["learning_rate"]


def test_a_run_that_is_told_to_stop_stops(digits: Site):
    stop = Stop()
    stop.tell()
    with pytest.raises(PreemptedError):
        searched(digits, 1, stop=stop)
    deadline = Deadline(Stop(), Trials(1))
    assert not deadline.told
    deadline.tell()
    assert deadline.told


def test_a_trial_that_falls_behind_is_pruned_at_an_equal_share_of_its_epochs():
    study = trials._study(0)
    choices = {"epochs": optuna.distributions.CategoricalDistribution([4, 8])}
    for loss in (0.2, 0.3, 0.4):
        reports = dict.fromkeys((1, 2, 3, 4), loss)
        tried = Tried(
            settings={"epochs": 4}, outcome="done", score=loss, reports=reports, seconds=1
        )
        study.add_trial(trials._frozen(tried, choices))

    def judged(loss: float) -> int:
        """After which of 8 epochs it ends."""
        judge = trials._TrialWatch(study.ask(choices), 8)
        for epoch in range(9):
            try:
                judge.epoch(Epoch(epoch, loss, loss, 0.5, 0.1, 1.0))
            except optuna.TrialPruned:
                return epoch
        return 9

    assert judged(0.25) == 9
    assert judged(0.9) == 2


def test_a_failure_is_a_trial_and_not_the_end(digits: Site):
    runaway = ("fit.learning_rate=1e30", "fit.clip_norm=1e30", "fit.retries=0")
    found = searched(digits, 3, config.load(overrides=(*BASE, *runaway)))
    assert {one.outcome for one in found.record.tried} == {"failed"}
    assert "diverged" in found.record.tried[0].words
    assert found.config.fit.learning_rate == 1e30


def test_the_space_lies_around_what_is_given():
    given = config.load("balanced", overrides=["fit.freeze=block.0", "fit.label_smoothing=0.05"])
    found = space(given, tiny_backbone())
    low, high = found.learning_rate
    assert low < float(found.given["learning_rate"]) < high
    assert found.choices["freeze"] == ("stem", "block.0", "block.1")
    epochs = given.fit.epochs
    assert found.choices["epochs"] == (epochs // 2, epochs, 2 * epochs)
    assert found.choices["label_smoothing"] == (0.0, 0.05, 0.1, 0.2)
    for name, choices in found.choices.items():
        assert found.given[name] in choices
    rate = {"learning_rate": found.given["learning_rate"]}
    as_given = given.model_copy(update={"fit": given.fit.model_copy(update=rate)})
    assert applied(given, found.given) == as_given
    strong = applied(given, {**found.given, "augment": "stronger"}).augment
    cut = 1 - given.augment.crop_min_area
    assert strong.crop_min_area == pytest.approx(1 - 2 * cut)
    assert strong.brightness == 2 * given.augment.brightness


def test_augmentation_that_is_off_can_only_become_stronger():
    bare = config.load(overrides=["fit.freeze=stem"])
    found = space(bare, tiny_backbone())
    assert found.choices["augment"] == ("as given", "stronger")
    assert applied(bare, {**found.given, "augment": "stronger"}).augment.crop_min_area == 0.8


def test_cutmix_and_plans_leave_the_freeze_point_alone():
    for settings in (["mixing.cutmix=1"], ["fit.unfreeze=[[1, block.0], [2, stem]]"]):
        found = space(config.load(overrides=settings), tiny_backbone())
        assert found.choices["freeze"] == (0.0,)


@pytest.mark.parametrize("settings", [("fit.epochs=0",), ("fit.freeze=1.0",)])
def test_there_must_be_something_to_search(settings: tuple[str, ...]):
    with pytest.raises(ConfigurationError, match="--search varies fine-tuning"):
        space(config.load(overrides=settings), tiny_backbone())


def test_it_is_refused_where_nothing_is_fine_tuned_or_many_processes_are():
    with pytest.raises(ConfigurationError, match="--lane fast only makes a new head"):
        stage.check("fast", Workers())
    with pytest.raises(ConfigurationError, match="one process, and these are 2"):
        stage.check("full", Workers(rank=0, count=2))


def test_where_the_fast_lane_is_chosen_it_is_said_that_nothing_is_searched(
    caplog: pytest.LogCaptureFixture,
):
    job: Any = SimpleNamespace(request=SimpleNamespace(search_seconds=60.0))
    assert pipeline._searched(job, Decision("fast", "60 new labels")) == (job, None)
    assert "--search is left out" in caplog.text


@pytest.mark.long
def test_after_a_refusal_the_search_and_its_verdict_are_found(
    digits: Site, monkeypatch: pytest.MonkeyPatch
):
    """As a schedule does each night; only `--again` spends the time once more."""
    ticks = itertools.count(0.0, 0.01)
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    settings = (*BASE, "gate.max_megabytes=0.001")
    refused = digits.train(*settings, search_seconds=0.5)
    assert "size" in refused.verdict.failed
    assert refused.searched is not None
    assert refused.searched.tried != []

    def tries(*_: object) -> None:
        raise AssertionError("it searches again")

    with monkeypatch.context() as patch:
        patch.setattr(trials._Search, "_tried", tries)
        for _ in range(2):
            again = digits.train(*settings, search_seconds=0.5)
            assert (again.version, again.already_judged) == (1, True)
            assert again.searched is not None
            assert again.searched.tried == refused.searched.tried
        with pytest.raises(AssertionError, match="it searches again"):
            digits.train(*settings, search_seconds=0.5, again=True)


@pytest.mark.long
def test_the_winners_settings_are_published_and_reproduced(
    digits: Site, monkeypatch: pytest.MonkeyPatch
):
    # A clock that each look at it moves on: however slow the machine is, a trial has time to end.
    ticks = itertools.count(0.0, 0.01)
    monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    settings = (*BASE, "gate.policy=not-significantly-worse")
    result = digits.train(*settings, search_seconds=0.5, force=True)  # it has learned nothing yet
    assert (result.version, result.promoted) == (1, True)
    assert result.searched is not None
    assert result.searched.best is not None
    made_of = digits.repository.read("reader", 1).provenance
    expected = applied(config.load(overrides=settings), result.searched.best.settings)
    assert TrainingConfig.model_validate(made_of.config) == expected
    assert list(digits.store.list("models/reader/checkpoints/")) == []
    assert reproduce(digits.store, "reader", 1, digits.cache).identical
    lines = table(result.searched)
    assert len(lines) == 1 + len(result.searched.tried)
    assert [line.startswith("*") for line in lines].count(True) == 1
    assert lines[1] in told("reader", result)
    assert result.as_json()["search"] == as_json(result.searched)
    data = digits.store.get("models/reader/versions/1/report/report.json").data
    assert json.loads(data)["search"] == json.loads(json.dumps(as_json(result.searched)))
    page = digits.store.get("models/reader/versions/1/report/report.html").data.decode()
    assert f"{len(result.searched.tried)} trial" in page
    assert f"<td>{result.searched.best.settings['learning_rate']:.2e}</td>" in page
    # What a search chooses is no reason to train again; where none is asked for it is.
    given = config.load(overrides=settings)
    bundle = digits.repository.read("reader", 1)
    assert same_training(bundle, given, searched=True)
    assert not same_training(bundle, given)
    other = config.load(overrides=(*settings, "fit.dropout=0.3"))
    assert not same_training(bundle, other, searched=True)


def test_a_torn_record_begins_anew(digits: Site):
    file = RecordFile(digits.store, "reader", "one")
    digits.store.put("models/reader/checkpoints/one/search.json", b"{")
    assert file.read().tried == []


def test_a_trial_that_does_not_fit_into_the_gpu_is_a_failure(
    digits: Site, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(lanes, "fit", full)
    found = searched(digits, 3, config.load(overrides=BASE))
    assert {one.outcome for one in found.record.tried} == {"failed"}
    assert all("lower fit.batch_size" in one.words for one in found.record.tried)
