"""How training ended, and how the run of now goes."""

from charts.grafana.panels import (
    KUBE,
    Dashboard,
    M,
    highest,
    panel,
)

# Of a cluster's many jobs.
JOBS = 'job_name=~".+-(training|backup)-.+"'
CRONJOBS = 'cronjob=~".+-(training|backup)"'

TRAINING_RUNS = Dashboard(
    "training-runs",
    "training",
    "Visionloop / Training runs",
    "visionloop_published_version",
    (
        (
            "Outcomes (labeling-ingest tells them from the store)",
            (
                panel(
                    "Newest and stable version",
                    (highest("visionloop_published_version", "model", M), "{{model}} newest"),
                    (highest("visionloop_promoted_version", "model", M), "{{model}} stable"),
                ),
                panel(
                    "Refused by the gate, one after the other",
                    (highest("visionloop_gate_refused_in_a_row", "model", M), "{{model}}"),
                    kind="stat",
                ),
                panel(
                    "Since the newest version was made",
                    (
                        f"time() - max by (model) (visionloop_published_timestamp_seconds{{{M}}})",
                        "{{model}}",
                    ),
                    unit="s",
                    kind="stat",
                ),
                panel(
                    "Accuracy on test",
                    (
                        highest(
                            "visionloop_version_metric", "model, alias", f'{M},metric="accuracy"'
                        ),
                        "{{model}} {{alias}}",
                    ),
                    unit="percentunit",
                    text="Newest and stable were judged on their own test images; the gate's "
                    "verdict compares them on the same.",
                ),
                panel(
                    "What the bundles say",
                    (
                        highest("visionloop_version_metric", "model, alias, metric", M),
                        "{{model}} {{alias}} {{metric}}",
                    ),
                    kind="table",
                ),
                panel(
                    "Since stable was moved",
                    (
                        f"time() - max by (model) (visionloop_promoted_timestamp_seconds{{{M}}})",
                        "{{model}}",
                    ),
                    unit="s",
                    kind="stat",
                ),
            ),
        ),
        (
            "The run that goes on now",
            (
                panel(
                    "Stage",
                    ("max by (job, stage) (visionloop_training_stage_info) == 1", "{{stage}}"),
                    kind="state-timeline",
                ),
                panel(
                    "Loss",
                    ("max by (job, split) (visionloop_training_loss)", "{{split}}"),
                ),
                panel(
                    "Images per second",
                    ("sum by (job) (visionloop_training_images_per_second)", "{{job}}"),
                ),
                panel(
                    "Steps",
                    ("max by (job) (visionloop_training_step)", "step"),
                    ("max by (job) (visionloop_training_epoch)", "epoch"),
                ),
                panel(
                    "Waiting for images",
                    ("max by (job) (visionloop_training_loader_wait_ratio)", "{{job}}"),
                    unit="percentunit",
                    text="Near 1: the store or decoding is too slow for the GPUs.",
                ),
            ),
        ),
        (
            "Jobs",
            (
                panel(
                    "Failed jobs",
                    (f'kube_job_failed{{condition="true",{JOBS}}} == 1', "{{job_name}}"),
                    text="Of training and backups, by the names that the charts give.",
                    needs=KUBE,
                ),
                panel(
                    "Since the last run that ended well",
                    (
                        f"time() - kube_cronjob_status_last_successful_time{{{CRONJOBS}}}",
                        "{{cronjob}}",
                    ),
                    unit="s",
                    kind="stat",
                    needs=KUBE,
                ),
            ),
        ),
    ),
    variables=(("model", "visionloop_published_version"),),
)
