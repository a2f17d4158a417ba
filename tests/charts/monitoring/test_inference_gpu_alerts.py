"""Every alert of charts/inference/rules/gpu.yaml fires when it should, and not otherwise."""

from pathlib import Path

import pytest
from support.alert_stories import AlertCase, Story, check, check_complete, series
from support.inference_series import ON_POD, POD, on_pod
from support.prometheus_rules import alerts, rule_group, rule_groups

pytestmark = pytest.mark.usefixtures("helm_program")
DEVICE = {"gpu": "0", "Hostname": "node-1"}
GPU = {**DEVICE, "namespace": "vision", "pod": POD}
EXPORTED = {**DEVICE, "exported_namespace": "vision", "exported_pod": POD}  # no honorLabels
XID, USED, FREE = "DCGM_FI_DEV_XID_ERRORS", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE"
SESSION = "visionloop_session_info"
CASES = [
    AlertCase(
        "VisionloopInferenceOnCPU",
        "critical",
        fires=[
            Story(
                "a pod was started with --provider cpu",
                {on_pod(SESSION, provider="cpu", required_provider="cpu"): "1x30"},
                labels=ON_POD,
            )
        ],
        quiet=[
            Story(
                "it runs on CUDA",
                {on_pod(SESSION, provider="cuda", required_provider="cuda"): "1x30"},
            )
        ],
    ),
    AlertCase(
        "VisionloopGpuErrors",
        "warning",
        fires=[
            Story(
                "the GPU fell off the bus",
                {series(XID, **GPU): "0x10 79x30"},
                labels=GPU,
            ),
            Story(
                "the exporter is scraped without honorLabels",
                {series(XID, **EXPORTED): "0x10 79x30"},
                labels=EXPORTED,
            ),
        ],
        quiet=[
            Story("no error", {series(XID, **GPU): "0x40"}),
            Story(
                "somebody else's GPU",
                {series(XID, gpu="0", namespace="vision", pod="other-1"): "79x40"},
            ),
        ],
    ),
    AlertCase(
        "VisionloopGpuMemoryFull",
        "warning",
        fires=[
            Story(
                "two versions hardly fit",
                {series(USED, **GPU): "39000x40", series(FREE, **GPU): "1000x40"},
                labels=GPU,
            )
        ],
        quiet=[
            Story(
                "half of it is free",
                {series(USED, **GPU): "20000x40", series(FREE, **GPU): "20000x40"},
            )
        ],
    ),
]


def test_they_fire_and_keep_quiet(tmp_path: Path) -> None:
    check(CASES, rule_group("inference", "gpu"), tmp_path)


def test_every_alert_has_stories() -> None:
    check_complete(CASES, rule_group("inference", "gpu"))


def test_no_gpu_and_no_autoscaler_have_no_alerts() -> None:
    groups = rule_groups("inference", **{"gpu.mode": "none", "autoscaling.mode": "off"})
    names = {rule["alert"] for rule in alerts(groups)}
    assert names.isdisjoint({case.alert for case in CASES} | {"VisionloopAtMaxReplicas"})
    assert "VisionloopModelPending" in names
