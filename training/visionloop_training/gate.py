"""May the candidate replace the stable version? Named checks, each with its numbers, in words.

The first check decides by a paired test under a named policy; the others can only refuse. Both
models answer the same test images; only images whose group neither model has seen in training or
validation take part, and only classes that both know. A point estimate on a few hundred images is
mostly noise; so the verdict also says the smallest difference that this test set can see at all.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from visionloop_training import gate_checks
from visionloop_training.config import GateConfig
from visionloop_training.data import Item
from visionloop_training.evaluate import Evaluation, Scored
from visionloop_training.gate_checks import Check, Compared, Costs
from visionloop_training.metrics import Flags
from visionloop_training.parity import Parity
from visionloop_training.significance import pairs

FIRST = gate_checks.FIRST


@dataclass(frozen=True, slots=True)
class LabelChange:
    """How the candidate's classes differ from the stable version's."""

    added: list[str]
    removed: list[str]
    test_images_of_added: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's answer with everything it rests on."""

    passed: bool  # all checks
    policy: str
    reason: str
    candidate_accuracy: float  # or whatever `score` names, here and below
    images: int
    score: str = "accuracy"
    mode: str = "auto"
    checks: list[Check] = field(default_factory=list)
    stable_version: int | None = None
    stable_accuracy: float | None = None
    difference: float | None = None
    difference_lower_bound: float | None = None
    both_right: int | None = None
    only_candidate_right: int | None = None
    only_stable_right: int | None = None
    both_wrong: int | None = None
    p_value: float | None = None
    alpha: float | None = None  # of this look
    margin: float | None = None
    smallest_visible_difference: float | None = None
    design_effect: float | None = None  # images per independent observation
    looks: list[int] = field(default_factory=list)  # versions this test split has judged before
    excluded_images: int = 0  # in a group that a model has seen
    gained: list[str] = field(default_factory=list)  # digests that only the candidate gets right
    lost: list[str] = field(default_factory=list)  # and only the stable version
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
    # Digests of its snapshot's test images: what is not among them joined since. None as above.
    tested: frozenset[str] | None = None

    def answers(self) -> tuple[str, ...]:
        """The class id it answers to each image."""
        return tuple(self.class_ids[place] for place in self.scored.probabilities.argmax(axis=1))

    def right(self, class_ids: Sequence[str]) -> Flags:
        """(n,) whether its answers are the labels; `class_ids` are the candidate's."""
        labels = np.array([class_ids[item.label] for item in self.scored.items])
        hits: Flags = np.array(self.answers()) == labels
        return hits


def decide(
    candidate: Scored,
    evaluation: Evaluation,
    class_ids: Sequence[str],
    seen_groups: frozenset[str],
    stable: Opponent | None,
    config: GateConfig,
    *,
    parity: Parity | None = None,
    costs: Costs | None = None,
    looks: Sequence[int] = (),
) -> Verdict:
    """The verdict on a candidate.

    `seen_groups` are those of its own train and val; `looks` the versions of the model that images
    of this test split have judged before; `costs` what both models cost to run.
    """
    change = label_change(candidate.items, class_ids, stable.class_ids) if stable else None
    others = gate_checks.budgets(evaluation.ece, config, parity, costs)
    others.append(gate_checks.looks(looks, config))
    shared, fresh = _comparable(candidate, class_ids, seen_groups, stable)
    if stable is None or not any(shared):
        why = "there is no stable version yet"
        if stable is not None:
            why = f"no test image can be compared with version {stable.version}"
        first = gate_checks.beats_majority(evaluation, why)
        return Verdict(
            candidate_accuracy=evaluation.accuracy.value,
            images=evaluation.images,
            stable_version=stable.version if stable else None,
            majority_share=evaluation.majority_share,
            looks=list(looks),
            label_change=change,
            **outcome([first, *others], FIRST, config),
        )
    keep = np.array(shared)
    compared = Compared(
        scored=candidate.among(shared),
        candidate=candidate.right[keep],
        stable=stable.right(class_ids)[keep],
    )
    table = pairs(compared.candidate, compared.stable, compared.scored.groups)
    alpha = config.alpha / (config.planned_looks or 1)
    primary, p_value, bound = gate_checks.paired(table, config, alpha)
    checks = [
        primary,
        gate_checks.recent(compared, stable.tested, config),
        gate_checks.classes(compared, class_ids, config),
        gate_checks.slices(compared, config),
        *others,
    ]
    return Verdict(
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
        alpha=alpha,
        margin=config.margin if config.policy == "non-inferior" else None,
        smallest_visible_difference=table.smallest_visible_difference,
        design_effect=table.design_effect,
        looks=list(looks),
        excluded_images=len(fresh) - sum(fresh),
        gained=compared.digests(compared.candidate & ~compared.stable),
        lost=compared.digests(compared.stable & ~compared.candidate),
        label_change=change,
        notes=notes_on(stable.seen),
        **outcome(checks, config.policy, config),
    )


def outcome(checks: list[Check], policy: str, config: GateConfig) -> dict[str, Any]:
    """Passed if all checks are; the reason is that of those that are not, or else of the first."""
    failed = [check for check in checks if not check.passed]
    told = failed or checks[:1]
    if failed and checks[0].passed:
        told = [*failed, checks[0]]
    return {
        "passed": not failed,
        "policy": policy,
        "reason": "; ".join(check.words for check in told),
        "mode": config.mode,
        "checks": checks,
    }


def _comparable(
    candidate: Scored,
    class_ids: Sequence[str],
    seen_groups: frozenset[str],
    stable: Opponent | None,
) -> tuple[list[bool], list[bool]]:
    """For each test image whether it may be compared, and whether it is new to both models."""
    if stable is None:
        return [], []
    seen = seen_groups | (stable.seen or frozenset())
    known = {index for index, name in enumerate(class_ids) if name in stable.class_ids}
    fresh = [seen.isdisjoint((item.group, item.sha256)) for item in candidate.items]
    if len(known) < 2:
        return [False] * len(fresh), fresh
    return [f and i.label in known for f, i in zip(fresh, candidate.items, strict=True)], fresh


def notes_on(seen: frozenset[str] | None) -> list[str]:
    """What people should know of what the stable version has seen."""
    if seen is not None:
        return []
    return [
        "the stable version's snapshot is gone, so test images that it was trained on cannot "
        "be left out; that can only favour the stable version"
    ]


def label_change(
    items: Sequence[Item], ours: Sequence[str], theirs: Sequence[str]
) -> LabelChange | None:
    """None where the classes are the same. `items` are the test images, of our classes."""
    added = [name for name in ours if name not in theirs]
    removed = [name for name in theirs if name not in ours]
    if not added and not removed:
        return None
    images = sum(any(ours[place] in added for place in item.classes) for item in items)
    return LabelChange(added, removed, images)
