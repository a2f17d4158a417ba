"""The numbers of a test split whose images may have any number of classes.

    average precision, its mean      how well probabilities rank, without a threshold
    precision, recall, F1            of a class's yes; macro: mean of classes, micro: of all yeses
    Jaccard                          of an image: classes both labelled and answered, over either;
                                     1 where there are none. Its mean is the gate's score
    subset accuracy                  images whose every class is answered right
    ECE                              mean over classes of |probability - share that has the class|

Intervals count near-duplicate groups, as everywhere (`intervals`). Where there are many images and
classes nothing is made of all of them in float64 at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from visionloop_training import intervals, metrics
from visionloop_training.auroc import auroc_of
from visionloop_training.data import Item
from visionloop_training.evaluate import Scored
from visionloop_training.intervals import Interval
from visionloop_training.metrics import Flags, Floats, Integers
from visionloop_training.multi_label import ranking
from visionloop_training.multi_label.reliability import Reliability
from visionloop_training.significance import group_numbers
from visionloop_training.slices import Slice, by_slice
from visionloop_training.targets import multi_hot

_WORK = 2_000_000_000  # images × classes × draws of the ECE; beyond it fewer draws
_FEWEST_DRAWS = 100
_AT_ONCE = 2_000_000  # images × classes, 100 MB in all


@dataclass(frozen=True)
class ScoredLabels:
    """A model's calibrated probabilities for labelled images, and its thresholds."""

    items: tuple[Item, ...]
    probabilities: Floats  # (n, classes)
    thresholds: Floats  # (classes,)

    @classmethod
    def of(cls, scored: Scored, thresholds: Sequence[float]) -> "ScoredLabels":
        """With the thresholds of the bundle."""
        return cls(scored.items, scored.probabilities, np.array(thresholds))

    @cached_property
    def truth(self) -> Flags:
        """(n, classes) whether the image has the class."""
        return multi_hot(self.items, self.probabilities.shape[1])

    @cached_property
    def answers(self) -> Flags:
        """(n, classes) whether the model says so; compared in float32, as the service does."""
        yes: Flags = self.probabilities >= self.thresholds.astype(self.probabilities.dtype)
        return yes

    @cached_property
    def groups(self) -> Integers:
        """(n,) equal numbers for near-duplicates."""
        return group_numbers([item.group for item in self.items])


def jaccard(truth: Flags, answers: Flags) -> Floats:
    """(n,) classes in both over classes in either, of rows (n, classes); 1 where there are none."""
    both = (truth & answers).sum(axis=1)
    either = (truth | answers).sum(axis=1)
    found: Floats = np.where(either > 0, both / np.maximum(1, either), 1.0)
    return found


@dataclass(frozen=True, slots=True)
class LabelScores:
    """One class; 0 where there is nothing to divide by."""

    average_precision: Interval | None  # None where no image has the class
    auroc: Interval | None  # None where all images have it, or none
    precision: Interval
    recall: Interval
    f1: Interval
    ece: float
    threshold: float
    support: int


@dataclass(frozen=True, slots=True)
class LabelEvaluation:
    """What a test split says about a model."""

    images: int
    mean_average_precision: Interval | None
    macro_auroc: Interval | None
    macro_precision: Interval
    macro_recall: Interval
    macro_f1: Interval
    micro_f1: Interval
    jaccard: Interval
    subset_accuracy: Interval
    ece: Interval
    commonest_jaccard: float  # of the best answer that is the same for every image
    classes: dict[str, LabelScores]
    slices: dict[str, dict[str, Slice]]  # of subset accuracy
    reliability: list[metrics.ReliabilityBin]

    def as_json(self) -> dict[str, Any]:
        """Plain dicts and lists."""
        return asdict(self)


def evaluate(scored: ScoredLabels, class_ids: Sequence[str]) -> LabelEvaluation:
    """All the numbers of one scored split."""
    truth, answers, groups = scored.truth, scored.answers, scored.groups
    probabilities = scored.probabilities
    mean_precision, precisions = ranking.with_intervals(probabilities, truth, groups)
    macro_auroc, areas = auroc_of(probabilities, truth, groups)
    reliability = Reliability.of(probabilities, truth)
    classes = [
        _class_scores(
            truth[:, place],
            answers[:, place],
            groups,
            average_precision=precisions[place],
            auroc=areas[place],
            ece=reliability.errors[place],
            threshold=float(scored.thresholds[place]),
        )
        for place in range(len(class_ids))
    ]
    present = [scores for scores in classes if scores.support]
    mean_error = float(np.mean(reliability.errors))
    macro_f1, micro_f1, overlap, ece = _bootstrapped(scored, mean_error)
    exact: Flags = (truth == answers).all(axis=1)
    return LabelEvaluation(
        images=len(truth),
        mean_average_precision=mean_precision,
        macro_auroc=macro_auroc,
        macro_precision=intervals.mean([scores.precision for scores in present]),
        macro_recall=intervals.mean([scores.recall for scores in present]),
        macro_f1=intervals.wider(macro_f1, intervals.mean([scores.f1 for scores in present])),
        micro_f1=micro_f1,
        jaccard=overlap,
        subset_accuracy=intervals.grouped_share(exact, groups),
        ece=ece,
        commonest_jaccard=_commonest(truth),
        classes=dict(zip(class_ids, classes, strict=True)),
        slices=by_slice(exact, groups, [item.attributes for item in scored.items]),
        reliability=reliability.bins,
    )


