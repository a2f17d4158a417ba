"""A trained model before it is published: its report and its bundle are written from it."""

from dataclasses import dataclass
from pathlib import Path

from visionloop_training.config import TrainingConfig
from visionloop_training.data import Dataset, Item
from visionloop_training.export import Session
from visionloop_training.half_precision import HalfPrecision
from visionloop_training.lanes import Lane, Learned
from visionloop_training.machine import Machine
from visionloop_training.parity import Parity
from visionloop_training.search.record import SearchRecord


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trained model whose file is proven to answer as the network does."""

    data: Dataset
    config: TrainingConfig
    machine: Machine  # that it was made on
    lane: Lane
    learned: Learned
    searched: SearchRecord | None  # how its settings were found
    folder: Path  # of its files
    session: Session  # on its model.onnx
    distance: float | None  # from which on an image is unfamiliar
    golden: list[Item]
    parity: Parity
    half: HalfPrecision | None  # of the 16-bit sibling; None: none was wanted


@dataclass(frozen=True, slots=True)
class Claim:
    """The version number that a run has reserved in the repository."""

    model: str
    version: int
    run_id: str
    parent_version: int | None  # the stable version that the candidate was compared with
