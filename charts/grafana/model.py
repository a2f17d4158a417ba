"""Which version serves, and does it still fit what it sees?"""

from charts.grafana.panels import (
    Dashboard,
    M,
    highest,
    in_an_hour,
    panel,
    per_second,
)

MODEL = Dashboard(
    "model",
    "inference",
    "Visionloop / Model",
    "visionloop_model_info",
    (
        (
            "Versions",
            (
                panel(
                    "Version that serves",
                    (
                        f"max by (model, version, alias) (visionloop_model_info{{{M}}} == 1)",
                        "{{model}} {{version}} ({{alias}})",
                    ),
                    kind="state-timeline",
                    width=16,
                ),
                panel(
                    "Age of stable",
                    (
                        f"time() - max by (model) (visionloop_model_created_timestamp_seconds"
                        f'{{{M},alias="stable"}} > 0)',
                        "{{model}}",
                    ),
                    unit="s",
                    kind="stat",
                ),
                panel(
                    "Promotions that did not take effect",
                    (highest("visionloop_model_pending", "model, pod", M), "{{model}} {{pod}}"),
                    text="1: an alias means a version that this pod does not serve.",
                ),
                panel(
                    "Swaps",
                    (
                        in_an_hour("visionloop_model_swap_total", "result"),
                        "{{result}}",
                    ),
                ),
                panel(
                    "Loads",
                    (
                        in_an_hour("visionloop_model_load_total", "outcome"),
                        "{{outcome}}",
                    ),
                ),
            ),
        ),
        (
            "Answers",
            (
                panel(
                    "Answers by class",
                    (
                        per_second("visionloop_predictions_total", "class", M),
                        "{{class}}",
                    ),
                    unit="cps",
                ),
                panel(
                    "Not sure",
                    (f"visionloop:predictions_not_sure:ratio_6h{{{M}}}", "{{model}} 6 h"),
                    (f"visionloop:predictions_not_sure:ratio_1w{{{M}}}", "{{model}} week"),
                    unit="percentunit",
                    text="Answers below the model's own threshold.",
                ),
                panel(
                    "Drift (PSI, 6 h against a week)",
                    (f"visionloop:predictions:psi_6h_1w{{{M}}}", "{{model}}"),
                    text="Below 0.1 nothing happened, above 0.25 it is another population.",
                ),
                panel(
                    "Share of each class, 6 h",
                    (f"visionloop:predictions:share_6h{{{M}}}", "{{class}}"),
                    unit="percentunit",
                ),
                panel(
                    "Refused images",
                    (
                        per_second("visionloop_image_errors_total", "reason"),
                        "{{reason}}",
                    ),
                    unit="cps",
                ),
                panel(
                    "Requests by version",
                    (
                        per_second("nv_inference_request_success", "model, version", M),
                        "{{model}} {{version}}",
                    ),
                    unit="reqps",
                    text="The canary's share shows here.",
                ),
            ),
        ),
    ),
    variables=(("model", "visionloop_model_info"),),
)
