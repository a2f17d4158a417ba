"""How the stable version does on new images: how often is it wrong, do they look different?

New are images of which it met neither the bytes nor a near-duplicate, not even in its test split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from visionloop.bundle import MultiLabelBundle
from visionloop.preprocessing import Preprocessing
from visionloop.snapshot import Snapshot
from visionloop_training.data import Blobs, Dataset, Item
from visionloop_training.drift import SKETCH, EmbeddingDrift, Sketch, embedding_drift
from visionloop_training.export import Session
from visionloop_training.stable import Version
from visionloop_training.targets import multi_hot

_SKETCHED, _ENOUGH = 512, 64  # images of a sketch: at most, and from how many on val and test do


def new_items(data: Dataset, stable: Version) -> list[Item]:
    """The new ones among a dataset's items. `stable.snapshot` must be there."""
    rows = stable.snapshot.rows if stable.snapshot else []
    known = {name for row in rows for name in (row.sha256, row.group_id)}
    everything = (*data.train, *data.val, *data.test)
    return [item for item in everything if known.isdisjoint((item.sha256, item.group))]


@dataclass(frozen=True, slots=True)
class Errors:
    """How often the stable version is wrong on new images of its own classes."""

    wrong: int
    images: int
    promised: float  # share of errors that its test split left possible (95 %)
    p_value: float  # of as many errors or more, if the promise held: exact binomial test

    @property
    def share(self) -> float:
        """Of the images."""
        return self.wrong / self.images


@dataclass(frozen=True, slots=True)
class NewImages:
    """New images, and what the stable version answers to them."""

    items: tuple[Item, ...]
    stable: Version
    probabilities: NDArray[np.float32]  # (n, its classes)
    embeddings: NDArray[np.float32] | None  # (n, width)

    def errors(self, class_ids: Sequence[str]) -> Errors | None:
        """None where it promised no accuracy. `class_ids` are those of the items' labels.

        An image of several classes is wrong where one of them is.
        """
        bundle = self.stable.bundle
        several = isinstance(bundle, MultiLabelBundle)
        best = bundle.metrics.get("subset_accuracy_low" if several else "accuracy_low")
        if best is None:
            return None
        right = (
            self._sets_right(class_ids, bundle.thresholds.present)
            if isinstance(bundle, MultiLabelBundle)
            else self._right(class_ids)
        )
        n = len(right)
        if n == 0:
            return None
        wrong = n - sum(right)
        p_value = float(bdtrc(wrong - 1, n, 1.0 - best))  # of `wrong` or more
        return Errors(wrong, n, 1.0 - best, p_value)

    def _right(self, class_ids: Sequence[str]) -> list[bool]:
        """Of the images of classes that it knows."""
        answers = [self.stable.class_ids[place] for place in self.probabilities.argmax(axis=1)]
        labels = [class_ids[item.label] for item in self.items]
        pairs = zip(answers, labels, strict=True)
        return [answer == label for answer, label in pairs if label in self.stable.class_ids]

    def _sets_right(self, class_ids: Sequence[str], present: Sequence[float]) -> list[bool]:
        """Of all images, in the classes that it knows."""
        shared = [name for name in class_ids if name in self.stable.class_ids]
        truth = multi_hot(self.items, len(class_ids))[:, [class_ids.index(n) for n in shared]]
        answers = self.probabilities >= np.array(present, np.float32)
        theirs = answers[:, [self.stable.class_ids.index(name) for name in shared]]
        return [bool(same) for same in (truth == theirs).all(axis=1)] if shared else []

    def drift(self, blobs: Blobs) -> EmbeddingDrift | None:
        """None where the stable version gives no embeddings."""
        if self.embeddings is None:
            return None
        return embedding_drift(_sketch(self.stable, blobs), self.embeddings)


def ask_stable(shown: Sequence[Item], stable: Version, blobs: Blobs) -> NewImages:
    """Runs the stable version's graph on the images, once."""
    probabilities = stable.output("probabilities")
    embedding = stable.bundle.output("embedding")
    names = [probabilities, *([embedding.name] if embedding else [])]
    found = stable.outputs(shown, blobs, names)
    return NewImages(
        tuple(shown), stable, found[probabilities], found[embedding.name] if embedding else None
    )


def write_sketch(
    folder: Path, data: Dataset, session: Session, preprocessing: Preprocessing, blobs: Blobs
) -> None:
    """Puts the sketch of a new version's embeddings into its bundle."""
    held_out = sorted(item.sha256 for item in (*data.val, *data.test))
    if len(held_out) < _ENOUGH:
        held_out += sorted(item.sha256 for item in data.train)
    _sketched(held_out, session, "embedding", preprocessing, blobs).save(folder / SKETCH)


def _sketch(stable: Version, blobs: Blobs) -> Sketch:
    """From the bundle; of a version without, from its graph and its own snapshot."""
    if SKETCH in stable.bundle.files:
        return Sketch.load(stable.folder / SKETCH)
    shas = _held_out(stable.snapshot) if stable.snapshot else []
    return _sketched(
        shas, stable.session, stable.output("embedding"), stable.bundle.preprocessing, blobs
    )


def _held_out(snapshot: Snapshot) -> list[str]:
    held_out = sorted(row.sha256 for row in snapshot.rows if row.split != "train")
    if len(held_out) < _ENOUGH:
        held_out += sorted(row.sha256 for row in snapshot.rows if row.split == "train")
    return held_out


def _sketched(
    shas: Sequence[str], session: Session, output: str, preprocessing: Preprocessing, blobs: Blobs
) -> Sketch:
    batches = blobs.batches(shas[:_SKETCHED], preprocessing)
    return Sketch.of(np.concatenate([session(images)[output] for images in batches]))
