"""Builds a published version again from its provenance, and says whether it is the same model.

    the same bits    model.onnx has the digest it had
    the same model   no probability on the golden images, and no metric that is a share, differs by
                     more than the tolerance; so it is on another kind of CPU, on a GPU, or with
                     other versions of the libraries
    another model    anything else

What is rebuilt is the model: features are computed anew, no checkpoint is used or written, and
nothing is published. The 16-bit sibling is not built again: it follows from the weights that are
compared. Encoded images may come from the node's cache, which checks their digests.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch
from pydantic import ValidationError

from visionloop.bundle import ClassifierBundle, GoldenItem, Provenance
from visionloop.disk_space import temporary_folder
from visionloop.errors import NotFoundError, RefusedError
from visionloop.objectstore import ObjectStore
from visionloop.repository import file_entry
from visionloop.snapshot import SnapshotRepository
from visionloop_training import familiarity, parity, publish, software
from visionloop_training.config import TrainingConfig
from visionloop_training.data import Blobs, Dataset, dataset
from visionloop_training.export import Session
from visionloop_training.fast_lane import FastLane
from visionloop_training.lanes import FullLane, Lane, Surroundings
from visionloop_training.machine import Machine
from visionloop_training.metrics import Floats
from visionloop_training.stable import Version, made_with, version
from visionloop_training.stop import Stop
from visionloop_training.tasks import task_of

_SHARES = (
    "accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1", "test_ece",
    "mean_average_precision", "micro_f1", "jaccard", "subset_accuracy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that was compared."""

    name: str
    published: str
    rebuilt: str
    same: bool


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What became of it."""

    model: str
    version: int
    identical: bool  # bit for bit
    max_probability_difference: float  # on the golden images
    golden_images: int
    tolerance: float
    compared: tuple[Difference, ...] = field(default=())
    surroundings: tuple[Difference, ...] = field(default=())  # libraries, threads, CPU

    @property
    def same(self) -> bool:
        """The same bits, or the same model within the tolerance."""
        return self.identical or all(one.same for one in self.compared)

    def as_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return {"same": self.same, **asdict(self)}

    def words(self) -> str:
        """One line where the bits are the same, else a table of what is not."""
        name = f"version {self.version} of {self.model}"
        if self.identical:
            return f"{name} is reproduced bit for bit\n"
        outcome = "reproduced" if self.same else "NOT reproduced"
        head = (
            f"{name} is {outcome} within {self.tolerance:g}, not bit for bit: the largest "
            f"difference of a probability on {self.golden_images} golden images is "
            f"{self.max_probability_difference:.2g}\n"
        )
        rows = [one for one in (*self.compared, *self.surroundings) if one.published != one.rebuilt]
        width = max((len(one.name) for one in rows), default=0)
        lines = [
            f"  {'  ' if one.same else '! '}{one.name:<{width}}  {one.published} → {one.rebuilt}\n"
            for one in rows
        ]
        return head + "".join(lines)


def reproduce(
    store: ObjectStore,
    model: str,
    number: int,
    cache: Path,
    *,
    tolerance: float = 0.01,
    stop: Stop | None = None,
) -> Reproduction:
    """Rebuilds version `number` of `model` and compares.

    Raises NotFoundError where the snapshot, the backbone's file or the parent are gone, and
    RefusedError for a version that no training run made.
    """
    published = version(store, model, number, cache)
    rebuilt = _rebuild(store, published, cache, stop or Stop())
    difference = float(np.abs(rebuilt.expected - rebuilt.found).max())
    bundle = published.bundle
    return Reproduction(
        model=model,
        version=number,
        identical=bundle.files[bundle.graph].sha256 == rebuilt.sha256,
        max_probability_difference=difference,
        golden_images=len(rebuilt.expected),
        tolerance=tolerance,
        compared=tuple(_compared(bundle.metrics, rebuilt.metrics, difference, tolerance)),
        surroundings=tuple(_surroundings(bundle.provenance)),
    )


@dataclass(frozen=True, slots=True)
class _Rebuilt:
    """What is compared of the model that was built again."""

    sha256: str  # of its model.onnx
    metrics: dict[str, float]
    expected: Floats  # (golden images, classes), as published
    found: Floats  # the same, of the rebuilt graph


def _rebuild(store: ObjectStore, published: Version, cache: Path, stop: Stop) -> _Rebuilt:
    """Trains, exports and evaluates as the run did that made the version."""
    made_of = published.bundle.provenance
    config = _config(published.bundle)
    torch.set_num_threads(made_of.threads or config.threads or torch.get_num_threads())
    data = dataset(SnapshotRepository(store).read(made_of.dataset, made_of.snapshot))
    task = task_of(data, config)
    blobs = Blobs(store, cache / "blobs")
    with temporary_folder("visionloop-reproduce-") as folder:
        around = Surroundings(blobs, folder / "cache", stop)
        lane = _lane(store, published, data, config, around, cache)
        lane.load()
        _check_weights(lane, made_of)
        learned = lane.fit()
        task.calibrate(learned.val_logits.numpy())
        path = folder / publish.GRAPH
        module = lane.export(path, task.link, publish.properties(data))
        session, *_ = familiarity.add(
            path, Session(path, torch.get_num_threads()), data, blobs, lane.preprocessing,
            config.not_sure.familiar,
        )  # fmt: skip
        golden = publish.golden_items(data, config.parity.images)
        images = blobs.prepared([item.sha256 for item in golden], lane.preprocessing)
        limit = config.parity.max_probability_difference
        proof = parity.prove(module, session, images, limit)
        task.evaluate(session, blobs, lane.preprocessing)
        expected, found = _golden(published, session)
        return _Rebuilt(file_entry(path).sha256, task.headline(proof), expected, found)


def _check_weights(lane: Lane, made_of: Provenance) -> None:
    """Raises RefusedError where the backbone's weights are others than those of the version."""
    if lane.origin.backbone_sha256 != made_of.backbone_sha256:
        raise RefusedError(
            f"backbone {made_of.backbone} has other weights here: sha256 "
            f"{lane.origin.backbone_sha256}, the version was made from "
            f"{made_of.backbone_sha256}; install those"
        )


