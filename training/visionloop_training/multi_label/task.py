"""Any number of classes an image: the stages of `tasks.Task` for a sigmoid of each class."""

from typing import Any

import pyarrow as pa

from visionloop.bundle import MultiLabelBundle
from visionloop.calibration import LabelCalibration, LabelThresholds
from visionloop.errors import RefusedError
from visionloop.preprocessing import Preprocessing
from visionloop_training import publish
from visionloop_training.config import TrainingConfig
from visionloop_training.data import Blobs, Dataset
from visionloop_training.evaluate import score
from visionloop_training.export import Session
from visionloop_training.links import Sigmoids
from visionloop_training.metrics import Floats
from visionloop_training.multi_label import gate
from visionloop_training.multi_label.calibrate import Calibrated, calibrate
from visionloop_training.multi_label.evaluate import LabelEvaluation, ScoredLabels, evaluate
from visionloop_training.parity import Parity
from visionloop_training.report.multi_label import answers, parts
from visionloop_training.stable import Version
from visionloop_training.targets import multi_hot
from visionloop_training.verdict import Beside, Verdict


class MultiLabel:
    """The stages, each with what the ones before it found."""

    calibrated: Calibrated
    scored: ScoredLabels
    evaluation: LabelEvaluation

    def __init__(self, data: Dataset, config: TrainingConfig) -> None:
        self._data = data
        self._config = config
        self._theirs: tuple[Version, ScoredLabels] | None = None
        self._distances: Floats | None = None

    def calibrate(self, val_logits: Floats) -> None:
        """Temperature, bias and threshold of each class."""
        truth = multi_hot(self._data.val, len(self._data.class_ids))
        self.calibrated = calibrate(val_logits, truth, self._config.labels)

    @property
    def link(self) -> Sigmoids:
        """sigmoid(logits / temperatures + biases)."""
        return Sigmoids(self.calibrated.temperatures, self.calibrated.biases)

    def evaluate(self, session: Session, blobs: Blobs, preprocessing: Preprocessing) -> None:
        """On test."""
        found = score(session, blobs, preprocessing, self._data.test)
        self._distances = found.distances
        self.scored = ScoredLabels.of(found, self.calibrated.present)
        self.evaluation = evaluate(self.scored, self._data.class_ids)

    def decide(self, stable: Version | None, blobs: Blobs, beside: Beside) -> Verdict:
        """Paired on each image's Jaccard index."""
        opponent = self._opponent(stable, blobs) if stable else None
        data, config = self._data, self._config.gate
        return gate.decide(
            self.scored,
            self.evaluation,
            data.class_ids,
            data.learned_groups,
            opponent,
            config,
            beside,
        )

    def _opponent(self, stable: Version, blobs: Blobs) -> gate.Opponent:
        """The stable version's answers; kept for the report."""
        if not isinstance(stable.bundle, MultiLabelBundle):
            raise RefusedError(f"stable is of the task {stable.bundle.task!r}")
        answers = stable.answers(self._data.test, blobs)
        theirs = ScoredLabels.of(answers, stable.bundle.thresholds.present)
        self._theirs = stable, theirs
        return gate.Opponent(
            version=stable.bundle.version,
            answers=theirs.answers,
            class_ids=stable.class_ids,
            seen=stable.seen,
            tested=stable.tested,
            traced=stable.traced,
        )

    def headline(self, parity: Parity) -> dict[str, float]:
        """The numbers that lists and the alias history show."""
        found = self.evaluation
        ranked = found.mean_average_precision
        return {
            **(ranked.as_metrics("mean_average_precision") if ranked else {}),
            **publish.averages(found),
            "micro_f1": found.micro_f1.value,
            "jaccard": found.jaccard.value,
            **found.subset_accuracy.as_metrics("subset_accuracy"),
            **publish.counts(parity, self._data),
        }

    def report(self, verdict: Verdict, distance: float | None) -> dict[str, Any]:
        """Its parts of report.json."""
        data = self._data
        theirs = None
        if self._theirs is not None:
            stable, answers = self._theirs
            theirs = (stable.bundle.version, stable.class_ids, answers)
        far = 0.0
        if distance is not None and self._distances is not None:
            far = float((self._distances > distance).mean())
        return {
            **parts(self.calibrated, self.scored, self.evaluation, theirs, verdict, data.class_ids),
            "not_sure": {"distance": distance, "unfamiliar": far},
        }

    def answers(self) -> "pa.Table":
        """predictions.parquet."""
        return answers(self.scored, self._data.class_ids)

    def bundle(self, fields: dict[str, Any], distance: float | None) -> MultiLabelBundle:
        """bundle.json."""
        found = self.calibrated
        return MultiLabelBundle(
            **fields,
            calibration=LabelCalibration(
                temperatures=found.temperatures,
                biases=found.biases,
                ece_before=found.ece_before,
                ece_after=found.ece_after,
            ),
            thresholds=LabelThresholds(
                method=self._config.labels.threshold, present=found.present, distance=distance
            ),
        )
