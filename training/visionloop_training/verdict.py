"""The gate's verdict, and how one is put together from the checks on any kind of answers.

A candidate without an opponent is held against the best answer that is always the same (`first`),
any other one against the stable version (`compared`). What is measured, and by which tests, is the
task's: `gate` and `multi_label.gate`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from visionloop_training import gate_limits
from visionloop_training.config import GateConfig
from visionloop_training.data import Item
from visionloop_training.gate_checks import Check
from visionloop_training.gate_limits import Costs
from visionloop_training.intervals import Interval
from visionloop_training.parity import Parity
from visionloop_training.significance import Pairs


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

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Verdict":
        """What `as_json` gave. Raises KeyError or TypeError for anything else."""
        change = plain["label_change"]
        parts = {
            "checks": [Check(**check) for check in plain["checks"]],
            "label_change": None if change is None else LabelChange(**change),
        }
        return cls(**{**plain, **parts})

    @property
    def failed(self) -> list[str]:
        """The names of the checks that refuse."""
        return [check.name for check in self.checks if not check.passed]

    def with_check(self, check: Check) -> "Verdict":
        """With this one in place of the check of its name, and what follows from it."""
        checks = [check if one.name == check.name else one for one in self.checks]
        return replace(self, **_outcome(checks, self.mode))


@dataclass(frozen=True, slots=True)
class Beside:
    """What is weighed beside the answers to the test images."""

    parity: Parity | None = None
    costs: Costs | None = None  # of both models, to run
    looks: Sequence[int] = ()  # versions of the model that images of this split have judged before


ANSWERS_ALONE = Beside()


class Known(Protocol):
    """What every task's opponent tells of the stable version."""

    @property
    def version(self) -> int: ...
    @property
    def class_ids(self) -> tuple[str, ...]: ...
    @property
    def traced(self) -> bool:
        """Whether all images that it was trained on are known."""


@dataclass(frozen=True, slots=True)
class Case:
    """A candidate before the gate: all that a verdict says whatever the answers are."""

    score: str  # the name of what is compared
    stable: Known | None
    change: LabelChange | None
    others: list[Check]  # that need no opponent's answers
    looks: list[int]
    config: GateConfig

    @classmethod
    def of(
        cls,
        score: str,
        items: Sequence[Item],
        class_ids: Sequence[str],
        ece: Interval,
        stable: Known | None,
        config: GateConfig,
        beside: Beside,
    ) -> "Case":
        """Of a candidate with these classes and this calibration error on the test images."""
        return cls(
            score=score,
            stable=stable,
            change=label_change(items, class_ids, stable.class_ids) if stable else None,
            others=[
                *gate_limits.budgets(ece, config, beside.parity, beside.costs),
                gate_limits.looks(beside.looks, config),
            ],
            looks=list(beside.looks),
            config=config,
        )

    @property
    def alpha(self) -> float:
        """The error of this look."""
        return self.config.look_alpha

    @property
    def why_alone(self) -> str:
        """Why there is no opponent, where there is none."""
        if self.stable is None:
            return "there is no stable version yet"
        return f"no test image can be compared with version {self.stable.version}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both models' answers to the same images, in numbers. Shares and differences are 0 … 1."""

    table: Pairs  # of images that are right as a whole
    candidate: float  # mean score
    stable: float
    difference: float
    lower_bound: float  # of the difference, at the case's alpha
    smallest_visible_difference: float
    p_value: float
    gained: list[str]  # digests of images that only the candidate gets right
    lost: list[str]
    excluded: int  # images in a group that a model has seen
    design_effect: float | None = None


def first(case: Case, check: Check, *, score: float, commonest: float, images: int) -> Verdict:
    """Without an opponent: `check` holds its `score` against that of the commonest answer."""
    return Verdict(
        candidate_accuracy=score,
        images=images,
        score=case.score,
        stable_version=case.stable.version if case.stable else None,
        majority_share=commonest,
        looks=case.looks,
        label_change=case.change,
        **_outcome([check, *case.others], case.config.mode),
    )


def compared(case: Case, stable: Known, found: Comparison, checks: Sequence[Check]) -> Verdict:
    """Against the stable version: the first of `checks` is the policy's."""
    config = case.config
    return Verdict(
        candidate_accuracy=found.candidate,
        images=found.table.n,
        score=case.score,
        stable_version=stable.version,
        stable_accuracy=found.stable,
        difference=found.difference,
        difference_lower_bound=found.lower_bound,
        both_right=found.table.both,
        only_candidate_right=found.table.candidate,
        only_stable_right=found.table.stable,
        both_wrong=found.table.neither,
        p_value=found.p_value,
        alpha=case.alpha,
        margin=config.margin if config.policy == "non-inferior" else None,
        smallest_visible_difference=found.smallest_visible_difference,
        design_effect=found.design_effect,
        looks=case.looks,
        excluded_images=found.excluded,
        gained=found.gained,
        lost=found.lost,
        label_change=case.change,
        notes=_notes_on(stable),
        **_outcome([*checks, *case.others], config.mode),
    )


def _outcome(checks: list[Check], mode: str) -> dict[str, Any]:
    """Passed if all checks are; the reason is that of those that are not, or else of the first."""
    failed = [check for check in checks if not check.passed]
    told = failed or checks[:1]
    if failed and checks[0].passed:
        told = [*failed, checks[0]]
    return {
        "passed": not failed,
        "policy": checks[0].name,
        "reason": "; ".join(check.words for check in told),
        "mode": mode,
        "checks": checks,
    }


def _notes_on(stable: Known) -> list[str]:
    """What people should know of what the stable version has seen."""
    if stable.traced:
        return []
    return [
        "a snapshot is gone that the stable version, or its body, was trained on, so test images "
        "of it cannot be left out; that can only favour the stable version"
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
