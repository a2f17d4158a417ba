"""Is what comes in now still what the model was made from? Two comparisons of distributions.

Labels: a chi-squared test says whether the shares of the classes differ at all, and the population
stability index (PSI, the symmetric Kullback-Leibler divergence over the classes) how much; below
0.1 nothing happened, above 0.2 the mix is another one (the customary reading). Both must say so,
because with many labels any difference is significant, and with few any is large.

Images: embeddings are reduced to the principal directions of a reference, and the means compared by
Hotelling's T². The distance is in standard deviations (Mahalanobis) with the part that chance alone
makes taken off: k · (1/n + 1/m) for k directions. The reference is of val and test, which no
gradient saw: a network holds the images it was fitted to closer together than any others, and a
reference of those would find drift always.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save
from scipy.special import chdtrc, fdtrc

from visionloop.errors import CorruptError
from visionloop_training.significance import holm

DIRECTIONS = 16
SKETCH = "sketch/embedding.safetensors"
_SMOOTHING = 0.5  # of counts, so that a class without images has a logarithm (Krichevsky-Trofimov)
Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class LabelDrift:
    """How the classes of new images differ from the reference's."""

    psi: float
    p_value: float
    images: int


def label_drift(before: Mapping[str, int], now: Mapping[str, int]) -> LabelDrift:
    """Compares two independent counts of images by class; classes that came later do not count."""
    names = sorted(before)
    a = np.array([before[name] for name in names], dtype=float)
    b = np.array([now.get(name, 0) for name in names], dtype=float)
    if len(names) < 2 or a.sum() == 0 or b.sum() == 0:
        return LabelDrift(0.0, 1.0, int(b.sum()))
    p, q = ((n + _SMOOTHING) / (n + _SMOOTHING).sum() for n in (a, b))
    psi = float(((q - p) * np.log(q / p)).sum())
    table = np.stack([a, b])[:, (a + b) > 0]
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    degrees = table.shape[1] - 1  # none where all images are of one kind, then and now
    p_value = float(chdtrc(degrees, statistic)) if degrees else 1.0
    return LabelDrift(psi, p_value, int(b.sum()))


def presence_drift(
    before: Mapping[str, int], images_before: int, now: Mapping[str, int], images: int
) -> dict[str, LabelDrift]:
    """Where an image may have several classes: for each class the shares of images with and without
    it; p-values are Holm's over the classes."""
    found = {
        name: label_drift(
            {"with": count, "without": images_before - count},
            {"with": now.get(name, 0), "without": images - now.get(name, 0)},
        )
        for name, count in sorted(before.items())
    }
    if not found:
        return {}
    adjusted = holm([drift.p_value for drift in found.values()]).tolist()
    return {
        name: replace(drift, p_value=p_value)
        for (name, drift), p_value in zip(found.items(), adjusted, strict=True)
    }


@dataclass(frozen=True, slots=True)
class Sketch:
    """A sample of embeddings, as what is needed to tell whether others lie elsewhere."""

    mean: Floats  # (width,)
    directions: Floats  # (k, width), orthonormal, those of the largest variance
    variances: Floats  # (k,) along them
    images: int

    @classmethod
    def of(cls, embeddings: Floats) -> "Sketch":
        """From (n, width) embeddings; fewer directions for few images."""
        mean = embeddings.mean(axis=0)
        _, scales, directions = np.linalg.svd(
            embeddings.astype(np.float64) - mean, full_matrices=False
        )
        n = len(embeddings)
        variances = scales**2 / max(1, n - 1)
        # Directions that hardly anything varies along would make every rounding a drift.
        kept = int((variances > 1e-6 * max(variances[0], 1e-12)).sum()) if n > 1 else 0
        kept = min(kept, DIRECTIONS, n // 8)
        return cls(mean, directions[:kept], variances[:kept], n)

    def save(self, path: Path) -> None:
        """As safetensors: about 4 · k · width bytes, 80 kB for 16 directions of 1,280."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: getattr(self, name) for name in ("mean", "directions", "variances")}
        plain = {name: np.ascontiguousarray(t, np.float32) for name, t in tensors.items()}
        path.write_bytes(save({**plain, "images": np.array([self.images], np.int64)}))

    @classmethod
    def load(cls, path: Path) -> "Sketch":
        """Raises CorruptError for what is no sketch."""
        try:
            read = load_file(path)
            return cls(read["mean"], read["directions"], read["variances"], int(read["images"][0]))
        except Exception as error:  # safetensors' errors have no common base
            raise CorruptError(f"{path} is no sketch of embeddings: {error}") from error


@dataclass(frozen=True, slots=True)
class EmbeddingDrift:
    """How far the mean of new embeddings lies from the reference's."""

    distance: float  # standard deviations; chance taken off
    p_value: float
    images: int


def embedding_drift(reference: Sketch, embeddings: Floats) -> EmbeddingDrift:
    """Compares (n, width) embeddings with the reference; too few of either tell nothing."""
    n, m, k = len(embeddings), reference.images, len(reference.directions)
    if n < 2 or k == 0 or m <= k + 1:
        return EmbeddingDrift(0.0, 1.0, n)
    moved = reference.directions @ (embeddings.mean(axis=0) - reference.mean)
    squared = float((moved**2 / reference.variances).sum())
    t_squared = squared * n * m / (n + m)
    p_value = float(fdtrc(k, m - k, t_squared * (m - k) / (k * (m - 1))))
    chance = k * (1 / n + 1 / m)
    return EmbeddingDrift(float(np.sqrt(max(0.0, squared - chance))), p_value, n)