def _config(bundle: ClassifierBundle) -> TrainingConfig:
    try:
        return made_with(bundle)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RefusedError(
            f"version {bundle.version} of {bundle.model} was made with a configuration that this "
            f"program does not know ({where}: {first['msg']}); it is of Visionloop "
            f"{bundle.provenance.code_version}, so reproduce it with that"
        ) from error


def _lane(
    store: ObjectStore,
    published: Version,
    data: Dataset,
    config: TrainingConfig,
    around: Surroundings,
    cache: Path,
) -> Lane:
    """The lane that made the version, from what it was made from."""
    made_of = published.bundle.provenance
    if made_of.lane == "full":
        return FullLane(data, config, around)
    if made_of.body_version is None:
        raise RefusedError(
            f"version {published.bundle.version} does not say which version's body it has"
        )
    try:
        body = version(store, published.bundle.model, made_of.body_version, cache)
    except NotFoundError as error:
        raise NotFoundError(
            f"version {published.bundle.version} is a new head on the body of version "
            f"{made_of.body_version}, and that is gone: {error}"
        ) from error
    return FastLane(data, config, around, body)


def _golden(published: Version, session: Session) -> tuple[Floats, Floats]:
    """Golden images: the probabilities that were published, and those of the rebuilt graph."""
    bundle, folder = published.bundle, published.folder
    items = pydantic.TypeAdapter(list[GoldenItem]).validate_json(
        (folder / bundle.golden.file).read_bytes()
    )
    images = [bundle.preprocessing.of_file((folder / item.file).read_bytes())[1] for item in items]
    expected = np.array([item.probabilities for item in items])
    return expected, session.batched(images)["probabilities"]


def _compared(
    published: Mapping[str, float], rebuilt: Mapping[str, float], difference: float, limit: float
) -> Iterator[Difference]:
    same = difference <= limit
    yield Difference("golden probabilities", "0", f"±{difference:.2g}", same)
    for name in _SHARES:
        if name in published and name in rebuilt:
            before, after = published[name], rebuilt[name]
            same = abs(before - after) <= limit
            yield Difference(name, f"{before:.4f}", f"{after:.4f}", same)


def _surroundings(then: Provenance) -> Iterator[Difference]:
    """What may be why; none of it is a verdict."""
    here = Machine.here()
    pairs = {
        "threads": (then.threads, here.threads),
        "processes": (then.processes, here.processes),
        "device": (then.device, here.device),
        "cpu": (then.cpu, here.cpu),
        "visionloop": (then.code_version, software.code_version()),
    }
    for name, (before, after) in pairs.items():
        yield Difference(name, str(before), str(after), before == after)
    now = software.libraries()
    for name in sorted(set(then.libraries) | set(now)):
        before_version = then.libraries.get(name, "(none)")
        after_version = now.get(name, "(none)")
        same = before_version == after_version
        yield Difference(name, before_version, after_version, same)
