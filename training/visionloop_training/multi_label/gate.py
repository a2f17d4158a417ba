"""May the candidate replace the stable version, where images may have any number of classes?

The rules of `gate`: both answer the same test images, of groups that neither has learned from, and
only about classes that both know; the first check decides, the others can refuse. What is compared
is each image's Jaccard index (Godbole & Sarawagi 2004), classes both labelled and answered over
either: a wrong class costs the less, the more are right. An image whose every class is right is
"right" for the tables, and so is each class of each image for the regressions by class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visionloop_training import gate_checks, sample_size, verdict
from visionloop_training.config import GateConfig
from visionloop_training.gate_checks import Check
from visionloop_training.metrics import Flags, Floats
from visionloop_training.multi_label.evaluate import LabelEvaluation, ScoredLabels, jaccard
from visionloop_training.multi_label.paired import PairedScores
from visionloop_training.significance import pairs
from visionloop_training.verdict import ANSWERS_ALONE, Beside, Case, Comparison, Verdict

FIRST = "beats-commonest-answer"
SCORE = "jaccard"


@dataclass(frozen=True, slots=True)
class Opponent:
    """The stable version's answers to the candidate's test images, in its own class order."""

    version: int
    answers: Flags  # (n, its classes)
    class_ids: tuple[str, ...]
    seen: frozenset[str]  # groups and digests of its train and val
    tested: frozenset[str] | None  # digests of its snapshot's test images; None: it is gone
    traced: bool = True  # whether all that it has seen is known

    def on(self, class_ids: Sequence[str]) -> Flags:
        """(n, classes) its answers on these classes, all of which it has."""
        return self.answers[:, [self.class_ids.index(name) for name in class_ids]]


@dataclass(frozen=True)
class Compared:
    """Both models' answers (n, classes) on the classes and images that can be compared."""

    truth: Flags
    candidate: Flags
    stable: Flags
    items: tuple[int, ...]  # places in the candidate's test split
    scored: ScoredLabels
    class_ids: tuple[str, ...]

    @property
    def differences(self) -> Floats:
        """(n,) of the Jaccard indices."""
        found: Floats = jaccard(self.truth, self.candidate) - jaccard(self.truth, self.stable)
        return found

    def scores(self, keep: Flags) -> PairedScores:
        """Of some of the images."""
        groups = self.scored.groups[list(self.items)]
        return PairedScores(self.differences[keep], groups[keep])

    def digests(self, keep: Flags) -> list[str]:
        """The names of some of them."""
        places = zip(self.items, keep, strict=True)
        return [self.scored.items[place].sha256 for place, wanted in places if wanted]


def decide(
    candidate: ScoredLabels,
    evaluation: LabelEvaluation,
    class_ids: tuple[str, ...],
    seen_groups: frozenset[str],
    stable: Opponent | None,
    config: GateConfig,
    beside: Beside = ANSWERS_ALONE,
) -> Verdict:
    """The verdict on a candidate; `seen_groups` are those of its own train and val."""
    case = Case.of(SCORE, candidate.items, class_ids, evaluation.ece, stable, config, beside)
    compared, left_out = _comparable(candidate, class_ids, seen_groups, stable)
    if stable is None or compared is None:
        return verdict.first(
            case,
            _beats_commonest(evaluation, case.why_alone),
            score=evaluation.jaccard.value,
            commonest=evaluation.commonest_jaccard,
            images=evaluation.images,
        )
    scores = compared.scores(np.ones(len(compared.items), dtype=bool))
    ours = (compared.truth == compared.candidate).all(axis=1)
    theirs = (compared.truth == compared.stable).all(axis=1)
    primary, p_value = _primary(compared, scores, config, case.alpha)
    found = Comparison(
        table=pairs(ours, theirs, scores.groups),
        candidate=float(jaccard(compared.truth, compared.candidate).mean()),
        stable=float(jaccard(compared.truth, compared.stable).mean()),
        difference=scores.difference,
        lower_bound=scores.lower_bound(case.alpha),
        smallest_visible_difference=scores.smallest_visible_difference,
        p_value=p_value,
        gained=compared.digests(ours & ~theirs),
        lost=compared.digests(theirs & ~ours),
        excluded=left_out,
    )
    attributes = [candidate.items[place].attributes for place in compared.items]
    checks = [
        primary,
        _recent(compared, stable.tested, config),
        _classes(compared, config),
        gate_checks.by_attribute(attributes, ours, theirs, scores.groups, config),
    ]
    return verdict.compared(case, stable, found, checks)


