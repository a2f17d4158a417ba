"""Do probabilities mean what they say? The expected calibration error, and the bins behind it.

Added up class by class: of 100,000 images and 1,000 classes an array of bins alone is 800 MB.
"""

import numpy as np

from visionloop_training import metrics
from visionloop_training.metrics import Flags, Floats, ReliabilityBin


class Reliability:
    """How well probabilities agree with shares, added up class by class."""

    def __init__(self) -> None:
        self.errors: list[float] = []  # see `add`
        self._images, self._chances, self._hits = np.zeros((3, metrics.ECE_BINS))

    @classmethod
    def of(cls, probabilities: Floats, truth: Flags) -> "Reliability":
        """Of (n, classes)."""
        found = cls()
        for chances, having in zip(probabilities.T, truth.T, strict=True):
            found.add(chances.astype(np.float64), having)
        return found

    def add(self, chances: Floats, having: Flags) -> None:
        """One class's probabilities and truth (n,). Its expected calibration error is the mean
        |probability - share that has the class|, over 15 equal-width bins, weighted by images."""
        places = metrics.bin_of(chances)
        counted, summed, hits = (
            np.bincount(places, weights, metrics.ECE_BINS) for weights in (None, chances, having)
        )
        self.errors.append(float(np.abs(hits - summed).sum()) / len(having))
        self._images += counted
        self._chances += summed
        self._hits += hits

    @property
    def bins(self) -> list[ReliabilityBin]:
        """The non-empty bins of all classes together; "images" counts image and class."""
        return [
            ReliabilityBin(
                low=place / metrics.ECE_BINS,
                high=(place + 1) / metrics.ECE_BINS,
                images=int(images),
                confidence=float(self._chances[place] / images),
                accuracy=float(self._hits[place] / images),
            )
            for place, images in enumerate(self._images)
            if images
        ]
