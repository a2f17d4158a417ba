"""What a run has made, before any of it is published: what report and bundle are written from."""

from dataclasses import dataclass
from pathlib import Path

from visionloop_training.config import TrainingConfig
from visionloop_training.data import Dataset, Item
from visionloop_training.export import Session
from visionloop_training.half_precision import HalfPrecision
from visionloop_training.lanes import Lane, Learned
from visionloop_training.made import Made
from visionloop_training.parity import Parity
from visionloop_training.search.record import SearchRecord


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trained model whose file is proven to answer as the network does."""

    data: Dataset
    config: TrainingConfig
    made: Made
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
    """The place in the repository that is a run's own."""

    model: str
    version: int
    run_id: str
    parent_version: int | None  # the stable version that the candidate was compared with
