"""Predictions as a CSV for notebooks and spreadsheets: a row for each image, refused ones too.

    image,label,probability,label_2,probability_2,…,present,not_sure,not_sure_reason,…

There are as many pairs of label and probability as the answer with the most classes has, best
first. `present` is of models of several classes alone: those that the image shows, by "|".
"""

import csv
import io
from collections.abc import Iterator, Sequence

from visionloop.client import Recognition

_AFTER = ("present", "not_sure", "not_sure_reason", "model", "version", "prediction_id", "error")


def csv_lines(images: Sequence[str], results: Sequence[Recognition]) -> Iterator[str]:
    """The head and a line for each image, in order."""
    pairs = max(1, *(len(result.labels) for result in results))
    numbers = ["", *(f"_{place}" for place in range(2, pairs + 1))]
    named = [f"{name}{number}" for number in numbers for name in ("label", "probability")]
    yield _line(["image", *named, *_AFTER])
    for image, result in zip(images, results, strict=True):
        cells = [
            cell for label in result.labels for cell in (label.name, f"{label.probability:.6f}")
        ]
        yield _line([image, *cells, *[""] * (2 * pairs - len(cells)), *_after(result)])


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
