"""Is the service as good as it should be, and what does it stand on?"""

from charts.grafana.panels import (
    KUBE,
    RATE,
    Dashboard,
    J,
    in_an_hour,
    panel,
    per_second,
    quantile,
    quantiles,
)

WORK = f'{J},grpc_method=~"Recognize|ModelInfer|SubmitFeedback"'
OURS = 'horizontalpodautoscaler=~".+-inference"'  # a cluster has many others

SERVICE_SLO = Dashboard(
    "service-slo",
    "inference",
    "Visionloop / Service SLO",
    "visionloop_inflight_requests",
    (
        (
            "Objectives",
            (
                panel(
                    "Failed requests",
                    ('visionloop:slo_errors:ratio_rate5m{job=~"$job",slo="availability"}', "5 m"),
                    ('visionloop:slo_errors:ratio_rate1h{job=~"$job",slo="availability"}', "1 h"),
                    ('visionloop:slo_errors:ratio_rate6h{job=~"$job",slo="availability"}', "6 h"),
                    unit="percentunit",
                    text="By the service's fault. Alerts compare these with slo.availability.",
                ),
                panel(
                    "Late answers",
                    ('visionloop:slo_errors:ratio_rate5m{job=~"$job",slo="latency"}', "5 m"),
                    ('visionloop:slo_errors:ratio_rate1h{job=~"$job",slo="latency"}', "1 h"),
                    ('visionloop:slo_errors:ratio_rate6h{job=~"$job",slo="latency"}', "6 h"),
                    unit="percentunit",
                    text="Slower than slo.latency.thresholdSeconds.",
                ),
                panel("Replicas that can be scraped", (f"sum(up{{{J}}})", "pods"), kind="stat"),
            ),
        ),
        (
            "Requests",
            (
                panel(
                    "Requests",
                    (
                        f"sum by (grpc_method) (rate(grpc_server_handled_total{{{WORK}}}{RATE}))",
                        "{{grpc_method}}",
                    ),
                    unit="reqps",
                ),
                panel(
                    "Errors by code",
                    (
                        per_second(
                            "grpc_server_handled_total", "grpc_code", f'{WORK},grpc_code!="OK"'
                        ),
                        "{{grpc_code}}",
                    ),
                    unit="reqps",
                    text="InvalidArgument and NotFound are the callers', the others the service's.",
                ),
                panel(
                    "Time of a request",
                    *quantiles("visionloop_request_duration_seconds"),
                    unit="s",
                ),
                panel(
                    "Time by stage (p95)",
                    (
                        quantile(0.95, "visionloop_stage_duration_seconds", by="stage"),
                        "{{stage}}",
                    ),
                    unit="s",
                    text="queue: too little capacity. decode: large pictures. infer: the graph.",
                ),
                panel(
                    "Requests under way",
                    (f"sum by (pod) (visionloop_inflight_requests{{{J}}})", "{{pod}}"),
                    text="What the autoscaler goes by.",
                ),
                panel(
                    "Refused before they ran",
                    (
                        per_second("visionloop_rejected_total", "reason"),
                        "{{reason}}",
                    ),
                    unit="reqps",
                ),
            ),
        ),
        (
            "What it stands on",
            (
                panel(
                    "Processes that ended by themselves",
                    (
                        in_an_hour("visionloop_restarts_total", "pod, process"),
                        "{{process}} {{pod}}",
                    ),
                ),
                panel(
                    "Failed looks at the store",
                    (
                        in_an_hour("visionloop_store_errors_total", "job")
                        + f" or 0 * sum by (job) (up{{{J}}})",
                        "{{job}}",
                    ),
                ),
                panel(
                    "Feedback",
                    (
                        in_an_hour("visionloop_feedback_total", "outcome"),
                        "{{outcome}}",
                    ),
                ),
                panel(
                    "Memory",
                    (f"process_resident_memory_bytes{{{J}}}", "{{pod}} supervisor"),
                    unit="bytes",
                ),
                panel(
                    "Replicas and their limit",
                    (
                        f"kube_horizontalpodautoscaler_status_current_replicas{{{OURS}}}",
                        "{{horizontalpodautoscaler}}",
                    ),
                    (f"kube_horizontalpodautoscaler_spec_max_replicas{{{OURS}}}", "limit"),
                    text="Of objects whose names end as the chart names them.",
                    needs=KUBE,
                ),
            ),
        ),
    ),
)
