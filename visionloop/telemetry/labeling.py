"""The labeling-ingest service's metrics."""

from functools import partial

from visionloop.telemetry import metrics

_counter = partial(metrics.counter, "labeling-ingest")
_gauge = partial(metrics.gauge, "labeling-ingest")
_histogram = partial(metrics.histogram, "labeling-ingest")

INGEST_IMAGES = _counter(
    "visionloop_ingest_images_total",
    "Submitted rows by outcome: accepted, duplicate, rejected or replayed.",
    ("outcome",),
)
INGEST_REJECTED = _counter(
    "visionloop_ingest_rejected_total",
    "Rejected rows by reason.",
    ("reason",),
)
INGEST_SECONDS = _histogram(
    "visionloop_ingest_seconds", "Time from a row's arrival until it is durable."
)
LABEL_EVENTS = _counter(
    "visionloop_label_events_total",
    "Label events recorded, by who spoke: human, import, app or model.",
    ("author_kind",),
)
DATASET_IMAGES = _gauge(
    "visionloop_dataset_images",
    "Images of a dataset by split; not labelled yet: unassigned.",
    ("dataset", "split"),
)
SNAPSHOTS = _counter(
    "visionloop_snapshots_total",
    "Snapshots asked for: created, unchanged or failed.",
    ("outcome",),
)
SNAPSHOT_SECONDS = _histogram(
    "visionloop_snapshot_seconds",
    "Time to cut a snapshot.",
    buckets=metrics.JOB_BUCKETS,
)
