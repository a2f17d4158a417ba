"""May the candidate replace the stable version? A paired test under a named policy, in words.

Both models answer the same test images, so what counts is where they disagree: b images that only
the candidate gets right, c that only the stable one does. Only images whose group neither model
has seen in training or validation take part, and only classes that both know. A point estimate on
a few hundred images is mostly noise; so the verdict also says the smallest difference that this
test set can see at all (one-sided 5 %, 80 % power: 2.49 · sqrt(share of disagreements / images)).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm

from visionloop_training.config import GateConfig
from visionloop_training.evaluate import Evaluation, Scored

FIRST = "beats-majority-class"


@dataclass(frozen=True, slots=True)
class LabelChange:
    """How the candidate's classes differ from the stable version's."""

    added: list[str]
    removed: list[str]
    test_images_of_added: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's answer with everything it rests on."""

    passed: bool
    policy: str
    reason: str
    candidate_accuracy: float
    images: int
    stable_version: int | None = None
    stable_accuracy: float | None = None
    difference: float | None = None
    difference_lower_bound: float | None = None
    both_right: int | None = None
    only_candidate_right: int | None = None
    only_stable_right: int | None = None
    both_wrong: int | None = None
    p_value: float | None = None
    alpha: float | None = None
    margin: float | None = None
    smallest_visible_difference: float | None = None
    excluded_images: int = 0  # in a group that a model has seen
    majority_share: float | None = None
    label_change: LabelChange | None = None
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain dicts and lists: the content of report/gate.json."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Opponent:
    """The stable version's answers to the candidate's test images, in its own class order."""

    version: int
    scored: Scored  # labels are the candidate's; probabilities have the stable version's columns
    class_ids: tuple[str, ...]
    # Of train and val, groups and image digests: another dataset names groups in its own way.
    # None: its snapshot is gone.
    seen: frozenset[str] | None


