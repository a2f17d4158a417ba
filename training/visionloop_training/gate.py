"""May the candidate replace the stable version? Named checks, each with its numbers, in words.

The first check decides by a paired test under a named policy; the others can only refuse. Both
models answer the same test images; only images whose group neither model has seen in training or
validation take part, and only classes that both know. A point estimate on a few hundred images is
mostly noise; so the verdict also says the smallest difference that this test set can see at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visionloop_training import gate_checks, verdict
from visionloop_training.config import GateConfig
from visionloop_training.evaluate import Evaluation, Scored
from visionloop_training.gate_checks import Compared
from visionloop_training.metrics import Flags
from visionloop_training.significance import pairs
from visionloop_training.verdict import ANSWERS_ALONE, Beside, Case, Comparison, Verdict


@dataclass(frozen=True, slots=True)
class Opponent:
    """The stable version's answers to the candidate's test images, in its own class order."""

    version: int
    scored: Scored  # labels are the candidate's; probabilities have the stable version's columns
    class_ids: tuple[str, ...]
    # Of train and val, groups and image digests: another dataset names groups in its own way.
    seen: frozenset[str]
    # Digests of its snapshot's test images: what is not among them joined since. None: it is gone.
    tested: frozenset[str] | None = None
    traced: bool = True  # whether all that it has seen is known

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
    beside: Beside = ANSWERS_ALONE,
) -> Verdict:
    """The verdict on a candidate; `seen_groups` are those of its own train and val."""
    case = Case.of("accuracy", candidate.items, class_ids, evaluation.ece, stable, config, beside)
    compared, left_out = _comparable(candidate, class_ids, seen_groups, stable)
    if stable is None or compared is None:
        return verdict.first(
            case,
            gate_checks.beats_majority(evaluation, case.why_alone),
            score=evaluation.accuracy.value,
            commonest=evaluation.majority_share,
            images=evaluation.images,
        )
    table = pairs(compared.candidate, compared.stable, compared.scored.groups)
    primary, p_value, bound = gate_checks.paired(table, config, case.alpha)
    found = Comparison(
        table=table,
        candidate=(table.both + table.candidate) / table.n,
        stable=(table.both + table.stable) / table.n,
        difference=table.difference,
        lower_bound=bound,
        smallest_visible_difference=table.smallest_visible_difference,
        p_value=p_value,
        gained=compared.digests(compared.candidate & ~compared.stable),
        lost=compared.digests(compared.stable & ~compared.candidate),
        excluded=left_out,
        design_effect=table.design_effect,
    )
    checks = [
        primary,
        gate_checks.recent(compared, stable.tested, config),
        gate_checks.classes(compared, class_ids, config),
        gate_checks.slices(compared, config),
    ]
    return verdict.compared(case, stable, found, checks)


def _comparable(
    candidate: Scored,
    class_ids: Sequence[str],
    seen_groups: frozenset[str],
    stable: Opponent | None,
) -> tuple[Compared | None, int]:
    """What can be compared, and how many test images cannot because a model has seen them."""
    if stable is None:
        return None, 0
    seen = seen_groups | stable.seen
    known = {index for index, name in enumerate(class_ids) if name in stable.class_ids}
    fresh = [seen.isdisjoint((item.group, item.sha256)) for item in candidate.items]
    left_out = len(fresh) - sum(fresh)
    shared = [f and i.label in known for f, i in zip(fresh, candidate.items, strict=True)]
    if len(known) < 2 or not any(shared):
        return None, left_out
    keep = np.array(shared)
    return (
        Compared(
            scored=candidate.among(shared),
            candidate=candidate.right[keep],
            stable=stable.right(class_ids)[keep],
        ),
        left_out,
    )
