"""The report's plots as inline SVG in the page's text colour: dark mode needs no second copy."""

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

_INK = "#010203"  # drawn in this, replaced by currentColor
_TRAIN, _VAL = "#3b82f6", "#f59e0b"
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
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 2.6), layout="constrained")
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
    """One reliability diagram per (title, bins): how often right, by how sure."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(2.5 * len(panels), 2.7), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, (title, bins) in zip(axes, panels, strict=True):
            axis.plot([0, 1], [0, 1], color=_INK, lw=0.8, ls=":", alpha=0.6)
            middles = [(b["low"] + b["high"]) / 2 for b in bins]
            width = bins[0]["high"] - bins[0]["low"] if bins else 0.1
            axis.bar(middles, [b["accuracy"] for b in bins], width * 0.9, color=_TRAIN, alpha=0.75)
            sizes = [4 + 60 * b["images"] / sum(x["images"] for x in bins) for b in bins]
            axis.scatter(
                [b["confidence"] for b in bins],
                [b["accuracy"] for b in bins],
                s=sizes,
                color=_VAL,
                zorder=3,
            )
            axis.set(xlim=(0, 1), ylim=(0, 1), title=title, xlabel=words[0])
        axes[0].set_ylabel(words[1])
        return _svg(figure, "Reliability diagrams")


def _svg(figure: Figure, label: str) -> Markup:
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
