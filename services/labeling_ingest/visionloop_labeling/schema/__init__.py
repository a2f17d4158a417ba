"""The tables: what is stored about datasets, images, labels, imports and people.

    base       the types and naming rules that all tables share
    datasets   datasets, their classes, what became of classes
    images     blobs, images of a dataset, groups, near duplicates, quarantine
    labels     the label log, its fold, models' predictions
    intake     receipts, import jobs, the ledger of synchronised objects
    people     accounts, logins, API tokens
    work       who does the work that only one replica does

The object store holds the bytes, this database what is known about them. Label events are the
truth and are only ever appended; `LabelHead` (the current label), `SplitCount` and an item's place
in the queue are folds over them, written in the same transaction and rebuildable. The same tables
run on SQLite and Postgres. Times are UTC, digests 64 hex digits.

The sequence of a label event is taken from `Dataset.last_sequence` under the dataset's lock, so
that the order of commits is the order of sequences: a reader who saw n has seen everything below.
"""

from visionloop_labeling.schema.base import Table, UtcDateTime, plain
from visionloop_labeling.schema.datasets import ClassEvent, Dataset, LabelAttribute, LabelClass
from visionloop_labeling.schema.images import (
    BLOB_MISSING,
    BLOB_STORED,
    Blob,
    ImageGroup,
    Item,
    NearDuplicate,
    QualityFlag,
    Quarantined,
)
from visionloop_labeling.schema.intake import ImportJob, IngestBatch, IngestRow, SourceObject
from visionloop_labeling.schema.labels import (
    LabelEvent,
    LabelHead,
    LabelHeadClass,
    Prediction,
    SplitCount,
)
from visionloop_labeling.schema.people import Account, ApiToken, Login, Usage
from visionloop_labeling.schema.work import WorkLease

__all__ = [
    "BLOB_MISSING",
    "BLOB_STORED",
    "Account",
    "ApiToken",
    "Blob",
    "ClassEvent",
    "Dataset",
    "ImageGroup",
    "ImportJob",
    "IngestBatch",
    "IngestRow",
    "Item",
    "LabelAttribute",
    "LabelClass",
    "LabelEvent",
    "LabelHead",
    "LabelHeadClass",
    "Login",
    "NearDuplicate",
    "Prediction",
    "QualityFlag",
    "Quarantined",
    "SourceObject",
    "SplitCount",
    "Table",
    "Usage",
    "UtcDateTime",
    "WorkLease",
    "plain",
]
