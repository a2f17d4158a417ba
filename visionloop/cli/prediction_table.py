"""Predictions as a CSV for notebooks and spreadsheets: a row for each image, refused ones too.

    image,label,probability,label_2,probability_2,…,present,not_sure,not_sure_reason,…

Rows are written as they come, so that what is answered is there when a long job breaks off; the
first answer says how many pairs of label and probability there are, best first, which is at most
what was asked for. `present` is of models of several classes alone: all that the image shows, by
"|", those beyond the pairs included.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from visionloop.client import Recognition

_AFTER = ("present", "not_sure", "not_sure_reason", "model", "version", "prediction_id", "error")


def table(results: Iterable[tuple[str, Recognition]], top_k: int) -> Iterator[tuple[str, str]]:
    """The head and a line for each (image, result), in order, each with what is to be said of it
    ("" where it was answered). What is refused before the first answer waits for that one."""
    pairs = 0
    waiting: list[tuple[str, Recognition]] = []
    for image, result in results:
        if not pairs and result.error is None:
            answered = max(1, len(result.labels))
            pairs = min(answered, top_k) if top_k else answered
            yield _head(pairs), ""
            for before in waiting:
                yield _row(*before, pairs)
        if pairs:
            yield _row(image, result, pairs)
        else:
            waiting.append((image, result))
    if not pairs:
        yield _head(1), ""
        for before in waiting:
            yield _row(*before, 1)


def _head(pairs: int) -> str:
    numbers = ["", *(f"_{place}" for place in range(2, pairs + 1))]
    named = [f"{name}{number}" for number in numbers for name in ("label", "probability")]
    return _line(["image", *named, *_AFTER])


def _row(image: str, result: Recognition, pairs: int) -> tuple[str, str]:
    cells = [
        cell for label in result.labels[:pairs] for cell in (label.name, f"{label.probability:.6f}")
    ]
    line = _line([image, *cells, *[""] * (2 * pairs - len(cells)), *_after(result)])
    return line, f"{image}: {result.error}" if result.error is not None else ""


def _after(result: Recognition) -> list[object]:
    if result.error is not None:
        return [*[""] * (len(_AFTER) - 1), result.error]
    return [
        "|".join(label.name for label in result.present) if result.multi_label else "",
        "yes" if result.not_sure else "no",
        result.not_sure_reason,
        result.model,
        result.version,
        result.prediction_id,
        "",
    ]


def _line(cells: Sequence[object]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerow(cells)
    return written.getvalue()
