"""Every alert of charts/inference fires when it should, and not when it should not."""

from pathlib import Path

import pytest
from support.alert_stories import AlertCase, Story, check, check_complete
from support.prometheus_rules import alerts, job, rule_groups

pytestmark = pytest.mark.usefixtures("helm_program")
JOB = job("inference")
POD = "demo-inference-7d9c-abcde"
ON_POD = f'job="{JOB}",pod="{POD}"'
HPA = 'namespace="vision",horizontalpodautoscaler="demo-inference"'
RECOGNIZE = (
    f'{ON_POD},grpc_type="unary",grpc_service="visionloop.v1.Recognition",grpc_method="Recognize"'
)


def handled(code: str) -> str:
    return f'grpc_server_handled_total{{{RECOGNIZE},grpc_code="{code}"}}'


def timed(fast: str, all_: str) -> dict[str, str]:
    """Requests within 0.25 s, and all."""
    return {
        f'grpc_server_handling_seconds_bucket{{{RECOGNIZE},le="0.25"}}': fast,
        f"grpc_server_handling_seconds_count{{{RECOGNIZE}}}": all_,
    }


def answered(name: str, confidence: str = "sure", model: str = "cells") -> str:
    labels = f'{ON_POD},model="{model}",class="{name}",confidence="{confidence}"'
    return f"visionloop_predictions_total{{{labels}}}"


def dcgm(metric: str, prefix: str = "") -> str:
    where = f'{prefix}namespace="vision",{prefix}pod="{POD}"'
    return f'{metric}{{gpu="0",Hostname="node-1",{where}}}'


# Out of 600 requests a minute. The budget of availability (99.9 %) is 0.6 of them, of latency 6.
BUDGETS = [
    # window, severity, steps, at, errors a step of 1 m (or 10 m: 6000 requests)
    ("1h", "critical", "1m", "60m", 12),
    ("6h", "critical", "1m", "60m", 5),
    ("1d", "warning", "10m", "10h", 22),
    ("3d", "warning", "10m", "10h", 9),
]


def budget_cases(window: str, severity: str, step: str, at: str, errors: int) -> list[AlertCase]:
    all_ = 600 if step == "1m" else 6000
    fired = {"job": JOB, "slo": "availability"}
    chosen = {"window": window}
    # Ten times as many for a third of the time; the short window is clean again.
    recovered = f"0+{errors * 10}x20 {errors * 200}x40"
    return [
        AlertCase(
            "VisionloopAvailabilityBudgetBurn",
            severity,
            chosen=chosen,
            fires=[
                Story(
                    "the service fails requests all the time",
                    {handled("OK"): f"0+{all_}x60", handled("Internal"): f"0+{errors}x60"},
                    at=at,
                    labels=fired,
                    interval=step,
                )
            ],
            quiet=[
                Story(
                    "callers ask for what is not there, at the same rate",
                    {handled("OK"): f"0+{all_}x60", handled("NotFound"): f"0+{all_}x60"},
                    at=at,
                    interval=step,
                ),
                Story(
                    "it failed, but does not any more",
                    {handled("OK"): f"0+{all_}x60", handled("Internal"): recovered},
                    at=at,
                    interval=step,
                ),
                Story(
                    "one call at night, and it fails",
                    {handled("Internal"): "0x5 1x60"},
                    at="6m" if step == "1m" else "60m",
                    interval=step,
                ),
            ],
        ),
        AlertCase(
            "VisionloopLatencyBudgetBurn",
            severity,
            chosen=chosen,
            fires=[
                Story(
                    "answers come late all the time",
                    timed(f"0+{all_ - 10 * errors}x60", f"0+{all_}x60"),
                    at=at,
                    labels={**fired, "slo": "latency"},
                    interval=step,
                )
            ],
            quiet=[
                Story(
                    "one of a thousand comes late",
                    timed(f"0+{all_ * 999 // 1000}x60", f"0+{all_}x60"),
                    at=at,
                    interval=step,
                )
            ],
        ),
    ]


BUDGET_CASES = [case for row in BUDGETS for case in budget_cases(*row)]

