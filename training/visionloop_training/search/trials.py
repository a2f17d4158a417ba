"""Hyper-parameter search within a time budget: `visionloop-train --search MINUTES`.

Optuna's TPE proposes (Bergstra et al. 2011), the median rule ends what falls behind at a quarter, a
half or three quarters of its epochs, and val decides: by its log loss after calibration, which
tells models apart that are right equally often. A trial is the full lane up to the end of
fitting, and the test images are not in its hands. The first trial is the configuration as it is,
so on val the winner is never worse than it; how much better it is there flatters it, since the best
of many was picked on the same images. The gate's test images say what is true.

The winner is not trained twice: its trial ended with a checkpoint, from which the run goes on.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from torch.nn import functional as F

import visionloop
from visionloop.errors import RefusedError
from visionloop.objectstore import ObjectStore
from visionloop_training import backbones
from visionloop_training.checkpoint import Checkpoints, run_key
from visionloop_training.config import TrainingConfig
from visionloop_training.data import Dataset
from visionloop_training.lanes import FullLane, GpuMemoryError, Learned, Surroundings
from visionloop_training.search.budget import Budget, Deadline
from visionloop_training.search.record import RecordFile, SearchRecord, Tried
from visionloop_training.search.space import Settings, Space, applied, space
from visionloop_training.stop import PreemptedError
from visionloop_training.targets import score, targets
from visionloop_training.tasks import task_of
from visionloop_training.watch import Point, Watch

_QUARTERS = 4  # of a trial's epochs; after each but the last it may be pruned
_RANDOM_TRIALS, _UNPRUNED_TRIALS = 5, 3  # before TPE proposes, and before any is pruned
_STATES = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
_LEAST = 1e-12  # probability, so that none has an infinite loss
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """The configuration to train with, and what was tried."""

    config: TrainingConfig
    record: SearchRecord
    file: RecordFile

    def ended(self, version: int, *, promoted: bool) -> None:
        """The run has made `version` of it. Where that is not in production the same command runs
        again, and must find the settings by which it finds the version's verdict."""
        if promoted:
            self.file.remove()
        else:
            self.file.write(self.record.model_copy(update={"published": version}))


def search(
    data: Dataset,
    config: TrainingConfig,
    around: Surroundings,
    store: ObjectStore,
    model: str,
    checkpoints: Callable[[str], Checkpoints],
    seconds: float,
    budget: Callable[[float], Budget] = Budget,
    *,
    again: bool = False,
) -> Found:
    """Tries settings for `seconds` (those of trials before a kill count) and gives the best.

    `again` begins anew where a version was made of what an earlier search found. Raises
    PreemptedError when told to stop; the same call goes on from there.
    """
    blind = replace(data, test=())
    backbone, _ = backbones.build(
        config.backbone.name, config.backbone.weights, config.pixels.image_size
    )
    file = RecordFile(store, model, _key(data, config))
    record = file.read()
    if again and record.published is not None:
        record = SearchRecord()
    run = _Search(blind, config, around, checkpoints, space(config, backbone), file, record)
    if run.record.over is None or run.record.over < seconds:
        run.until_over(budget(seconds - run.record.seconds), seconds)
    best = run.record.best
    # Without a best it is what the first trial was, from whose checkpoint the run goes on.
    return Found(applied(config, best.settings if best else run.given), run.record, file)


