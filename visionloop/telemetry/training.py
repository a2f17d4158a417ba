"""The training job's metrics, served while it runs (`--metrics-port`). They live as long as the
job's pod; what must outlive it is exported by labeling-ingest from the store."""

from functools import partial

from visionloop.telemetry import metrics

_gauge = partial(metrics.gauge, "training")

EPOCH = _gauge("visionloop_training_epoch", "The epoch that runs now, counted from 1.")
STEP = _gauge("visionloop_training_step", "Optimiser steps since the run began, its resumes too.")
LAST_STEP_TIMESTAMP = _gauge(
    "visionloop_training_last_step_timestamp_seconds",
    "When the newest optimiser step ended, in seconds since 1970; 0 before the first.",
)
LOSS = _gauge("visionloop_training_loss", "Mean loss of the newest epoch.", ("split",))
IMAGES_PER_SECOND = _gauge(
    "visionloop_training_images_per_second", "Training throughput of the newest epoch."
)
LOADER_WAIT_RATIO = _gauge(
    "visionloop_training_loader_wait_ratio",
    "Share of the newest epoch's time in which the device waited for images, 0 to 1.",
)
STAGE_INFO = _gauge(
    "visionloop_training_stage_info",
    "1 for the stage that runs now (snapshot, preflight, search, backbone, fit, calibrate, export, "
    "familiarity, parity, evaluate, gate, publish), 0 for the others.",
    ("stage",),
)
