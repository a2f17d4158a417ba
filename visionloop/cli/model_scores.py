"""The one number that lists show of a version: what its gate compares, on its own test images."""

from collections.abc import Mapping
from typing import Final

# By task: of one class an image the share that is right, of several classes the mean Jaccard index.
JUDGED_BY: Final = ("accuracy", "jaccard")


def score(metrics: Mapping[str, float]) -> tuple[str | None, float | None]:
    """(name, value) among the metrics of a bundle or of an alias move; both None where none is."""
    name = next((name for name in JUDGED_BY if name in metrics), None)
    return name, None if name is None else metrics[name]
