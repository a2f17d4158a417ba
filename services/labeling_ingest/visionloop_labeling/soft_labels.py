"""Soft labels: how probable each class of an image is, where it has one and people are not sure.

A table may say it, or the votes of several people. The image still counts as one class, the
likeliest unless another is named; that is what models are measured by, since a test that nobody is
sure of measures nothing. What is learned from is all of it.
"""

from collections.abc import Callable, Mapping
from typing import Final

from visionloop.errors import InvalidInputError

_DECIMALS: Final = 6
_OFF: Final = 0.02  # what probabilities, rounded as people round, may lack of 1 or have more


def shared_out(given: Mapping[str, float], task: str) -> dict[str, float]:
    """Probabilities that add up to 1, by class in order; none of 0. Raises InvalidInputError."""
    if not given:
        return {}
    if task != "classification":
        raise InvalidInputError(
            f"the label says how probable each class is, and this dataset's task is {task}; soft "
            "labels are of one class an image (classification)",
            field="annotation.probabilities",
        )
    total = sum(given.values())
    if abs(total - 1.0) > _OFF:
        raise InvalidInputError(
            f"the probabilities of {len(given)} classes add up to {total:g}; they must add up to 1",
            field="annotation.probabilities",
        )
    if abs(total - 1.0) < len(given) * 10.0**-_DECIMALS:  # as it is stored
        total = 1.0
    shares = {name: round(share / total, _DECIMALS) for name, share in sorted(given.items())}
    return {name: share for name, share in shares.items() if share > 0.0}


def likeliest(probabilities: Mapping[str, float]) -> tuple[str, ...] | None:
    """The class that an image with this soft label counts as. Raises InvalidInputError."""
    if not probabilities:
        return None
    most = max(probabilities.values())
    found = [name for name, share in probabilities.items() if share == most]
    if len(found) > 1:
        raise InvalidInputError(
            f"the probabilities of {len(found)} classes are the highest alike ({most:g}); name the "
            "class, too, that the image counts as",
            field="annotation.classes",
        )
    return (found[0],)


def renamed(probabilities: Mapping[str, float], key_of: Callable[[str], str]) -> dict[str, float]:
    """By other names for the classes; those of two that have one name now are added up."""
    found: dict[str, float] = {}
    for name, share in probabilities.items():
        key = key_of(name)
        found[key] = min(1.0, round(found.get(key, 0.0) + share, _DECIMALS))
    return dict(sorted(found.items()))
