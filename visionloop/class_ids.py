"""What the id of a dataset's class looks like, for whoever reads one without the dataset.

Labeling-ingest makes the ids (`visionloop_labeling.classes`). Graphs that were added by hand, and
models that were trained elsewhere, may have others.
"""

import re
from typing import Final

_DATASET_CLASS_ID: Final = re.compile(r"[a-z0-9_-]{1,80}")


def may_be_of_a_dataset(class_id: str) -> bool:
    """Whether a dataset can have a class of this id, now or later."""
    return _DATASET_CLASS_ID.fullmatch(class_id) is not None
