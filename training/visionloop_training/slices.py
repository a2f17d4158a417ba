"""Accuracy by attribute value (camera, module type, site), and which gaps are more than chance.

Each value with enough images is compared with the other values of its attribute. All these tests
are one family: Holm's correction keeps the chance of a single false alarm at 5 %, however many
attributes there are. An attribute of two values is one question, so it is one test.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from visionloop_training import significance
from visionloop_training.intervals import Interval, grouped_share
from visionloop_training.metrics import Flags, Integers

SMALLEST = 10  # images; fewer would only mislead

Attributes = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """The images of one attribute value."""

    accuracy: Interval
    gap: float | None = None  # less the accuracy of the attribute's other values; None: no others
    p_value: float | None = None  # of the gap, two-sided
    adjusted_p_value: float | None = None  # by Holm, for all gaps of the report


@dataclass(frozen=True, slots=True)
class Place:
    """Which images have one attribute value."""

    attribute: str
    value: str
    inside: Integers  # places in the list of images
    rest: Integers  # of the images that have another value of the attribute


def places(attributes: Sequence[Attributes]) -> Iterator[Place]:
    """All values with `SMALLEST` images or more, in order."""
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, pairs in enumerate(attributes):
        for name, value in pairs:
            found[name][value].append(place)
    for name, values in sorted(found.items()):
        everywhere = np.unique(np.concatenate([np.array(v) for v in values.values()]))
        for value, members in sorted(values.items()):
            if len(members) >= SMALLEST:
                inside = np.array(members)
                yield Place(name, value, inside, np.setdiff1d(everywhere, inside))


def by_slice(
    right: Flags, groups: Integers, attributes: Sequence[Attributes]
) -> dict[str, dict[str, Slice]]:
    """Attribute -> value -> accuracy and gap, for images (n,) that were answered `right`."""
    slices: dict[tuple[str, str], Slice] = {}
    tests: dict[tuple[str, frozenset[bytes]], float] = {}
    asked: dict[tuple[str, str], tuple[str, frozenset[bytes]]] = {}
    for place in places(attributes):
        inside, rest = place.inside, place.rest
        key = place.attribute, place.value
        accuracy = grouped_share(right[inside], groups[inside])
        slices[key] = Slice(accuracy)
        if not len(rest):
            continue
        # The same split into two sets from either side is the same question.
        question = place.attribute, frozenset((inside.tobytes(), rest.tobytes()))
        if question not in tests:
            tests[question] = significance.gap(
                right[inside], right[rest], (groups[inside], groups[rest])
            )
        asked[key] = question
        gap = accuracy.value - float(right[rest].mean())
        slices[key] = Slice(accuracy, gap, tests[question])
    adjusted = dict(zip(tests, significance.holm(list(tests.values())).tolist(), strict=True))
    found: dict[str, dict[str, Slice]] = {}
    for (name, value), measured in slices.items():
        question_asked = asked.get((name, value))
        if question_asked is not None:
            measured = replace(measured, adjusted_p_value=adjusted[question_asked])
        found.setdefault(name, {})[value] = measured
    return found
