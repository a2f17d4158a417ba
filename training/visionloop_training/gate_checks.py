"""The gate's checks of answers, one function each: what is compared, when and how it refuses.

What it asks of a candidate by itself is in `gate_limits`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from visionloop_training import sample_size
from visionloop_training import slices as attribute_slices
from visionloop_training.config import GateConfig
from visionloop_training.evaluate import Evaluation, Scored
from visionloop_training.metrics import Flags, Integers
from visionloop_training.significance import (
    Pairs,
    holm,
    lower_bound,
    mcnemar_worse,
    non_inferiority,
    pairs,
)

FIRST = "beats-majority-class"


@dataclass(frozen=True, slots=True)
class Check:
    """One question of the gate and its answer."""

    name: str
    passed: bool
    words: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Compared:
    """The images that both models answer, and who is right on them: (n,) each."""

    scored: Scored
    candidate: Flags
    stable: Flags

    def table(self, keep: Flags) -> Pairs:
        """The paired outcomes on some of them."""
        return pairs(self.candidate[keep], self.stable[keep], self.scored.groups[keep])

    def digests(self, keep: Flags) -> list[str]:
        """The names of some of them."""
        items = zip(self.scored.items, keep, strict=True)
        return [item.sha256 for item, wanted in items if wanted]


def paired(table: Pairs, config: GateConfig, alpha: float) -> tuple[Check, float, float]:
    """The policy's test on all comparable images: (check, p-value, bound of the difference)."""
    b, c, n = table.effective
    bound = float(lower_bound(b, c, n, alpha))
    if config.policy == "not-significantly-worse":
        p_value = float(mcnemar_worse(b, c))
        passed = p_value >= alpha
        sign = "≥" if passed else "<"
        word = "not significantly worse" if passed else "significantly worse"
        verdict = f"{word} (exact McNemar p = {p_value:.3g} {sign} {alpha:.3g})"
    else:
        p_value = float(non_inferiority(b, c, n, config.margin))
        passed = p_value < alpha
        word = "non-inferior" if passed else "not shown to be non-inferior"
        verdict = (
            f"{word}: the difference is at least {100 * bound:+.1f} points "
            f"({100 * (1 - alpha):.4g} % one-sided), the margin is {-100 * config.margin:.1f}"
        )
    words = f"{verdict}; {_shown(table, 'test images')}; {_sight(table)}"
    if not passed and (few := sample_size.too_few(sample_size.of_pairs, n, config)):
        words += f"; {few}"
    return Check(config.policy, passed, words, _numbers(table, p_value)), p_value, bound


def beats_majority(evaluation: Evaluation, why: str) -> Check:
    """Of a candidate without an opponent."""
    accuracy, majority = evaluation.accuracy.value, evaluation.majority_share
    passed = accuracy > majority
    return Check(
        FIRST,
        passed,
        f"{why}; the candidate's {accuracy:.1%} on {evaluation.images} test images "
        f"{'beats' if passed else 'does not beat'} always answering the commonest class "
        f"({majority:.1%})",
        {"accuracy": accuracy, "majority_share": majority, "images": evaluation.images},
    )


def recent(compared: Compared, tested: frozenset[str] | None, config: GateConfig) -> Check:
    """Is it worse on the test images that joined since the stable version's snapshot?

    They are the nearest to what production sees now. The older ones are told beside them.
    """
    name = "recent-images"
    if tested is None:
        return Check(name, True, "which images joined since is not known: the snapshot is gone")
    joined = np.array([item.sha256 not in tested for item in compared.scored.items], dtype=bool)
    table, older = compared.table(joined), compared.table(~joined)
    numbers = {"recent": _numbers(table), "older": _numbers(older)}
    if not table.n:
        return Check(name, True, "no test image joined since the stable version", numbers)
    p_value = numbers["recent"]["p_value"]
    worse = p_value < config.alpha
    words = (
        f"{'significantly' if worse else 'not significantly'} worse on images that joined since "
        f"(p = {p_value:.3g}); {_shown(table, 'recent images')}; {_sight(table)}"
    )
    return Check(name, may_pass(worse, config), words, numbers)


def classes(compared: Compared, class_ids: Sequence[str], config: GateConfig) -> Check:
    """Is it worse on the images of one class?"""
    labels = compared.scored.labels
    tables = {class_ids[index]: compared.table(labels == index) for index in np.unique(labels)}
    return family("classes", "class", tables, config)


def slices(compared: Compared, config: GateConfig) -> Check:
    """Is it worse on the images of one attribute value?"""
    return by_attribute(
        [item.attributes for item in compared.scored.items],
        compared.candidate,
        compared.stable,
        compared.scored.groups,
        config,
    )


def by_attribute(
    attributes: Sequence[attribute_slices.Attributes],
    candidate: Flags,
    stable: Flags,
    groups: Integers,
    config: GateConfig,
) -> Check:
    """The slices' check, for images (n,) that the two answer right."""
    tables = {
        f"{place.attribute}={place.value}": pairs(
            candidate[place.inside], stable[place.inside], groups[place.inside]
        )
        for place in attribute_slices.places(attributes)
    }
    return family("slices", "slice", tables, config)


def family(name: str, one: str, tables: Mapping[str, Pairs], config: GateConfig) -> Check:
    """Exact McNemar on each part, Holm over all of them."""
    numbers = {part: _numbers(table) for part, table in tables.items()}
    if not numbers:
        nothing: dict[str, Any] = {"parts": {}, "worse": []}
        return Check(name, True, f"there is no {one} with enough images to compare", nothing)
    adjusted = holm([found["p_value"] for found in numbers.values()])
    for found, p_value in zip(numbers.values(), adjusted.tolist(), strict=True):
        found["adjusted_p_value"] = p_value
    worse = [part for part, found in numbers.items() if found["adjusted_p_value"] < config.alpha]
    if not worse:
        words = f"no {one} of {len(numbers)} is significantly worse (Holm, {config.alpha:g})"
    else:
        words = f"significantly worse on {one} " + ", ".join(
            f"{part} ({_shown(tables[part], 'images')}; "
            f"Holm-adjusted p = {numbers[part]['adjusted_p_value']:.3g})"
            for part in worse
        )
    return Check(name, may_pass(bool(worse), config), words, {"parts": numbers, "worse": worse})


def may_pass(worse: bool, config: GateConfig) -> bool:
    """Whether a part that is worse is only reported."""
    return not worse or config.regressions == "report"


def _numbers(table: Pairs, p_value: float | None = None) -> dict[str, Any]:
    """Of a table, for gate.json; the p-value is McNemar's "worse" unless another is given."""
    b, c, _ = table.effective
    return {
        "images": table.n,
        "both_right": table.both,
        "only_candidate_right": table.candidate,
        "only_stable_right": table.stable,
        "both_wrong": table.neither,
        "difference": table.difference,
        "smallest_visible_difference": table.smallest_visible_difference if table.n else None,
        "design_effect": table.design_effect,
        "p_value": float(mcnemar_worse(b, c)) if p_value is None else p_value,
    }


def _shown(table: Pairs, images: str) -> str:
    return (
        f"{_percent(table.both + table.candidate, table.n)} against "
        f"{_percent(table.both + table.stable, table.n)} on {table.n} {images}; only the "
        f"candidate right on {table.candidate}, only the stable version on {table.stable}"
    )


def _sight(table: Pairs) -> str:
    return (
        f"this test set sees differences from {100 * table.smallest_visible_difference:.1f} points"
    )


def _percent(hits: int, n: int) -> str:
    return f"{100 * hits / n:.1f} %"
