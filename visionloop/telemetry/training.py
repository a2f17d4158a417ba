"""The training job's metrics. They live as long as the job's pod; what must outlive it is exported
by labeling-ingest from the store."""

from functools import partial

from visionloop.telemetry import metrics

_gauge = partial(metrics.gauge, "training")

EPOCH = _gauge("visionloop_training_epoch", "The epoch that runs now, counted from 1.")
LOSS = _gauge("visionloop_training_loss", "Mean loss of the newest epoch.", ("split",))
IMAGES_PER_SECOND = _gauge(
    "visionloop_training_images_per_second", "Training throughput of the newest epoch."
)
STAGE_INFO = _gauge(
    "visionloop_training_stage_info",
    "1 for the stage that runs now (snapshot, fit, calibrate, export, parity, evaluate, gate, "
    "publish), 0 for the others.",
    ("stage",),
)