def _class_scores(
    labelled: Flags,
    answered: Flags,
    groups: Integers,
    *,
    average_precision: Interval | None,
    auroc: Interval | None,
    ece: float,
    threshold: float,
) -> LabelScores:
    either = labelled | answered
    return LabelScores(
        average_precision=average_precision,
        auroc=auroc,
        precision=intervals.grouped_share(labelled[answered], groups[answered]),
        recall=intervals.grouped_share(answered[labelled], groups[labelled]),
        f1=intervals.f1((labelled & answered)[either], groups[either]),
        ece=ece,
        threshold=threshold,
        support=int(labelled.sum()),
    )


def _bootstrapped(
    scored: ScoredLabels, ece: float
) -> tuple[Interval, Interval, Interval, Interval]:
    """(macro F1, micro F1, mean Jaccard, ECE) with intervals: all of them functions of sums over
    images, so matrix products make all draws. `ece` is the last one's value."""
    truth, answers, groups = scored.truth, scored.answers, scored.groups
    n, classes = truth.shape
    columns = sparse.hstack(
        [
            *(sparse.csr_array(part) for part in (truth, answers, truth & answers)),
            sparse.csr_array(np.stack([jaccard(truth, answers), np.ones(n)], axis=1)),
        ],
        format="csr",
        dtype=np.float64,
    )
    once = np.asarray(columns.sum(axis=0)).reshape(1, -1)
    drawn = intervals.resampled_sums(columns, groups)
    values, draws = _of_sums(once, classes), _of_sums(drawn, classes)
    independent = len(np.unique(groups))
    macro, micro, mean = (
        intervals.of_draws(float(value[0]), draw, n, independent)
        for value, draw in zip(values, draws, strict=True)
    )
    error = intervals.of_draws(ece, _ece_draws(scored.probabilities, truth, groups), n, independent)
    return macro, micro, mean, error


def _of_sums(sums: Floats, classes: int) -> tuple[Floats, Floats, Floats]:
    """(macro F1, micro F1, mean Jaccard), (draws,) each, of sums (draws, columns)."""
    counted = metrics.Counts(*np.split(sums[:, : 3 * classes], 3, axis=1))
    either = (counted.support + counted.answered).sum(axis=1)
    micro = 2 * counted.hits.sum(axis=1) / np.maximum(1.0, either)
    return counted.macro(counted.f1), micro, sums[:, -2] / sums[:, -1]


def _ece_draws(probabilities: Floats, truth: Flags, groups: Integers) -> Floats:
    """(draws,) of the mean over classes.

    Every probability counts in it, so it is most of the work and the memory: some classes at a
    time, and fewer draws for many of both.
    """
    n, classes = truth.shape
    draws = int(np.clip(_WORK // (n * classes), _FEWEST_DRAWS, intervals.DRAWS))
    step = max(1, _AT_ONCE // n)
    total = np.zeros(draws)
    for start in range(0, classes, step):
        some = slice(start, start + step)
        columns = _bins(probabilities[:, some].astype(np.float64), truth[:, some])
        sums = intervals.resampled_sums(columns, groups, draws)  # of the same resamples each time
        total += np.abs(sums[:, :-1]).sum(axis=1) / sums[:, -1]
    mean: Floats = total / classes
    return mean


def _bins(probabilities: Floats, truth: Flags) -> "sparse.csr_array":
    """(n, classes × bins + 1): label less probability, in the bin of the probability; and a one."""
    n, classes = truth.shape
    bins = metrics.bin_of(probabilities) + metrics.ECE_BINS * np.arange(classes)
    width = classes * metrics.ECE_BINS
    columns = np.column_stack([bins, np.full(n, width)]).ravel()
    values = np.column_stack([truth - probabilities, np.ones(n)]).ravel()
    rows = np.arange(n + 1) * (classes + 1)  # where each begins
    return sparse.csr_array((values, columns, rows), shape=(n, width + 1))


def _commonest(truth: Flags) -> float:
    """The mean Jaccard of the best of three answers for all: no class, the commonest set of
    classes, the classes that most images have."""
    packed = np.packbits(truth, axis=1)
    _, places, counts = np.unique(packed, axis=0, return_index=True, return_counts=True)
    commonest = truth[places[counts.argmax()]]
    constant = (np.zeros_like(commonest), commonest, truth.mean(axis=0) >= 0.5)
    return max(float(jaccard(truth, np.broadcast_to(one, truth.shape)).mean()) for one in constant)


def predictions(scored: ScoredLabels, class_ids: Sequence[str]) -> Iterator[dict[str, object]]:
    """One record per image: digest, labels, answers and probabilities in class order."""
    names = np.array(class_ids, dtype=object)
    overlap = jaccard(scored.truth, scored.answers)
    for place, item in enumerate(scored.items):
        yield {
            "sha256": item.sha256,
            "source": item.source,
            "labels": names[scored.truth[place]].tolist(),
            "predicted": names[scored.answers[place]].tolist(),
            "jaccard": round(float(overlap[place]), 6),
            "probabilities": [round(float(p), 6) for p in scored.probabilities[place]],
        }
