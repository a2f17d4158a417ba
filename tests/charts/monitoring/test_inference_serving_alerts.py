"""Every alert of charts/inference/rules/serving.yaml fires when it should, and not otherwise."""

from pathlib import Path

import pytest
from support.alert_stories import AlertCase, Story, check, check_complete, series
from support.inference_series import JOB, ON_POD, answered, on_pod
from support.prometheus_rules import rule_group

pytestmark = pytest.mark.usefixtures("helm_program")
HPA = {"namespace": "vision", "horizontalpodautoscaler": "demo-inference"}
CURRENT = "kube_horizontalpodautoscaler_status_current_replicas"
MOST = "kube_horizontalpodautoscaler_spec_max_replicas"
REPLICAS, MOST_REPLICAS = series(CURRENT, **HPA), series(MOST, **HPA)
AVAILABLE = series(
    "kube_deployment_status_replicas_available", namespace="vision", deployment="demo-inference"
)


def stage(name: str, *within: int) -> dict[str, str]:
    """600 requests a minute: how many of them spend up to 0.1, 0.25 and 0.5 s in a stage."""
    return {
        on_pod("visionloop_stage_duration_seconds_bucket", stage=name, le=edge): f"0+{count}x40"
        for edge, count in zip(("0.1", "0.25", "0.5", "+Inf"), (*within, 600), strict=True)
    }


CASES = [
    AlertCase(
        "VisionloopInferenceDown",
        "critical",
        fires=[
            Story("all pods are away", {on_pod("up"): "1x5 0x30"}),
            Story("there is no pod", {series("up", job="another"): "1x30"}),
            Story(
                "all lost the store and start anew", {on_pod("up"): "1x40", AVAILABLE: "2x5 0x35"}
            ),
        ],
        quiet=[
            Story("nothing was ever promoted", {on_pod("up"): "1x40", AVAILABLE: "0x40"}),
            Story("one is ready", {on_pod("up"): "1x40", AVAILABLE: "2x5 1x35"}),
            Story("one of two is away", {on_pod("up"): "0x30", series("up", job=JOB): "1x30"}),
            Story("a scrape is lost", {on_pod("up"): "1x28 0 1x30"}),
        ],
    ),
    AlertCase(
        "VisionloopProcessesRestart",
        "warning",
        fires=[
            Story(
                "a runner crashes every five minutes",
                {on_pod("visionloop_restarts_total", process="runner"): "0x4 1x4 2x4 3x4 4x20"},
                at="20m",
                labels={**ON_POD, "process": "runner"},
            )
        ],
        quiet=[
            Story(
                "it crashed once",
                {on_pod("visionloop_restarts_total", process="runner"): "0x10 1x30"},
            )
        ],
    ),
    AlertCase(
        "VisionloopSaturated",
        "warning",
        fires=[
            Story(
                "nearly all requests wait longer than 0.25 s",
                stage("queue", 10, 20, 590),
                labels={"job": JOB},
            )
        ],
        quiet=[
            Story("most run at once", stage("queue", 590, 598, 600)),
            Story("decoding takes long, which is no queue", stage("decode", 10, 20, 590)),
        ],
    ),
    AlertCase(
        "VisionloopStoreUnreachable",
        "warning",
        fires=[
            Story(
                "every look fails",
                {on_pod("visionloop_store_errors_total", reason="unavailable"): "0x5 0+12x40"},
                labels=ON_POD,
            )
        ],
        quiet=[
            Story(
                "the store restarts for a minute",
                {on_pod("visionloop_store_errors_total", reason="unavailable"): "0x5 4x40"},
            )
        ],
    ),
    AlertCase(
        "VisionloopFeedbackLost",
        "warning",
        fires=[
            Story(
                "the store is away when a correction comes",
                {on_pod("visionloop_feedback_total", outcome="failed"): "0x5 1x20"},
                at="14m",
                labels={"job": JOB},
            )
        ],
        quiet=[
            Story(
                "corrections are stored, and one was repeated",
                {
                    on_pod("visionloop_feedback_total", outcome="stored"): "0+5x30",
                    on_pod("visionloop_feedback_total", outcome="repeated"): "0x5 1x30",
                    on_pod("visionloop_feedback_total", outcome="failed"): "0x30",
                },
            )
        ],
    ),
    AlertCase(
        "VisionloopImagesRefused",
        "info",
        fires=[
            Story(
                "a third of the images is broken",
                {
                    on_pod("visionloop_image_errors_total", reason="truncated"): "0+30x90",
                    answered("good"): "0+60x90",
                },
                at="60m",
                labels={"job": JOB},
            ),
            Story(
                "all are broken, so nothing was ever answered",
                {on_pod("visionloop_image_errors_total", reason="truncated"): "0+30x90"},
                at="60m",
                labels={"job": JOB},
            ),
        ],
        quiet=[
            Story(
                "one of a hundred is broken",
                {
                    on_pod("visionloop_image_errors_total", reason="truncated"): "0+1x90",
                    answered("good"): "0+99x90",
                },
                at="60m",
            )
        ],
    ),
    AlertCase(
        "VisionloopAtMaxReplicas",
        "warning",
        fires=[
            Story(
                "the autoscaler has given all it may",
                {REPLICAS: "4x5 12x30", MOST_REPLICAS: "12x40"},
                labels=HPA,
            ),
            Story(
                "kube-state-metrics has two replicas",
                {
                    series(name, **HPA, instance=instance): "12x40"
                    for name in (CURRENT, MOST)
                    for instance in ("a", "b")
                },
                labels=HPA,
            ),
        ],
        quiet=[
            Story("there is room", {REPLICAS: "11x40", MOST_REPLICAS: "12x40"}),
        ],
    ),
]


def test_they_fire_and_keep_quiet(tmp_path: Path) -> None:
    check(CASES, rule_group("inference", "serving"), tmp_path)


def test_every_alert_has_stories() -> None:
    check_complete(CASES, rule_group("inference", "serving"))