class _Search:
    def __init__(
        self,
        data: Dataset,
        config: TrainingConfig,
        around: Surroundings,
        checkpoints: Callable[[str], Checkpoints],
        around_it: Space,
        file: RecordFile,
        record: SearchRecord,
    ) -> None:
        self._data = data
        self._config = config
        self._around = around
        self._checkpoints = checkpoints
        self._file = file
        self._truth = targets(data.val, data)
        self.record = record
        self._distributions = _distributions(around_it)
        self.given = around_it.given
        # Drawn anew after a kill: the same stream would give the same trials again.
        self._study = _study(config.seed + len(self.record.tried))
        for tried in self.record.tried:
            self._study.add_trial(_frozen(tried, self._distributions))
        first = self.record.running or (None if self.record.tried else around_it.given)
        if first is not None:
            self._study.enqueue_trial(first)

    def until_over(self, budget: Budget, seconds: float) -> None:
        """Runs trials while there is time for the quickest of those before. `seconds`: in all."""
        while budget.left > min((one.seconds for one in self._finished()), default=0.0):
            trial = self._study.ask(self._distributions)
            self._write(self.record.begun(trial.params))
            tried = self._tried(trial, budget)
            if tried is None:
                break
            before = self.record.best
            self._write(self.record.ended(tried))
            self._told(trial, tried)
            for loser in (before, tried):
                if loser is not None and not self._is_best(loser.settings):
                    self._forget(loser.settings)
        self._write(self.record.model_copy(update={"running": None, "over": seconds}))

    def _is_best(self, settings: Settings) -> bool:
        best = self.record.best
        return best is not None and best.settings == settings

    def _finished(self) -> list[Tried]:
        return [one for one in self.record.tried if one.outcome == "done"]

    def _tried(self, trial: Trial, budget: Budget) -> Tried | None:
        """Runs one trial to its end; None where the time is over before it."""
        settings: Settings = dict(trial.params)
        watch = _TrialWatch(trial, int(settings["epochs"]))
        around = replace(self._around, stop=Deadline(self._around.stop, budget), watch=watch)
        lane = FullLane(self._data, applied(self._config, settings), around, self._checkpoints)
        _log.info("trial %d: %s", trial.number + 1, _words(settings))
        began = time.perf_counter()

        def over(outcome: Any, **more: Any) -> Tried:
            seconds = time.perf_counter() - began
            return Tried(
                settings=settings, outcome=outcome, reports=watch.reports, seconds=seconds, **more
            )

        try:
            lane.load()
            learned = lane.fit()
        except PreemptedError:
            if self._around.stop.told:
                raise
            _log.info("trial %d: the time is over before its end", trial.number + 1)
            # Without a best its checkpoint is what the run goes on from.
            if self.record.best is not None and not self._is_best(settings):
                self._forget(settings)
            return None
        except optuna.TrialPruned:
            self._study.tell(trial, state=TrialState.PRUNED)
            return over("pruned")
        except (RefusedError, GpuMemoryError) as error:  # diverged, collapsed, or too large
            self._study.tell(trial, state=TrialState.FAIL)
            return over("failed", words=str(error))
        loss = self._calibrated_loss(learned)
        self._study.tell(trial, loss)
        return over("done", score=loss, val_accuracy=score(learned.val_logits, self._truth))

    def _calibrated_loss(self, learned: Learned) -> float:
        """The log loss on val after calibration there: label smoothing makes none worse."""
        task = task_of(self._data, self._config)
        task.calibrate(learned.val_logits.numpy())
        with torch.no_grad():
            chances = task.link(learned.val_logits).double().clamp(_LEAST, 1 - _LEAST)
            if self._truth.ndim == 1:
                return F.nll_loss(chances.log(), self._truth).item()
            return F.binary_cross_entropy(chances, self._truth.double()).item()

    def _told(self, trial: Trial, tried: Tried) -> None:
        score = "" if tried.score is None else f", val log loss {tried.score:.4f}"
        more = f": {tried.words}" if tried.words else ""
        _log.info(
            "trial %d: %s after %.0f s%s%s",
            trial.number + 1, tried.outcome, tried.seconds, score, more,
        )  # fmt: skip

    def _forget(self, settings: Settings) -> None:
        """Removes the checkpoints of a trial that did not win."""
        lane = FullLane(
            self._data, applied(self._config, settings), self._around, self._checkpoints
        )
        lane.load()
        lane.finished()

    def _write(self, record: SearchRecord) -> None:
        self.record = record
        self._file.write(record)


class _TrialWatch(Watch):
    """Reports a trial's val loss at each quarter of its epochs, and ends it where it falls behind.

    At equal shares of the epochs trials of different lengths stand at the same place of their
    schedules; after equally many epochs the shorter one would always look better.
    """

    def __init__(self, trial: Trial, epochs: int) -> None:
        super().__init__()
        self._trial = trial
        self._epochs = epochs
        self.reports: dict[int, float] = {}

    def epoch(self, point: Point) -> None:
        """Raises TrialPruned."""
        super().epoch(point)
        quarter = _QUARTERS * point.epoch // self._epochs
        # A fit that began again, at a lower rate, comes to the same quarters once more.
        if quarter <= max(self.reports, default=0):
            return
        self.reports[quarter] = point.val_loss
        self._trial.report(point.val_loss, quarter)
        if quarter < _QUARTERS and self._trial.should_prune():
            raise optuna.TrialPruned


def _study(seed: int) -> optuna.Study:
    """In memory: what must outlive the process is in the record."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED_TRIALS),
    )


def _distributions(around_it: Space) -> dict[str, BaseDistribution]:
    low, high = around_it.learning_rate
    choices = {name: CategoricalDistribution(c) for name, c in around_it.choices.items()}
    return {"learning_rate": FloatDistribution(low, high, log=True), **choices}


def _frozen(tried: Tried, distributions: dict[str, BaseDistribution]) -> FrozenTrial:
    """A trial of before the kill, as Optuna remembers it."""
    return create_trial(
        state=_STATES[tried.outcome],
        value=tried.score,
        params=dict(tried.settings),
        distributions=distributions,
        intermediate_values=tried.reports,
    )


def _key(data: Dataset, config: TrainingConfig) -> str:
    """Names the search by all that decides it."""
    return run_key(
        {
            "search": 1,
            "snapshot": data.snapshot,
            "config": config.model_dump(
                mode="json", exclude={"export", "gate", "triggers", "card"}
            ),
            "versions": [visionloop.__version__, optuna.__version__],
        }
    )


def _words(settings: Settings) -> str:
    return ", ".join(
        f"{name} {value:.2g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in settings.items()
    )
