"""What `--evaluate` tells people: the numbers, beside those on the version's own test images."""

from collections.abc import Iterator, Mapping, Sequence

from visionloop_training.assessment import Assessment
from visionloop_training.evaluate import Evaluation
from visionloop_training.intervals import Interval
from visionloop_training.multi_label.evaluate import LabelEvaluation
from visionloop_training.slices import Slice


def words(found: Assessment) -> str:
    """All of it, in lines."""
    told = found.evaluation
    if isinstance(told, LabelEvaluation):
        numbers = _of_labels(told, found.own)
    else:
        numbers = _of_one_label(told, found)
    lines = [
        _head(found),
        *(f"  {name:<14}{text}" for name, text in numbers),
        "",
        *_table(_classes(found)),
        *_slices(told.slices),
        *(f"  note          {note}" for note in _notes(found)),
    ]
    return "\n".join(lines) + "\n"


def _head(found: Assessment) -> str:
    part = "" if found.split == "all" else f", split {found.split}"
    return (
        f"version {found.version} of {found.model} on {found.evaluation.images} images of dataset "
        f"{found.dataset}, snapshot {found.snapshot[:19]}{part}"
    )


def _of_one_label(told: Evaluation, found: Assessment) -> Iterator[tuple[str, str]]:
    yield "accuracy", _share(told.accuracy) + _own(found.own, "accuracy")
    yield "macro F1", _share(told.macro_f1) + _own(found.own, "macro_f1")
    if told.macro_auroc:
        yield "AUROC", _share(told.macro_auroc)
    yield "ECE", _share(told.ece)
    if found.sure is not None:
        right = f", right in {_share(found.sure.accuracy)}" if found.sure.accuracy else ""
        yield "sure", f"of {found.sure.answered:.1%} of the images{right}"


def _of_labels(told: LabelEvaluation, own: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    if told.mean_average_precision:
        yield "mAP", _share(told.mean_average_precision) + _own(own, "mean_average_precision")
    yield "macro F1", _share(told.macro_f1) + _own(own, "macro_f1")
    yield "Jaccard", _share(told.jaccard) + _own(own, "jaccard")
    yield "all right", _share(told.subset_accuracy) + _own(own, "subset_accuracy")
    yield "ECE", _share(told.ece)


def _classes(found: Assessment) -> Iterator[tuple[str, ...]]:
    yield "class", "precision", "recall", "F1", "images"
    for key, scores in found.evaluation.classes.items():
        three = (scores.precision, scores.recall, scores.f1)
        yield found.names[key], *(f"{one.value:.1%}" for one in three), str(scores.support)


def _slices(slices: Mapping[str, Mapping[str, Slice]]) -> Iterator[str]:
    for attribute, values in slices.items():
        yield ""
        head = attribute, "right", "95 %", "images", ""
        yield from _table([head, *(_slice(value, one) for value, one in values.items())])


def _slice(value: str, found: Slice) -> tuple[str, ...]:
    right, p = found.accuracy, found.adjusted_p_value
    unlike = f"p = {p:.2g}: more than chance" if p is not None and p < 0.05 else ""
    span = f"{right.low:.1%} … {right.high:.1%}"
    return value, f"{right.value:.1%}", span, str(right.n), unlike


def _notes(found: Assessment) -> Iterator[str]:
    if found.learned:
        yield (
            f"{_images(found.learned)} left out: the version has learned from them, or from a "
            "near-duplicate"
        )
    if not found.traced:
        yield (
            "a snapshot is gone that the version, or its body, was trained on, so images that it "
            "has learned from may be among these"
        )
    if found.unknown:
        named = ", ".join(f"{name} ({count})" for name, count in sorted(found.unknown.items()))
        yield f"left out, of classes that the version does not have: {named}"


def _share(found: Interval) -> str:
    return f"{found.value:.1%} (95 %: {found.low:.1%} … {found.high:.1%})"


def _own(numbers: Mapping[str, float], name: str) -> str:
    return f"; {numbers[name]:.1%} on its own test images" if name in numbers else ""


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def _table(rows: "Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]") -> Iterator[str]:
    """Names to the left, numbers to the right."""
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *others in cells:
        told = [first.ljust(widths[0])]
        told += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield f"  {'  '.join(told)}".rstrip()