def decide(
    candidate: Scored,
    evaluation: Evaluation,
    class_ids: Sequence[str],
    seen_groups: frozenset[str],
    stable: Opponent | None,
    config: GateConfig,
) -> Verdict:
    """The verdict on a candidate. `seen_groups` are those of its own train and val."""
    if stable is None:
        return _against_majority(evaluation, "there is no stable version yet", None, None)
    change = _label_change(candidate, class_ids, stable.class_ids)
    notes: list[str] = []
    if stable.seen is None:
        notes.append(
            "the stable version's snapshot is gone, so test images that it was trained on cannot "
            "be left out; that can only favour the stable version"
        )
    seen = seen_groups | (stable.seen or frozenset())
    known = {index for index, name in enumerate(class_ids) if name in stable.class_ids}
    fresh = [seen.isdisjoint((item.group, item.sha256)) for item in candidate.items]
    shared = [f and i.label in known for f, i in zip(fresh, candidate.items, strict=True)]
    if len(known) < 2 or not any(shared):
        why = f"no test image can be compared with version {stable.version}"
        return _against_majority(evaluation, why, stable.version, change)
    mine = candidate.among(shared).right
    theirs = _opponent_right(stable, class_ids)[np.array(shared)]
    table = _Table(
        both=int((mine & theirs).sum()),
        candidate=int((mine & ~theirs).sum()),
        stable=int((~mine & theirs).sum()),
        neither=int((~mine & ~theirs).sum()),
    )
    passed, p_value, bound, reason = _judge(table, config)
    return Verdict(
        passed=passed,
        policy=config.policy,
        reason=reason,
        candidate_accuracy=(table.both + table.candidate) / table.n,
        images=table.n,
        stable_version=stable.version,
        stable_accuracy=(table.both + table.stable) / table.n,
        difference=table.difference,
        difference_lower_bound=bound,
        both_right=table.both,
        only_candidate_right=table.candidate,
        only_stable_right=table.stable,
        both_wrong=table.neither,
        p_value=p_value,
        alpha=config.alpha,
        margin=config.margin if config.policy == "non-inferior" else None,
        smallest_visible_difference=table.smallest_visible_difference,
        excluded_images=len(fresh) - sum(fresh),
        label_change=change,
        notes=notes,
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """The paired outcomes."""

    both: int
    candidate: int
    stable: int
    neither: int

    @property
    def n(self) -> int:
        return self.both + self.candidate + self.stable + self.neither

    @property
    def difference(self) -> float:
        return (self.candidate - self.stable) / self.n

    @property
    def smallest_visible_difference(self) -> float:
        """With no disagreement at all, one is assumed: nothing finer than 1/n can be seen."""
        share = max(1, self.candidate + self.stable) / self.n
        return 2.49 * math.sqrt(share / self.n)


def _judge(table: _Table, config: GateConfig) -> tuple[bool, float, float, str]:
    bound = lower_bound(table.candidate, table.stable, table.n, config.alpha)
    shown = (
        f"{_percent(table.both + table.candidate, table.n)} against "
        f"{_percent(table.both + table.stable, table.n)} on {table.n} test images; only the "
        f"candidate right on {table.candidate}, only the stable version on {table.stable}"
    )
    sight = f"this test set sees differences from {100 * table.smallest_visible_difference:.1f} "
    sight += "points"
    if config.policy == "not-significantly-worse":
        p_value = mcnemar_worse(table.candidate, table.stable)
        passed = p_value >= config.alpha
        sign = "≥" if passed else "<"
        word = "not significantly worse" if passed else "significantly worse"
        verdict = f"{word} (exact McNemar p = {p_value:.3g} {sign} {config.alpha:g})"
    else:
        p_value = non_inferiority(table.candidate, table.stable, table.n, config.margin)
        passed = p_value < config.alpha
        word = "non-inferior" if passed else "not shown to be non-inferior"
        verdict = (
            f"{word}: the difference is at least {100 * bound:+.1f} points "
            f"({100 * (1 - config.alpha):g} % one-sided), the margin is {-100 * config.margin:.1f}"
        )
    return passed, p_value, bound, f"{verdict}; {shown}; {sight}"


def mcnemar_worse(only_candidate: int, only_stable: int) -> float:
    """Exact one-sided p-value of "the candidate is worse" for the discordant counts."""
    discordant = only_candidate + only_stable
    if discordant == 0:
        return 1.0
    return float(binomtest(only_candidate, discordant, 0.5, alternative="less").pvalue)


def non_inferiority(only_candidate: int, only_stable: int, n: int, margin: float) -> float:
    """One-sided p-value against "worse by `margin` or more": Tango's score test for pairs."""
    return float(norm.sf(_tango(only_candidate, only_stable, n, -margin)))


def lower_bound(only_candidate: int, only_stable: int, n: int, alpha: float) -> float:
    """Lower bound of the accuracy difference: the score test inverted by bisection."""
    low, high = -1.0 + 1e-9, (only_candidate - only_stable) / n
    wanted = float(norm.isf(alpha))
    for _ in range(60):
        middle = (low + high) / 2
        if _tango(only_candidate, only_stable, n, middle) > wanted:
            low = middle
        else:
            high = middle
    return low


def _tango(b: int, c: int, n: int, difference: float) -> float:
    """The score statistic for a true difference; 0 discordance is handled by the constraint."""
    linear = -b - c + (2 * n - b + c) * difference
    constant = -c * difference * (1 - difference)
    root = math.sqrt(max(0.0, linear * linear - 8 * n * constant))
    share = (root - linear) / (4 * n)  # of pairs that only the stable version gets, under the null
    variance = n * (2 * share + difference * (1 - difference))
    if variance <= 0:
        return math.inf if b - c > n * difference else 0.0
    return (b - c - n * difference) / math.sqrt(variance)


def _against_majority(
    evaluation: Evaluation, why: str, version: int | None, change: LabelChange | None
) -> Verdict:
    accuracy, majority = evaluation.accuracy.value, evaluation.majority_share
    passed = accuracy > majority
    word = "beats" if passed else "does not beat"
    return Verdict(
        passed=passed,
        policy=FIRST,
        reason=f"{why}; the candidate's {accuracy:.1%} on {evaluation.images} test images {word} "
        f"always answering the commonest class ({majority:.1%})",
        candidate_accuracy=accuracy,
        images=evaluation.images,
        stable_version=version,
        majority_share=majority,
        label_change=change,
    )


def _label_change(
    candidate: Scored, ours: Sequence[str], theirs: Sequence[str]
) -> LabelChange | None:
    added = [name for name in ours if name not in theirs]
    removed = [name for name in theirs if name not in ours]
    if not added and not removed:
        return None
    images = sum(ours[item.label] in added for item in candidate.items)
    return LabelChange(added, removed, images)


def _opponent_right(stable: Opponent, class_ids: Sequence[str]) -> "np.typing.NDArray[np.bool_]":
    answers = np.array(stable.class_ids)[stable.scored.probabilities.argmax(axis=1)]
    labels = np.array([class_ids[item.label] for item in stable.scored.items])
    right: np.typing.NDArray[np.bool_] = answers == labels
    return right


def _percent(hits: int, n: int) -> str:
    return f"{100 * hits / n:.1f} %"
