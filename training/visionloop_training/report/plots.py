"""The report's plots as inline SVG in the page's text colour: dark mode needs no second copy.

matplotlib is imported with the first drawing: it takes as long as all else of the report, and most
commands draw nothing.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from visionloop_training.intervals import share
from visionloop_training.report.thresholds import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK = "#010203"  # drawn in this, replaced by currentColor
_TRAIN, _VAL = "#3b82f6", "#f59e0b"
LINES = (
    *("#3b82f6", "#f59e0b", "#10b981", "#ef4444"),
    *("#8b5cf6", "#ec4899", "#14b8a6", "#a16207"),
)  # as many as MOST
_SPREAD = 0.25  # height of the most frequent probability
FEWEST = 10  # images that a dot of the reliability diagram stands for
_STYLE: Any = {
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "visionloop",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def loss_curves(curves: Sequence[dict[str, float]], kept: int, score: str = "accuracy") -> Markup:
    """Train and val loss, and val accuracy (or another `score`), by epoch; epoch 0 is the probe."""
    with _drawing(7.2, 2.6) as figure:
        loss, accuracy = figure.subplots(1, 2)
        epochs = [point["epoch"] for point in curves]
        # The probe's train loss is measured otherwise (no smoothing): it is no part of the curve.
        tuned = [point for point in curves if point["epoch"] > 0]
        loss.plot(
            [p["epoch"] for p in tuned], [p["train_loss"] for p in tuned], "o-", ms=3, color=_TRAIN
        )
        loss.plot(epochs, [p["val_loss"] for p in curves], "o-", ms=3, color=_VAL)
        loss.legend(["train", "val"], loc="best")
        loss.set(xlabel="epoch (0: linear probe)", ylabel="loss")
        accuracy.plot(epochs, [100 * p["val_accuracy"] for p in curves], "o-", ms=3, color=_VAL)
        accuracy.set(xlabel="epoch (0: linear probe)", ylabel=f"val {score}, %")
        for axes in (loss, accuracy):
            axes.axvline(kept, color=_INK, lw=0.8, ls=":", alpha=0.6)
            axes.grid(alpha=0.15, color=_INK)
            axes.xaxis.get_major_locator().set_params(integer=True)
        return _svg(figure, "Loss and accuracy by epoch")


def reliability(
    panels: Sequence[tuple[str, Sequence[dict[str, Any]]]],
    words: tuple[str, str] = ("probability of the answer", "share right"),
) -> Markup:
    """One reliability diagram per (title, bins): how often right, by how sure, with 95 % intervals;
    below it, how the images are spread over the probabilities."""
    with _drawing(2.5 * len(panels), 2.9) as figure:
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (title, bins) in zip(axes, panels, strict=True):
            axis.plot([0, 1], [0, 1], color=_INK, lw=0.8, ls=":", alpha=0.6)
            most = max((b["images"] for b in bins), default=1)
            axis.bar(
                [(b["low"] + b["high"]) / 2 for b in bins],
                [_SPREAD * b["images"] / most for b in bins],
                [0.9 * (b["high"] - b["low"]) for b in bins],
                color=_INK,
                alpha=0.18,
            )
            found = [
                (b["confidence"], share(round(b["hits"]), int(b["images"]))) for b in pooled(bins)
            ]
            values = [right.value for _, right in found]
            axis.errorbar(
                [sure for sure, _ in found],
                values,
                yerr=[
                    [right.value - right.low for _, right in found],
                    [right.high - right.value for _, right in found],
                ],
                fmt="o",
                ms=4,
                lw=1.4,
                color=_TRAIN,
                clip_on=False,
            )
            axis.grid(alpha=0.15, color=_INK)
            axis.set(xlim=(0, 1), ylim=(0, 1), title=title, xlabel=words[0])
        axes[0].set_ylabel(words[1])
        return _svg(figure, "Reliability diagrams")


def pooled(bins: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Neighbouring bins as one until each holds `FEWEST` images: of one image, 0 or 1 is all that
    a share can be. The last takes in what is left over."""
    groups: list[list[dict[str, Any]]] = [[]]
    for one in bins:
        if sum(b["images"] for b in groups[-1]) >= FEWEST:
            groups.append([])
        groups[-1].append(one)
    if len(groups) > 1 and sum(b["images"] for b in groups[-1]) < FEWEST:
        last = groups.pop()
        groups[-1] += last
    return [_together(group) for group in groups if group]


def _together(bins: Sequence[dict[str, Any]]) -> dict[str, float]:
    images = sum(b["images"] for b in bins)
    return {
        "images": images,
        "confidence": sum(b["images"] * b["confidence"] for b in bins) / images,
        "hits": sum(b["images"] * b["accuracy"] for b in bins),
    }


def thresholds(curves: Sequence[Curve]) -> Markup:
    """Precision over recall, and recall over false alarms; a line for each class.

    Which line is whose the page says: names are not put into a drawing.
    """
    with _drawing(7.2, 2.9) as figure:
        precision, alarms = figure.subplots(1, 2)
        for one, colour in zip(curves, LINES, strict=False):
            precision.plot(one.recall, one.precision, color=colour, lw=1.4, drawstyle="steps-post")
            alarms.plot([0, *one.false_alarms], [0, *one.recall], color=colour, lw=1.4)
        alarms.plot([0, 1], [0, 1], color=_INK, lw=0.8, ls=":", alpha=0.6)
        precision.set(xlabel="recall", ylabel="precision")
        alarms.set(xlabel="false alarms, share of the others", ylabel="recall")
        for axes in (precision, alarms):
            axes.set(xlim=(0, 1.01), ylim=(0, 1.03))
            axes.grid(alpha=0.15, color=_INK)
        return _svg(figure, "Precision and recall at every threshold")


@contextmanager
def _drawing(width: float, height: float) -> Iterator["Figure"]:
    """A figure of so many inches, in our style."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def _svg(figure: "Figure", label: str) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = text.replace(_INK, "currentColor")
    # Drawn by us from numbers; the only words in it are fixed ones.
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))  # noqa: S704
