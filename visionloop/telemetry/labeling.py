"""The labeling-ingest service's metrics."""

from functools import partial
from itertools import product
from typing import Final

from visionloop.telemetry import metrics

_counter = partial(metrics.counter, "labeling-ingest")
_gauge = partial(metrics.gauge, "labeling-ingest")
_histogram = partial(metrics.histogram, "labeling-ingest")

INGEST_IMAGES = _counter(
    "visionloop_ingest_images_total",
    "Submitted rows by the way they came (grpc, http, import or feedback) and by outcome: "
    "accepted, duplicate, rejected, quarantined or replayed.",
    ("way", "outcome"),
)
DUPLICATES = _counter(
    "visionloop_duplicates_total",
    "Images that came though their dataset had the like, each under the first that holds: exact "
    "(these bytes), pixels (other bytes, the same pixels) or near (alike, and confirmed).",
    ("kind",),
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
RECONCILER_CHANGES = _counter(
    "visionloop_reconciler_changes_total",
    "Images that the reconciler marked: missing (the store has lost their bytes) or found (it has "
    "them again).",
    ("kind",),
)
UNCLAIMED_OBJECTS = _gauge(
    "visionloop_unclaimed_objects",
    "Objects under blobs/ that no image names, as of the reconciler's last visit of each folder.",
)
BACKUP_TIMESTAMP = _gauge(
    "visionloop_backup_timestamp_seconds",
    "When the latest complete backup began, in seconds since 1970; no series where there is none.",
)
BACKUP_DAMAGED_OBJECTS = _gauge(
    "visionloop_backup_damaged_objects",
    "Objects that the latest complete backup found damaged in the store, and did not copy.",
)
LABEL_EVENTS = _counter(
    "visionloop_label_events_total",
    "Label events recorded, by what was said (label, retract, skip, flag, unflag or undo) and by "
    "who spoke: human, import, app or model.",
    ("kind", "author_kind"),
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
    "Feedback taken from the inbox: labelled, reported (called wrong), outdated (something newer "
    "had been said), repeated, refused (kept aside) or deferred (its image has not arrived yet).",
    ("outcome",),
)
FEEDBACK_REFUSED = _counter(
    "visionloop_feedback_refused_total",
    "Feedback put aside because it could not be used, by reason: all that ever was, also what was "
    "taken again or thrown away since. The page Refused feedback has what waits.",
    ("reason",),
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
INGEST_BYTES = _counter(
    "visionloop_ingest_bytes_total",
    "Bytes of the rows that were submitted, images and texts.",
)
LABEL_SECONDS = _histogram(
    "visionloop_label_seconds",
    "Time that people looked at an image before they said something about it, as their page told.",
    buckets=(0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0),
)
SUGGESTION_OUTCOMES = _counter(
    "visionloop_suggestion_outcomes_total",
    "Suggestions that people saw, by model version (other: no suggestion of ours) and by what they "
    "did: accepted, edited or rejected.",
    ("model", "outcome"),
)
SUGGESTION_AGREEMENT = _counter(
    "visionloop_suggestion_agreement_total",
    "First labels by people on images that a model version had a suggestion for: whether it was "
    "shown (no: the blind sample), and whether the label names its likeliest class.",
    ("model", "shown", "agreed"),
)
QUEUE_IMAGES = _gauge(
    "visionloop_queue_images",
    "Images by their place in the work: open, review, skipped or labelled.",
    ("dataset", "state"),
)
QUEUE_OLDEST_SECONDS = _gauge(
    "visionloop_queue_oldest_seconds",
    "Age of the image that has waited longest for its label; 0 when none waits.",
    ("dataset",),
)
LABELS_SINCE_SNAPSHOT = _gauge(
    "visionloop_labels_since_snapshot",
    "Label events that came after the latest snapshot; all of them where there is none.",
    ("dataset",),
)
SNAPSHOT_AGE_SECONDS = _gauge(
    "visionloop_snapshot_age_seconds",
    "Time since the latest snapshot became that; no series where there is none.",
    ("dataset",),
)
SNAPSHOT_IMAGES = _gauge(
    "visionloop_snapshot_images",
    "Images of the latest snapshot that show a class, by split. The 50 classes that most images "
    "show have series by class id, as predictions have; the rest together are other.",
    ("dataset", "split", "class"),
)
SNAPSHOT_LEAK_PAIRS = _gauge(
    "visionloop_snapshot_leak_pairs",
    "Pairs of like images that stood in different splits when the latest snapshot was cut, which "
    "left out one of each, by what joins them: near_duplicate, same_pixels or declared_group.",
    ("dataset", "joined_by"),
)
CLASS_IMBALANCE = _gauge(
    "visionloop_class_imbalance_ratio",
    "Images of the largest class for each one of the smallest class that has any.",
    ("dataset",),
)
QUALITY_FLAGS = _gauge(
    "visionloop_quality_flags",
    "Images that are remarked on: dark, bright, blurred, low_contrast, tiny or odd_aspect.",
    ("dataset", "flag"),
)
HTTP_REQUESTS = _counter(
    "visionloop_http_requests_total",
    "HTTP requests by route (other: none of ours, or refused before it was known) and status.",
    ("method", "route", "status"),
)
HTTP_SECONDS = _histogram(
    "visionloop_http_request_seconds",
    "Time from a request's head to the end of its answer.",
    ("route",),
)
SIGN_INS = _counter(
    "visionloop_sign_ins_total",
    "Tries to sign in with a password: succeeded, failed, or throttled (too many wrong ones).",
    ("outcome",),
)
DATABASE_CONNECTIONS = _gauge(
    "visionloop_database_connections",
    "Connections to the database: in_use by this replica now, and the limit of it.",
    ("state",),
)

# Of the models in the store: what a training job's pod can tell nobody once it is gone. Every
# replica tells the same.
PUBLISHED_VERSION = _gauge(
    "visionloop_published_version", "The newest version of a model that was published.", ("model",)
)
PUBLISHED_TIMESTAMP = _gauge(
    "visionloop_published_timestamp_seconds",
    "When a model's newest version was made: the last training run that ended with a version, in "
    "seconds since 1970.",
    ("model",),
)
PROMOTED_VERSION = _gauge(
    "visionloop_promoted_version", "The version that a model's stable means; 0: none.", ("model",)
)
PROMOTED_TIMESTAMP = _gauge(
    "visionloop_promoted_timestamp_seconds",
    "When a model's stable was last moved, in seconds since 1970.",
    ("model",),
)
LABEL_TO_SERVING_SECONDS = _gauge(
    "visionloop_label_to_serving_seconds",
    "From the middle one of the label events that were new in the snapshot of a model's stable "
    "version until stable first meant that version; no series where this database cannot tell.",
    ("model",),
)
REFUSED_IN_A_ROW = _gauge(
    "visionloop_gate_refused_in_a_row",
    "How many of a model's newest versions the gate refused, one after the other; 0: it passed the "
    "newest.",
    ("model",),
)
VERSION_METRIC = _gauge(
    "visionloop_version_metric",
    "What a version's bundle says of it (accuracy, macro_f1, test_ece, test_images, …), for the "
    "newest and the stable version.",
    ("model", "alias", "metric"),
)

# What a counter's labels may say, one tuple for each label. Reasons and names are not among them.
_KNOWN: Final[tuple[tuple[metrics.Counter, tuple[tuple[str, ...], ...]], ...]] = (
    (
        INGEST_IMAGES,
        (
            ("grpc", "http", "import", "feedback"),
            ("accepted", "duplicate", "rejected", "quarantined", "replayed"),
        ),
    ),
    (INGEST_QUARANTINED, (("truncated", "corrupt", "decoder_crashed", "decode_timeout"),)),
    (DUPLICATES, (("exact", "pixels", "near"),)),
    (INSPECTOR_ENDS, (("recycled", "died", "overran"),)),
    (PREVIEWS, (("stored", "rendered", "refused"),)),
    (RECONCILER_CHANGES, (("missing", "found"),)),
    (
        LABEL_EVENTS,
        (
            ("label", "retract", "skip", "flag", "unflag", "undo"),
            ("human", "import", "app", "model"),
        ),
    ),
    (SNAPSHOTS, (("created", "unchanged", "failed"),)),
    (FEEDBACK_DRAINED, (("labelled", "outdated", "reported", "repeated", "refused", "deferred"),)),
    (
        FEEDBACK_REFUSED,
        (
            (
                *("unknown_model", "no_dataset", "unknown_dataset", "unknown_class"),
                *("one_class", "several_classes", "unknown_image", "other_image"),
                *("conflict", "corrupt"),
            ),
        ),
    ),
    (SUGGESTIONS, (("predicted", "refused"),)),
    (SIGN_INS, (("succeeded", "failed", "throttled"),)),
)


def begin_at_zero() -> None:
    """Makes the series of rare events, so that the first event is an increase and not a beginning.

    Prometheus sees no increase from nothing to 1: an alert on the first failure would miss it.
    """
    for counter, values in _KNOWN:
        for labels in product(*values):
            counter.labels(*labels)
