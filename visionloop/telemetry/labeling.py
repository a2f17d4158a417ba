"""The labeling-ingest service's metrics."""

from functools import partial

from visionloop.telemetry import metrics

_counter = partial(metrics.counter, "labeling-ingest")
_gauge = partial(metrics.gauge, "labeling-ingest")
_histogram = partial(metrics.histogram, "labeling-ingest")

INGEST_IMAGES = _counter(
    "visionloop_ingest_images_total",
    "Submitted rows by outcome: accepted, duplicate, rejected, quarantined or replayed.",
    ("outcome",),
)
INGEST_REJECTED = _counter(
    "visionloop_ingest_rejected_total",
    "Rejected rows by reason.",
    ("reason",),
)
INGEST_QUARANTINED = _counter(
    "visionloop_ingest_quarantined_total",
    "Rows whose image is kept aside because it could not be decoded, by reason.",
    ("reason",),
)
INGEST_SECONDS = _histogram(
    "visionloop_ingest_seconds", "Time from a row's arrival until it is durable."
)
INSPECTORS = _gauge(
    "visionloop_inspectors",
    "Processes that decode untrusted images, alive now.",
)
INSPECTOR_ENDS = _counter(
    "visionloop_inspector_ends_total",
    "Ended inspectors: recycled (as planned), died, or overran (its image took too long).",
    ("how",),
)
PREVIEWS = _counter(
    "visionloop_previews_total",
    "Pictures given to browsers: stored (were there), rendered (made now) or refused.",
    ("outcome",),
)
MISSING_IMAGES = _gauge(
    "visionloop_missing_images",
    "Images whose bytes the store has lost, as of the reconciler's last step.",
)
UNCLAIMED_OBJECTS = _gauge(
    "visionloop_unclaimed_objects",
    "Objects under blobs/ that no image names, as of the reconciler's last visit of each folder.",
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
BACKGROUND_RUNS = _counter(
    "visionloop_background_runs_total",
    "Turns of the background loops: done, more (work is left), failed, elsewhere (another replica "
    "has it).",
    ("loop", "outcome"),
)
BACKGROUND_SECONDS = _histogram(
    "visionloop_background_seconds",
    "Time of a background loop's turn.",
    ("loop",),
    buckets=metrics.JOB_BUCKETS,
)
BACKGROUND_LAST_SUCCESS = _gauge(
    "visionloop_background_last_success_timestamp_seconds",
    "When a background loop's turn last succeeded on this replica, in seconds since 1970.",
    ("loop",),
)
FEEDBACK_DRAINED = _counter(
    "visionloop_feedback_drained_total",
    "Feedback taken from the inbox: labelled, reported (called wrong), repeated, refused (kept "
    "aside) or deferred (its image has not arrived yet).",
    ("outcome",),
)
FEEDBACK_LAG = _histogram(
    "visionloop_feedback_lag_seconds",
    "Time from when inference received a feedback until it took effect.",
    buckets=metrics.JOB_BUCKETS,
)
SUGGESTIONS = _counter(
    "visionloop_suggestions_total",
    "Images shown to a model for suggestions: predicted, or refused by the inference service.",
    ("outcome",),
)
SUGGESTION_SECONDS = _histogram(
    "visionloop_suggestion_seconds",
    "Time for the inference service to answer for a group of images.",
)
