"""From an image to a label in a snapshot, and what comes back from the model."""

from charts.grafana.panels import (
    Dashboard,
    J,
    highest,
    in_an_hour,
    panel,
    per_second,
    quantiles,
)

D = f'{J},dataset=~"$dataset"'
OF_A_CLASS = highest("visionloop_snapshot_images", "dataset, split, class", D)


def per_week(where: str) -> str:
    """First labels by people on images with a suggestion."""
    counted = f"increase(visionloop_suggestion_agreement_total{{{where}}}[1w])"
    return f"sum by (model, shown) ({counted})"


LABELLING_FUNNEL = Dashboard(
    "labelling-funnel",
    "labeling-ingest",
    "Visionloop / Labelling funnel",
    "visionloop_queue_images",
    (
        (
            "From image to snapshot",
            (
                panel(
                    "Images that came",
                    (
                        in_an_hour("visionloop_ingest_images_total", "outcome"),
                        "{{outcome}}",
                    ),
                ),
                panel(
                    "The way that images came",
                    (in_an_hour("visionloop_ingest_images_total", "way"), "{{way}}"),
                ),
                panel(
                    "Duplicates",
                    (in_an_hour("visionloop_duplicates_total", "kind"), "{{kind}}"),
                    text="Images that their dataset had before: exact (the same bytes), pixels "
                    "(another file of the same picture), near (alike).",
                ),
                panel(
                    "Images by their place in the work",
                    (
                        highest("visionloop_queue_images", "dataset, state", D),
                        "{{dataset}} {{state}}",
                    ),
                ),
                panel(
                    "Oldest image without a label",
                    (highest("visionloop_queue_oldest_seconds", "dataset", D), "{{dataset}}"),
                    unit="s",
                    kind="stat",
                ),
                panel(
                    "Labels by who spoke",
                    (
                        in_an_hour(
                            "visionloop_label_events_total", "author_kind", f'{J},kind="label"'
                        ),
                        "{{author_kind}}",
                    ),
                ),
                panel(
                    "What people say",
                    (
                        in_an_hour(
                            "visionloop_label_events_total", "kind", f'{J},author_kind="human"'
                        ),
                        "{{kind}}",
                    ),
                ),
                panel(
                    "Labels since the latest snapshot",
                    (highest("visionloop_labels_since_snapshot", "dataset", D), "{{dataset}}"),
                ),
                panel(
                    "Age of the latest snapshot",
                    (highest("visionloop_snapshot_age_seconds", "dataset", D), "{{dataset}}"),
                    unit="s",
                    kind="stat",
                ),
            ),
        ),
        (
            "What is in the datasets",
            (
                panel(
                    "Images by split",
                    (
                        highest("visionloop_dataset_images", "dataset, split", D),
                        "{{dataset}} {{split}}",
                    ),
                ),
                panel(
                    "Latest snapshot: classes by split",
                    (
                        f"sum by (dataset, split) ({OF_A_CLASS})",
                        "{{dataset}} {{split}}",
                    ),
                    text="An image that shows several classes counts for each.",
                ),
                panel(
                    "Latest snapshot: largest classes",
                    (f"topk(10, sum by (dataset, class) ({OF_A_CLASS}))", "{{dataset}} {{class}}"),
                ),
                panel(
                    "Latest snapshot: pairs across splits",
                    (
                        highest("visionloop_snapshot_leak_pairs", "dataset, joined_by", D),
                        "{{dataset}} {{joined_by}}",
                    ),
                    text="Images that show the same and stood in different splits; the snapshot "
                    "left out one of each pair.",
                ),
                panel(
                    "Largest class for one of the smallest",
                    (highest("visionloop_class_imbalance_ratio", "dataset", D), "{{dataset}}"),
                ),
                panel(
                    "Images that are remarked on",
                    (highest("visionloop_quality_flags", "flag", D), "{{flag}}"),
                ),
            ),
        ),
        (
            "What comes back from the model",
            (
                panel(
                    "From a label to its model",
                    (highest("visionloop_label_to_serving_seconds", "model"), "{{model}}"),
                    unit="s",
                    text="From the middle one of the labels that were new to the stable version "
                    "until it became stable.",
                ),
                panel(
                    "Feedback",
                    (
                        in_an_hour("visionloop_feedback_drained_total", "outcome"),
                        "{{outcome}}",
                    ),
                ),
                panel(
                    "From a correction to its label (p90)",
                    (
                        "histogram_quantile(0.9, "
                        + in_an_hour("visionloop_feedback_lag_seconds_bucket", "le")
                        + ")",
                        "p90",
                    ),
                    unit="s",
                ),
                panel(
                    "Suggestions that people saw",
                    (in_an_hour("visionloop_suggestion_outcomes_total", "outcome"), "{{outcome}}"),
                ),
                panel(
                    "People agree with the model (a week)",
                    (
                        per_week(f'{J},agreed="yes"') + " / " + per_week(J),
                        "{{model}}, suggestion shown: {{shown}}",
                    ),
                    unit="percentunit",
                    text="Not shown: the blind sample, so the model's precision as people would "
                    "have it. Shown and far above it: people follow the model.",
                ),
                panel(
                    "Images shown for suggestions",
                    (
                        in_an_hour("visionloop_suggestions_total", "outcome"),
                        "{{outcome}}",
                    ),
                ),
            ),
        ),
        (
            "The service",
            (
                panel(
                    "HTTP requests by status",
                    (
                        per_second("visionloop_http_requests_total", "status"),
                        "{{status}}",
                    ),
                    unit="reqps",
                ),
                panel(
                    "RPCs by code",
                    (
                        per_second("grpc_server_handled_total", "grpc_code"),
                        "{{grpc_code}}",
                    ),
                    unit="reqps",
                ),
                panel(
                    "Until an image is durable",
                    *quantiles("visionloop_ingest_seconds"),
                    unit="s",
                ),
                panel(
                    "Work in the background",
                    (
                        per_second("visionloop_background_runs_total", "loop, outcome"),
                        "{{loop}} {{outcome}}",
                    ),
                    unit="cps",
                ),
                panel(
                    "Database connections",
                    (
                        highest("visionloop_database_connections", "pod, state"),
                        "{{state}} {{pod}}",
                    ),
                ),
                panel(
                    "Images that the store has lost",
                    (f"max(visionloop_missing_images{{{J}}})", "missing"),
                    kind="stat",
                ),
            ),
        ),
    ),
    variables=(("dataset", "visionloop_queue_images"),),
)
