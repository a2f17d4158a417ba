"""The inference service's metrics."""

from functools import partial

from visionloop.telemetry import metrics

_counter = partial(metrics.counter, "inference")
_gauge = partial(metrics.gauge, "inference")
_histogram = partial(metrics.histogram, "inference")

REQUEST_DURATION = _histogram(
    "visionloop_request_duration_seconds",
    "Time from a request's arrival to its answer, refused ones included; of a request of a stream "
    "that waited for room, from when it was let in.",
    ("model",),
)
STAGE_DURATION = _histogram(
    "visionloop_stage_duration_seconds",
    "Time of one stage: decode and preprocess per image, queue per request, infer per batch.",
    ("stage",),
)
BATCH_ROWS = _histogram(
    "visionloop_batch_rows",
    "Images per batch that ran, padding left out.",
    ("model",),
    buckets=metrics.ROW_BUCKETS,
)
BATCH_PADDING_ROWS = _counter(
    "visionloop_batch_padding_rows_total",
    "Rows that were made up to bring batches to a size that the GPU knows.",
    ("model",),
)
QUEUE_ROWS = _gauge(
    "visionloop_queue_rows",
    "Images or rows that were admitted and are not answered yet.",
    ("model",),
)
INFLIGHT_REQUESTS = _gauge(
    "visionloop_inflight_requests", "Requests that arrived and are not answered yet."
)
REJECTED = _counter(
    "visionloop_rejected_total",
    "Requests refused or dropped before they ran: queue_full, bytes, low_priority, late, expired, "
    "cancelled, concurrency (--max-concurrent-requests), draining. A request of a stream, which "
    "comes again until there is room, counts when it is given up.",
    ("reason",),
)
IMAGE_ERRORS = _counter(
    "visionloop_image_errors_total",
    "Images refused, by the reason of visionloop.images.Refusal.",
    ("reason",),
)
PREDICTIONS = _counter(
    "visionloop_predictions_total",
    "Answered images by best class, or by each class that they show; confidence is sure or "
    "not_sure.",
    ("model", "class", "confidence"),
)
MODEL_INFO = _gauge(
    "visionloop_model_info",
    "1 for the version that an alias serves now, 0 for one that it served before.",
    ("model", "version", "alias"),
)
MODEL_CREATED = _gauge(
    "visionloop_model_created_timestamp_seconds",
    "When the version that an alias serves was made, in seconds since 1970; 0 where it serves none "
    "any more.",
    ("model", "alias"),
)
MODEL_PENDING = _gauge(
    "visionloop_model_pending",
    "1 while an alias means a version that does not serve (yet, or because it was refused), else "
    "0.",
    ("model",),
)
MODEL_LOAD = _counter(
    "visionloop_model_load_total",
    "Attempts to load a version: loaded, or the state it ended in.",
    ("outcome",),
)
MODEL_SWAP = _counter(
    "visionloop_model_swap_total",
    "Attempts to serve another version: swapped, demoted, or the state it ended in.",
    ("result",),
)
SESSION_INFO = _gauge(
    "visionloop_session_info",
    "1 for the execution provider in use, beside the one that was asked for.",
    ("provider", "required_provider"),
)
STORE_ERRORS = _counter(
    "visionloop_store_errors_total",
    "Failed looks at the model repository; the version before keeps serving.",
    ("reason",),
)
FEEDBACK = _counter(
    "visionloop_feedback_total",
    "Feedback received: stored, repeated (there already), conflict (its id stands for other "
    "content), failed (the store is away).",
    ("outcome",),
)
RESTARTS = _counter(
    "visionloop_restarts_total",
    "Processes that ended when they should not have, and were started again: front_end, runner "
    "or decoder.",
    ("process",),
)
LAST_INFERENCE = _gauge(
    "visionloop_last_inference_timestamp_seconds",
    "When a version last answered, in seconds since 1970.",
    ("model", "version"),
)
FAILED_SECONDS = _counter(
    "visionloop_failed_request_seconds_total",
    "Time spent on requests that ended with an error.",
    ("model", "version"),
)

# Triton's names, for dashboards and autoscalers that know them. Durations are sums over requests;
# the stages of a batch count once for each request in it, as Triton counts them.
_VERSION = ("model", "version")
NV_SUCCESS = _counter("nv_inference_request_success", "Requests answered.", _VERSION)
NV_FAILURE = _counter(
    "nv_inference_request_failure",
    "Requests that failed: REJECTED, CANCELED, BACKEND or OTHER.",
    (*_VERSION, "reason"),
)
NV_ROWS = _counter("nv_inference_count", "Rows that ran in the graph.", _VERSION)
NV_RUNS = _counter("nv_inference_exec_count", "Runs of the graph, one for each batch.", _VERSION)
NV_PENDING = _gauge(
    "nv_inference_pending_request_count", "Requests that wait in a runner's queue.", _VERSION
)
NV_REQUEST_US = _counter(
    "nv_inference_request_duration_us", "Time from routing to the answer.", _VERSION
)
NV_QUEUE_US = _counter("nv_inference_queue_duration_us", "Time in a runner's queue.", _VERSION)
NV_INPUT_US = _counter(
    "nv_inference_compute_input_duration_us", "Time to put batches together.", _VERSION
)
NV_INFER_US = _counter(
    "nv_inference_compute_infer_duration_us", "Time in the graph itself.", _VERSION
)
NV_OUTPUT_US = _counter(
    "nv_inference_compute_output_duration_us", "Time to hand outputs out.", _VERSION
)


def begin_at_zero() -> None:
    """Makes the series of rare events, so that the first event is an increase and not a beginning.

    Prometheus sees no increase from nothing to 1: an alert on the first failure would miss it.
    """
    for outcome in ("stored", "repeated", "conflict", "failed"):
        FEEDBACK.labels(outcome=outcome)
    for process in ("front_end", "runner", "decoder"):
        RESTARTS.labels(process=process)
    for result in ("swapped", "demoted", "refused", "failed"):
        MODEL_SWAP.labels(result=result)