def _comparable(
    candidate: ScoredLabels,
    class_ids: tuple[str, ...],
    seen_groups: frozenset[str],
    stable: Opponent | None,
) -> tuple[Compared | None, int]:
    """What can be compared, and how many test images cannot because a model has seen them."""
    if stable is None:
        return None, 0
    seen = seen_groups | stable.seen
    fresh = tuple(
        place
        for place, item in enumerate(candidate.items)
        if seen.isdisjoint((item.group, item.sha256))
    )
    left_out = len(candidate.items) - len(fresh)
    shared = tuple(name for name in class_ids if name in stable.class_ids)
    if not fresh or not shared:
        return None, left_out
    columns = [class_ids.index(name) for name in shared]
    rows = np.ix_(fresh, columns)
    return (
        Compared(
            truth=candidate.truth[rows],
            candidate=candidate.answers[rows],
            stable=stable.on(shared)[list(fresh)],
            items=fresh,
            scored=candidate,
            class_ids=shared,
        ),
        left_out,
    )


def _beats_commonest(evaluation: LabelEvaluation, why: str) -> Check:
    """Of a candidate without an opponent."""
    ours, commonest = evaluation.jaccard.value, evaluation.commonest_jaccard
    passed = ours > commonest
    return Check(
        FIRST,
        passed,
        f"{why}; the candidate's mean Jaccard index of {ours:.3f} on {evaluation.images} test "
        f"images {'beats' if passed else 'does not beat'} the best answer that is the same for all "
        f"({commonest:.3f})",
        {"jaccard": ours, "commonest": commonest, "images": evaluation.images},
    )


def _primary(
    compared: Compared, scores: PairedScores, config: GateConfig, alpha: float
) -> tuple[Check, float]:
    """The policy's test on all comparable images: (check, p-value)."""
    bound = scores.lower_bound(alpha)
    if config.policy == "not-significantly-worse":
        p_value = scores.worse()
        passed = p_value >= alpha
        word = "not significantly worse" if passed else "significantly worse"
        verdict = f"{word} (sign flips p = {p_value:.3g} {'≥' if passed else '<'} {alpha:.3g})"
    else:
        p_value = scores.not_inferior(config.margin)
        passed = p_value < alpha
        word = "non-inferior" if passed else "not shown to be non-inferior"
        verdict = (
            f"{word}: the difference is at least {100 * bound:+.1f} points "
            f"({100 * (1 - alpha):.4g} % one-sided), the margin is {-100 * config.margin:.1f}"
        )
    words = f"{verdict}; {_shown(compared, np.ones(scores.n, dtype=bool))}; {_sight(scores)}"
    if not passed and (few := sample_size.too_few(sample_size.of_scores, scores.units, config)):
        words += f"; {few}"
    return Check(config.policy, passed, words, _numbers(scores, p_value)), p_value


def _recent(compared: Compared, tested: frozenset[str] | None, config: GateConfig) -> Check:
    """Is it worse on the test images that joined since the stable version's snapshot?"""
    name = "recent-images"
    if tested is None:
        return Check(name, True, "which images joined since is not known: the snapshot is gone")
    digests = compared.digests(np.ones(len(compared.items), dtype=bool))
    joined = np.array([sha256 not in tested for sha256 in digests], dtype=bool)
    recent, older = compared.scores(joined), compared.scores(~joined)
    numbers = {
        "recent": _numbers(recent, recent.worse()),
        "older": _numbers(older, older.worse()),
    }
    if not recent.n:
        return Check(name, True, "no test image joined since the stable version", numbers)
    p_value = recent.worse()
    worse = p_value < config.alpha
    words = (
        f"{'significantly' if worse else 'not significantly'} worse on images that joined since "
        f"(sign flips p = {p_value:.3g}); {_shown(compared, joined)}; {_sight(recent)}"
    )
    return Check(name, gate_checks.may_pass(worse, config), words, numbers)


def _classes(compared: Compared, config: GateConfig) -> Check:
    """Is it worse at saying whether images have one class?"""
    groups = compared.scored.groups[list(compared.items)]
    ours, theirs = compared.truth == compared.candidate, compared.truth == compared.stable
    tables = {
        name: pairs(ours[:, place], theirs[:, place], groups)
        for place, name in enumerate(compared.class_ids)
    }
    return gate_checks.family("classes", "class", tables, config)


def _shown(compared: Compared, keep: Flags) -> str:
    ours = jaccard(compared.truth[keep], compared.candidate[keep]).mean()
    theirs = jaccard(compared.truth[keep], compared.stable[keep]).mean()
    return (
        f"a mean Jaccard index of {ours:.3f} against {theirs:.3f} on {int(keep.sum())} images and "
        f"{len(compared.class_ids)} classes"
    )


def _sight(scores: PairedScores) -> str:
    return (
        f"this test set sees differences from {100 * scores.smallest_visible_difference:.1f} points"
    )


def _numbers(scores: PairedScores, p_value: float) -> dict[str, float | int | None]:
    """For gate.json."""
    return {
        "images": scores.n,
        "difference": scores.difference,
        "error": scores.error if scores.n else None,
        "smallest_visible_difference": scores.smallest_visible_difference if scores.n else None,
        "p_value": p_value,
    }
