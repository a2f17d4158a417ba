"""The gauges that describe the models in the store: newest and stable version, scores, verdicts.

A training job's pod is gone when somebody asks how its run ended; the store knows. Versions never
change, so each is read once; a look at a model costs one listing, one question for each version
and one read of its aliases. How long its labels took is looked up once for each stable version.
"""

import json
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from visionloop.bundle import Bundle, ClassifierBundle
from visionloop.errors import CorruptError, NotFoundError
from visionloop.objectstore import ObjectStore
from visionloop.repository import ModelRepository
from visionloop.telemetry import labeling as metrics
from visionloop_labeling.database import Database
from visionloop_labeling.learned_labels import LearnedLabels, TrainedOn

LOOKED_AT: Final = 20  # newest versions whose verdicts are counted
_VERDICT: Final = "report/gate.json"  # training's; it holds `passed`
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Version:
    """What is told of one version; never changes."""

    created: float  # seconds since 1970
    scores: dict[str, float]
    refused: bool  # by the gate
    trained_on: TrainedOn | None


@dataclass(frozen=True, slots=True)
class _Stable:
    """The version that stable means, as of a sequence of the aliases."""

    sequence: int
    version: int
    moved: datetime  # last
    first: datetime  # when stable first meant this version: it may have been rolled back to


class ModelGauges:
    """`measure` blocks; used by one thread at a time."""

    def __init__(self, database: Database, store: ObjectStore) -> None:
        self._repository = ModelRepository(store)
        self._labels = LearnedLabels(database, store)
        self._known: dict[tuple[str, int], _Version | None] = {}
        self._stable: dict[str, _Stable] = {}  # by model
        self._learned: dict[tuple[str, int], datetime | None] = {}  # when its labels were given

    def measure(self) -> bool:
        """Brings the gauges up to date. False: no work is left."""
        for model in self._repository.models():
            self._published(model)
            self._promoted(model)
        return False

    def _published(self, model: str) -> None:
        numbers = self._repository.versions(model)[-LOOKED_AT:]
        if not numbers:
            return
        versions = [self._version(model, number) for number in numbers]
        newest = versions[-1]
        metrics.PUBLISHED_VERSION.labels(model).set(numbers[-1])
        refused = 0
        while refused < len(versions) and _refused(versions[-1 - refused]):
            refused += 1
        metrics.REFUSED_IN_A_ROW.labels(model).set(refused)
        if newest is not None:
            metrics.PUBLISHED_TIMESTAMP.labels(model).set(newest.created)
            _tell_scores(model, "newest", newest)

    def _promoted(self, model: str) -> None:
        found = self._repository.aliases(model).aliases
        metrics.PROMOTED_VERSION.labels(model).set(found.stable or 0)
        if found.stable is None:
            return
        known = self._stable.get(model)
        if known is None or known.sequence != found.sequence:
            moves = [move for move in self._repository.history(model) if move.alias == "stable"]
            times = [move.at for move in moves if move.version == found.stable]
            known = _Stable(found.sequence, found.stable, moved=moves[-1].at, first=times[0])
            self._stable[model] = known
        metrics.PROMOTED_TIMESTAMP.labels(model).set(known.moved.timestamp())
        if (stable := self._version(model, found.stable)) is not None:
            _tell_scores(model, "stable", stable)
        self._label_to_serving(model, known)

    def _label_to_serving(self, model: str, stable: _Stable) -> None:
        key = (model, stable.version)
        if key not in self._learned:
            version = self._version(*key)
            trained_on = None if version is None else version.trained_on
            self._learned[key] = None if trained_on is None else self._labels.middle(trained_on)
        learned = self._learned[key]
        if learned is None:
            metrics.LABEL_TO_SERVING_SECONDS.withdraw(model)
        else:
            seconds = (stable.first - learned).total_seconds()
            metrics.LABEL_TO_SERVING_SECONDS.labels(model).set(max(0.0, seconds))

    def _version(self, model: str, number: int) -> _Version | None:
        """None where the version is damaged, which is logged once."""
        key = (model, number)
        if key not in self._known:
            try:
                self._known[key] = self._read(model, number)
            except (CorruptError, NotFoundError, ValueError) as error:
                _log.warning("a version cannot be described: %s", error)
                self._known[key] = None
        return self._known[key]

    def _read(self, model: str, number: int) -> _Version:
        bundle = self._repository.read(model, number)
        return _Version(
            created=bundle.created.timestamp(),
            scores=bundle.metrics if isinstance(bundle, ClassifierBundle) else {},
            refused=self._refused(bundle),
            trained_on=TrainedOn.of(bundle),
        )

    def _refused(self, bundle: Bundle) -> bool:
        """Whether the gate said no. What was not made by training has no verdict."""
        if _VERDICT not in bundle.files:
            return False
        verdict = json.loads(self._repository.file(bundle, _VERDICT))
        return isinstance(verdict, dict) and verdict.get("passed") is False


def _refused(version: _Version | None) -> bool:
    return version is not None and version.refused


def _tell_scores(model: str, alias: str, version: _Version) -> None:
    for name, value in version.scores.items():
        metrics.VERSION_METRIC.labels(model, alias, name).set(value)
