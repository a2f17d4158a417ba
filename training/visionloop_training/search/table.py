"""What a search tried, as lines for people and as plain data."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the program's words are told without torch
    from visionloop_training.search.record import SearchRecord, Tried

_HEAD = ("", "learning rate", "freeze", "epochs", "augment", "smoothing", "val loss", "accuracy",
         "seconds")  # fmt: skip


def table(record: "SearchRecord") -> list[str]:
    """One line a trial under a head; a star stands before the winner."""
    rows = [_HEAD, *(_row(one, one is record.best) for one in record.tried)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def as_json(record: "SearchRecord") -> dict[str, Any]:
    """The trials, and the winner's place among them (null: none came to its end)."""
    best = record.best
    return {
        "trials": [one.model_dump(mode="json") for one in record.tried],
        "winner": record.tried.index(best) if best else None,
        "seconds": record.seconds,
    }


def _row(tried: "Tried", wins: bool) -> tuple[str, ...]:
    settings = tried.settings
    freeze = settings["freeze"]
    return (
        "*" if wins else "",
        f"{settings['learning_rate']:.2e}",
        f"{freeze:g}" if isinstance(freeze, float) else str(freeze),
        str(settings["epochs"]),
        str(settings["augment"]),
        f"{settings['label_smoothing']:g}",
        tried.outcome if tried.score is None else f"{tried.score:.4f}",
        "" if tried.val_accuracy is None else f"{tried.val_accuracy:.1%}",
        f"{tried.seconds:.0f}",
    )
