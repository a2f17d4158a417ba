"""The stages of a run that differ by what a label is: one class an image, or any number of classes.

The order of a run is `pipeline`'s; a task holds what these stages found, so that each can use what
the ones before it gave.
"""

from typing import Any, Protocol

import pyarrow as pa

from visionloop.bundle import ClassifierBundle
from visionloop.errors import ConfigurationError, RefusedError
from visionloop.preprocessing import Preprocessing
from visionloop_training.config import TrainingConfig
from visionloop_training.data import Blobs, Dataset
from visionloop_training.export import Session
from visionloop_training.links import Link
from visionloop_training.metrics import Floats
from visionloop_training.multi_label.task import MultiLabel
from visionloop_training.one_label import OneLabel
from visionloop_training.parity import Parity
from visionloop_training.stable import Version
from visionloop_training.verdict import Beside, Verdict


class Task(Protocol):
    """These stages, in order."""

    def calibrate(self, val_logits: Floats) -> None:
        """Fits calibration and thresholds on val: logits (val images, classes)."""

    @property
    def link(self) -> Link:
        """From logits to calibrated probabilities, for the graph."""

    def evaluate(self, session: Session, blobs: Blobs, preprocessing: Preprocessing) -> None:
        """Scores the exported graph on test."""

    def decide(self, stable: Version | None, blobs: Blobs, beside: Beside) -> Verdict:
        """The gate's verdict against the stable version."""

    def headline(self, parity: Parity) -> dict[str, float]:
        """The numbers that lists and the alias history show."""

    def report(self, verdict: Verdict, distance: float | None) -> dict[str, Any]:
        """The task's parts of report.json; `distance` as `familiarity.add` found it."""

    def answers(self) -> "pa.Table":
        """What report/predictions.parquet holds."""

    def bundle(self, fields: dict[str, Any], distance: float | None) -> ClassifierBundle:
        """bundle.json, from `publish.bundle_fields`."""


def task_of(data: Dataset, config: TrainingConfig) -> Task:
    """The dataset's task. Raises ConfigurationError for settings that it cannot follow."""
    if data.task == "classification":
        return OneLabel(data, config)
    if config.fit.sampler == "balanced":
        raise ConfigurationError(
            "fit.sampler=balanced draws each class equally often, and an image of several classes "
            "cannot be drawn for one of them alone; use fit.class_weights=balanced",
            field="fit.sampler",
        )
    return MultiLabel(data, config)


def check_same_task(data: Dataset, stable: Version | None) -> None:
    """Raises RefusedError where the stable version answers another kind of question."""
    if stable is not None and stable.bundle.task != data.task:
        raise RefusedError(
            f"stable version {stable.bundle.version} of {stable.bundle.model} is of the task "
            f"{stable.bundle.task!r} and dataset {data.name} of {data.task!r}, so no candidate can "
            "be compared with it; train under another --model name"
        )
