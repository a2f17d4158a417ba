"""Is the hardware used well?"""

from charts.grafana.panels import (
    DCGM,
    Dashboard,
    J,
    highest,
    panel,
    per_second,
    quantiles,
)

BATCHING_GPU = Dashboard(
    "batching-gpu",
    "inference",
    "Visionloop / Batching and GPU",
    "visionloop_inflight_requests",
    (
        (
            "Batching",
            (
                panel(
                    "Rows in a batch",
                    *quantiles("visionloop_batch_rows"),
                    text="Batches grow while the device is busy; a lone request never waits.",
                ),
                panel(
                    "Rows that ran",
                    (per_second("nv_inference_count", "model"), "{{model}}"),
                    unit="cps",
                ),
                panel(
                    "Rows for each run of the graph",
                    (
                        per_second("nv_inference_count", "model")
                        + " / "
                        + per_second("nv_inference_exec_count", "model"),
                        "{{model}}",
                    ),
                ),
                panel(
                    "Rows that wait or run",
                    (f"sum by (pod, model) (visionloop_queue_rows{{{J}}})", "{{model}} {{pod}}"),
                ),
                panel(
                    "Time of a request by stage (mean)",
                    *(
                        (
                            per_second(f"nv_inference_{stage}_duration_us", "job")
                            + " / "
                            + per_second("nv_inference_request_success", "job")
                            + " / 1e6",
                            legend,
                        )
                        for stage, legend in (
                            ("queue", "queue"),
                            ("compute_input", "put together"),
                            ("compute_infer", "graph"),
                            ("compute_output", "hand out"),
                        )
                    ),
                    unit="s",
                ),
                panel(
                    "Execution provider",
                    (
                        highest("visionloop_session_info", "pod, provider"),
                        "{{provider}} {{pod}}",
                    ),
                    kind="stat",
                ),
            ),
        ),
        (
            "GPU",
            (
                panel(
                    "GPU in use",
                    ("DCGM_FI_DEV_GPU_UTIL", "{{Hostname}} {{gpu}}"),
                    unit="percent",
                    text="100 % says that something runs, not that it is full: look at the queue.",
                    needs=DCGM,
                ),
                panel(
                    "GPU memory",
                    (
                        "DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE)",
                        "{{Hostname}} {{gpu}}",
                    ),
                    unit="percentunit",
                    needs=DCGM,
                ),
                panel(
                    "Last XID error",
                    ("DCGM_FI_DEV_XID_ERRORS", "{{Hostname}} {{gpu}}"),
                    needs=DCGM,
                ),
            ),
        ),
    ),
)
