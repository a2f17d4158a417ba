"""predictions.parquet: what the model answered to each test image, one row an image.

A table and not a part of report.json: by hand, of 100,000 images and 100 classes, it is 20 MB, and
takes 1.5 s and 130 MB of memory to write; as JSON it was 143 MB, 41 s and 1.3 GB. Table readers
take it (pandas, DuckDB). The ids of the classes, in the order of `probabilities`, are in its
metadata.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from visionloop_training.data import Item
from visionloop_training.metrics import Flags, Floats, Integers

FILE = "predictions.parquet"
CLASSES = b"visionloop.classes"  # a JSON list
_DECIMALS = 6
_ROWS = 16_384  # of a row group: readers need not hold all


def table(
    items: Sequence[Item],
    class_ids: Sequence[str],
    answers: Mapping[str, "pa.Array"],
    probabilities: Floats,
) -> "pa.Table":
    """Of images (n), the columns `answers` (n,) of the task, and probabilities (n, classes)."""
    columns = {
        "sha256": pa.array([item.sha256 for item in items], pa.string()),
        "source": pa.array([item.source for item in items], pa.string()),
        **answers,
        "probabilities": pa.FixedSizeListArray.from_arrays(
            pa.array(np.round(probabilities.astype(np.float32, copy=False), _DECIMALS).ravel()),
            len(class_ids),
        ),
    }
    return pa.table(columns, metadata={CLASSES: json.dumps(list(class_ids)).encode()})


def one_class(places: Integers, class_ids: Sequence[str]) -> "pa.Array":
    """(n,) ids, from the places of the classes (n,)."""
    return pa.DictionaryArray.from_arrays(places.astype(np.int32), pa.array(class_ids))


def several_classes(present: Flags, class_ids: Sequence[str]) -> "pa.Array":
    """(n,) lists of ids, from which class is there (n, classes)."""
    _, places = np.nonzero(present)  # row by row
    ends = np.cumsum(present.sum(axis=1))
    return pa.ListArray.from_arrays(
        np.concatenate([[0], ends]).astype(np.int32), one_class(places, class_ids)
    )


def write(path: Path, predictions: "pa.Table") -> None:
    """Writes the table."""
    pq.write_table(predictions, path, compression="zstd", row_group_size=_ROWS)
