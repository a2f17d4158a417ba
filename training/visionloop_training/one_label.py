"""One class an image: the stages of `tasks.Task` for a softmax classifier."""

from typing import Any

import pyarrow as pa

from visionloop.bundle import ClassificationBundle
from visionloop.calibration import Calibration, ConformalSets, Thresholds
from visionloop.preprocessing import Preprocessing
from visionloop_training import gate, publish
from visionloop_training.calibrate import Calibrated, calibrate
from visionloop_training.config import TrainingConfig
from visionloop_training.data import Blobs, Dataset
from visionloop_training.evaluate import Evaluation, Scored, evaluate, score
from visionloop_training.export import Session
from visionloop_training.links import Softmax
from visionloop_training.metrics import Floats
from visionloop_training.parity import Parity
from visionloop_training.report.one_label import answers, parts
from visionloop_training.stable import Version
from visionloop_training.targets import one_class
from visionloop_training.verdict import Beside, Verdict


class OneLabel:
    """The stages, each with what the ones before it found."""

    calibrated: Calibrated
    scored: Scored
    evaluation: Evaluation

    def __init__(self, data: Dataset, config: TrainingConfig) -> None:
        self._data = data
        self._config = config
        self._opponent: gate.Opponent | None = None

    def calibrate(self, val_logits: Floats) -> None:
        """Temperature and the thresholds of "not sure"."""
        labels = one_class(self._data.val)
        self.calibrated = calibrate(val_logits, labels, self._config.not_sure)

    @property
    def link(self) -> Softmax:
        """softmax(logits / temperature)."""
        return Softmax(self.calibrated.temperature)

    def evaluate(self, session: Session, blobs: Blobs, preprocessing: Preprocessing) -> None:
        """On test."""
        self.scored = score(session, blobs, preprocessing, self._data.test)
        self.evaluation = evaluate(self.scored, self._data.class_ids)

    def decide(self, stable: Version | None, blobs: Blobs, beside: Beside) -> Verdict:
        """Paired on who is right."""
        data, config = self._data, self._config.gate
        self._opponent = stable.opponent(data.test, blobs) if stable else None
        return gate.decide(
            self.scored,
            self.evaluation,
            data.class_ids,
            data.learned_groups,
            self._opponent,
            config,
            beside,
        )

    def headline(self, parity: Parity) -> dict[str, float]:
        """The numbers that lists and the alias history show."""
        found = self.evaluation
        return {
            **found.accuracy.as_metrics("accuracy"),
            "balanced_accuracy": found.balanced_accuracy.value,
            **publish.averages(found),
            **publish.counts(parity, self._data),
        }

    def report(self, verdict: Verdict, distance: float | None) -> dict[str, Any]:
        """Its parts of report.json."""
        return parts(
            self.calibrated,
            distance,
            self.scored,
            self.evaluation,
            self._opponent,
            verdict,
            self._data.class_ids,
        )

    def answers(self) -> "pa.Table":
        """predictions.parquet."""
        return answers(self.scored, self._data.class_ids)

    def bundle(self, fields: dict[str, Any], distance: float | None) -> ClassificationBundle:
        """bundle.json."""
        return ClassificationBundle(
            **fields,
            calibration=Calibration(
                temperature=self.calibrated.temperature,
                ece_before=self.calibrated.ece_before,
                ece_after=self.calibrated.ece_after,
            ),
            thresholds=self._thresholds(distance),
        )

    def _thresholds(self, distance: float | None) -> Thresholds:
        """When an answer of the model is "not sure"."""
        found, sets = self.calibrated, self.calibrated.sets
        return Thresholds(
            not_sure=found.not_sure,
            distance=distance,
            conformal=None
            if sets is None
            else ConformalSets(score=sets.score, coverage=sets.coverage, quantile=sets.quantile),
        )
