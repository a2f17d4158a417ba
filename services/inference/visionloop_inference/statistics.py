"""The counters of ModelStatistics, read from the metrics that Prometheus reads too."""

from typing import Any

from visionloop.telemetry import inference as metrics
from visionloop.telemetry.metrics import Counter, Gauge, values

Labels = tuple[str, ...]


def statistics(model: str, version: str) -> list[dict[str, Any]]:
    """One entry for each version that was asked anything; "" for all models, or all versions."""
    found = values()
    wanted = sorted(
        {
            labels[:2]
            for metric in (metrics.NV_ROWS, metrics.NV_SUCCESS, metrics.NV_FAILURE)
            for labels in found[metric.metric.name]
            if model in ("", labels[0]) and version in ("", labels[1])
        }
    )
    return [_entry(found, name, number) for name, number in wanted]


def _entry(found: dict[str, dict[Labels, list[float]]], name: str, number: str) -> dict[str, Any]:
    def total(metric: Counter | Gauge) -> float:
        series = found[metric.metric.name]
        return sum(n[0] for labels, n in series.items() if labels[:2] == (name, number))

    requests = int(total(metrics.NV_SUCCESS))
    runs = int(total(metrics.NV_RUNS))

    def timed(count: int, metric: Counter) -> dict[str, int]:
        return {"count": count, "ns": int(1000 * total(metric))}

    return {
        "name": name,
        "version": number,
        "last_inference_ms": int(total(metrics.LAST_INFERENCE) * 1000),
        "inference_count": int(total(metrics.NV_ROWS)),
        "execution_count": runs,
        "stats": {
            "success": timed(requests, metrics.NV_REQUEST_US),
            "fail": {
                "count": int(total(metrics.NV_FAILURE)),
                "ns": int(1e9 * total(metrics.FAILED_SECONDS)),
            },
            "queue": timed(requests, metrics.NV_QUEUE_US),
            "compute_input": timed(requests, metrics.NV_INPUT_US),
            "compute_infer": timed(requests, metrics.NV_INFER_US),
            "compute_output": timed(requests, metrics.NV_OUTPUT_US),
        },
    }