SERVING_CASES = [
    AlertCase(
        "VisionloopInferenceDown",
        "critical",
        fires=[
            Story("all pods are away", {f"up{{{ON_POD}}}": "1x5 0x30"}),
            Story("there is no pod", {'up{job="another"}': "1x30"}),
        ],
        quiet=[
            Story("one of two is away", {f"up{{{ON_POD}}}": "0x30", f'up{{job="{JOB}"}}': "1x30"}),
            Story("a scrape is lost", {f"up{{{ON_POD}}}": "1x28 0 1x30"}),
        ],
    ),
    AlertCase(
        "VisionloopProcessesRestart",
        "warning",
        fires=[
            Story(
                "a runner crashes every five minutes",
                {f'visionloop_restarts_total{{{ON_POD},process="runner"}}': "0x4 1x4 2x4 3x4 4x20"},
                at="20m",
                labels={"job": JOB, "pod": POD, "process": "runner"},
            )
        ],
        quiet=[
            Story(
                "it crashed once",
                {f'visionloop_restarts_total{{{ON_POD},process="runner"}}': "0x10 1x30"},
            )
        ],
    ),
    AlertCase(
        "VisionloopSaturated",
        "warning",
        fires=[
            Story(
                "nearly all requests wait longer than 0.25 s",
                {
                    f'visionloop_stage_duration_seconds_bucket{{{ON_POD},stage="queue",le="{le}"}}': f"0+{n}x40"  # noqa: E501
                    for le, n in (("0.1", 10), ("0.25", 20), ("0.5", 590), ("+Inf", 600))
                },
                labels={"job": JOB},
            )
        ],
        quiet=[
            Story(
                "most run at once",
                {
                    f'visionloop_stage_duration_seconds_bucket{{{ON_POD},stage="queue",le="{le}"}}': f"0+{n}x40"  # noqa: E501
                    for le, n in (("0.1", 590), ("0.25", 598), ("0.5", 600), ("+Inf", 600))
                },
            ),
            Story(
                "decoding takes long, which is no queue",
                {
                    f'visionloop_stage_duration_seconds_bucket{{{ON_POD},stage="decode",le="{le}"}}': f"0+{n}x40"  # noqa: E501
                    for le, n in (("0.1", 10), ("0.25", 20), ("0.5", 590), ("+Inf", 600))
                },
            ),
        ],
    ),
    AlertCase(
        "VisionloopStoreUnreachable",
        "warning",
        fires=[
            Story(
                "every look fails",
                {f'visionloop_store_errors_total{{{ON_POD},reason="unavailable"}}': "0x5 0+12x40"},
                labels={"job": JOB, "pod": POD},
            )
        ],
        quiet=[
            Story(
                "the store restarts for a minute",
                {f'visionloop_store_errors_total{{{ON_POD},reason="unavailable"}}': "0x5 4x40"},
            )
        ],
    ),
    AlertCase(
        "VisionloopFeedbackLost",
        "warning",
        fires=[
            Story(
                "the store is away when a correction comes",
                {f'visionloop_feedback_total{{{ON_POD},outcome="failed"}}': "0x5 1x20"},
                at="14m",
                labels={"job": JOB},
            )
        ],
        quiet=[
            Story(
                "corrections are stored, and one was repeated",
                {
                    f'visionloop_feedback_total{{{ON_POD},outcome="stored"}}': "0+5x30",
                    f'visionloop_feedback_total{{{ON_POD},outcome="repeated"}}': "0x5 1x30",
                    f'visionloop_feedback_total{{{ON_POD},outcome="failed"}}': "0x30",
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
                    f'visionloop_image_errors_total{{{ON_POD},reason="truncated"}}': "0+30x90",
                    answered("good"): "0+60x90",
                },
                at="60m",
                labels={"job": JOB},
            ),
            Story(
                "all are broken, so nothing was ever answered",
                {f'visionloop_image_errors_total{{{ON_POD},reason="truncated"}}': "0+30x90"},
                at="60m",
                labels={"job": JOB},
            ),
        ],
        quiet=[
            Story(
                "one of a hundred is broken",
                {
                    f'visionloop_image_errors_total{{{ON_POD},reason="truncated"}}': "0+1x90",
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
                {
                    f"kube_horizontalpodautoscaler_status_current_replicas{{{HPA}}}": "4x5 12x30",
                    f"kube_horizontalpodautoscaler_spec_max_replicas{{{HPA}}}": "12x40",
                },
                labels={"namespace": "vision", "horizontalpodautoscaler": "demo-inference"},
            )
        ],
        quiet=[
            Story(
                "there is room",
                {
                    f"kube_horizontalpodautoscaler_status_current_replicas{{{HPA}}}": "11x40",
                    f"kube_horizontalpodautoscaler_spec_max_replicas{{{HPA}}}": "12x40",
                },
            )
        ],
    ),
]


MODEL = f'{ON_POD},model="cells"'
MODEL_CASES = [
    AlertCase(
        "VisionloopModelPending",
        "warning",
        fires=[
            Story(
                "the promoted version was refused",
                {f"visionloop_model_pending{{{MODEL}}}": "0x5 1x30"},
                labels={"job": JOB, "pod": POD, "model": "cells"},
            )
        ],
        quiet=[
            Story(
                "it takes five minutes to load",
                {f"visionloop_model_pending{{{MODEL}}}": "0x10 1x5 0x20"},
            )
        ],
    ),
    AlertCase(
        "VisionloopModelVersionSkew",
        "warning",
        fires=[
            Story(
                "one pod stays with the version before",
                {
                    f'visionloop_model_info{{{MODEL},version="7",alias="stable"}}': "1x5 0x40",
                    f'visionloop_model_info{{{MODEL},version="8",alias="stable"}}': "_x5 1x40",
                    f'visionloop_model_info{{job="{JOB}",pod="b",model="cells",version="7",alias="stable"}}': "1x45",  # noqa: E501
                },
                labels={"job": JOB, "model": "cells"},
            )
        ],
        quiet=[
            Story(
                "both have moved on, and a canary is another version",
                {
                    f'visionloop_model_info{{{MODEL},version="7",alias="stable"}}': "0x40",
                    f'visionloop_model_info{{{MODEL},version="8",alias="stable"}}': "1x40",
                    f'visionloop_model_info{{job="{JOB}",pod="b",model="cells",version="8",alias="stable"}}': "1x40",  # noqa: E501
                    f'visionloop_model_info{{job="{JOB}",pod="b",model="cells",version="9",alias="canary"}}': "1x40",  # noqa: E501
                },
            )
        ],
    ),
    AlertCase(
        "VisionloopModelStale",
        "info",
        fires=[
            Story(  # promtool's clock begins at 1970
                "the version is three days old",
                {f'visionloop_model_created_timestamp_seconds{{{MODEL},alias="stable"}}': "1x80"},
                at="74h",
                labels={"job": JOB, "model": "cells"},
                interval="1h",
            )
        ],
        quiet=[
            Story(
                "a new version was promoted yesterday",
                {
                    f'visionloop_model_created_timestamp_seconds{{{MODEL},alias="stable"}}': "1x60 216000x20"  # noqa: E501
                },
                at="74h",
                interval="1h",
            ),
            Story(
                "no version serves any more",
                {f'visionloop_model_created_timestamp_seconds{{{MODEL},alias="stable"}}': "0x80"},
                at="74h",
                interval="1h",
            ),
        ],
    ),
    AlertCase(
        "VisionloopPredictionDrift",
        "warning",
        fires=[
            Story(
                "defects were 5 % for four days and are 40 % now",
                {
                    answered("good"): "0+950x96 91200+600x12",
                    answered("defect"): "0+50x96 4800+400x12",
                },
                at="105h",
                interval="1h",
                labels={"job": JOB, "model": "cells"},
            ),
        ],
        quiet=[
            Story(
                "the share of defects wanders a little",
                {
                    answered("good"): "0+950x96 91200+920x12",
                    answered("defect"): "0+50x96 4800+80x12",
                },
                at="105h",
                interval="1h",
            ),
            Story(
                "four images in six hours, all of the rare class",
                {
                    answered("good"): "0+950x96 91200x12",
                    answered("defect"): "0+50x96 4800+1x12",
                },
                at="105h",
                interval="1h",
            ),
        ],
    ),
    AlertCase(
        "VisionloopLowConfidence",
        "warning",
        fires=[
            Story(
                "it was not sure of 2 % and is not sure of 30 % now",
                {
                    answered("good"): "0+980x96 94080+700x12",
                    answered("good", "not_sure"): "0+20x96 1920+300x12",
                },
                at="105h",
                interval="1h",
                labels={"job": JOB, "model": "cells"},
            )
        ],
        quiet=[
            Story(
                "it was never sure of more than 70 %",
                {
                    answered("good"): "0+700x110",
                    answered("good", "not_sure"): "0+300x110",
                },
                at="105h",
                interval="1h",
            ),
            Story(
                "three times next to nothing is little",
                {
                    answered("good"): "0+990x96 95040+970x12",
                    answered("good", "not_sure"): "0+10x96 960+30x12",
                },
                at="105h",
                interval="1h",
            ),
        ],
    ),
]


GPU = {"gpu": "0", "Hostname": "node-1", "namespace": "vision", "pod": POD}
SESSION = "visionloop_session_info"
GPU_CASES = [
    AlertCase(
        "VisionloopInferenceOnCPU",
        "critical",
        fires=[
            Story(
                "a pod was started with --provider cpu",
                {f'{SESSION}{{{ON_POD},provider="cpu",required_provider="cpu"}}': "1x30"},
                labels={"job": JOB, "pod": POD},
            )
        ],
        quiet=[
            Story(
                "it runs on CUDA",
                {f'{SESSION}{{{ON_POD},provider="cuda",required_provider="cuda"}}': "1x30"},
            )
        ],
    ),
    AlertCase(
        "VisionloopGpuErrors",
        "warning",
        fires=[
            Story(
                "the GPU fell off the bus",
                {dcgm("DCGM_FI_DEV_XID_ERRORS"): "0x10 79x30"},
                labels=GPU,
            ),
            Story(
                "the exporter is scraped without honorLabels",
                {dcgm("DCGM_FI_DEV_XID_ERRORS", "exported_"): "0x10 79x30"},
                labels={
                    "gpu": "0",
                    "Hostname": "node-1",
                    "exported_namespace": "vision",
                    "exported_pod": POD,
                },
            ),
        ],
        quiet=[
            Story("no error", {dcgm("DCGM_FI_DEV_XID_ERRORS"): "0x40"}),
            Story(
                "somebody else's GPU",
                {'DCGM_FI_DEV_XID_ERRORS{gpu="0",namespace="vision",pod="other-1"}': "79x40"},
            ),
        ],
    ),
    AlertCase(
        "VisionloopGpuMemoryFull",
        "warning",
        fires=[
            Story(
                "two versions hardly fit",
                {
                    dcgm("DCGM_FI_DEV_FB_USED"): "39000x40",
                    dcgm("DCGM_FI_DEV_FB_FREE"): "1000x40",
                },
                labels=GPU,
            )
        ],
        quiet=[
            Story(
                "half of it is free",
                {
                    dcgm("DCGM_FI_DEV_FB_USED"): "20000x40",
                    dcgm("DCGM_FI_DEV_FB_FREE"): "20000x40",
                },
            )
        ],
    ),
]

CASES = [*BUDGET_CASES, *SERVING_CASES, *MODEL_CASES, *GPU_CASES]


@pytest.mark.parametrize(
    "cases",
    [*(BUDGET_CASES[first : first + 2] for first in (0, 2, 4, 6)),
     SERVING_CASES, MODEL_CASES, GPU_CASES],
    ids=["1h", "6h", "1d", "3d", "serving", "models", "gpu"],
)  # fmt: skip
def test_alerts(cases: list[AlertCase], tmp_path: Path) -> None:
    quick = {"monitoring.rules.thresholds.modelAgeDays": 3}  # 60 days are long, even in promtool
    check(cases, rule_groups("inference", **quick), tmp_path)


def test_every_alert_has_stories() -> None:
    check_complete(CASES, rule_groups("inference"))


def test_no_gpu_and_no_autoscaler_have_no_alerts() -> None:
    groups = rule_groups("inference", **{"gpu.mode": "none", "autoscaling.mode": "off"})
    names = {rule["alert"] for rule in alerts(groups)}
    assert names.isdisjoint({case.alert for case in GPU_CASES} | {"VisionloopAtMaxReplicas"})
    assert "VisionloopModelPending" in names


def test_objectives_are_values() -> None:
    groups = rule_groups("inference", **{"slo.availability": 99.5, "slo.minRps": 2})
    burn = [r for r in alerts(groups) if r["alert"] == "VisionloopAvailabilityBudgetBurn"]
    assert [float(r["expr"].splitlines()[0].rsplit(">", 1)[1]) for r in burn] == [
        0.072, 0.03, 0.015, 0.005,
    ]  # fmt: skip
