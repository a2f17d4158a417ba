"""The burn-rate alerts of charts/inference/rules/slo.yaml fire when they should, and not otherwise.

Out of 600 requests a minute, the budget of availability (99.9 %) is 0.6, that of latency 6.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest
from support.alert_stories import AlertCase, Story, check, check_complete
from support.inference_series import JOB, on_pod
from support.prometheus_rules import alerts, rule_group

pytestmark = pytest.mark.usefixtures("helm_program")
RECOGNIZE = {
    "grpc_type": "unary",
    "grpc_service": "visionloop.v1.Recognition",
    "grpc_method": "Recognize",
}


@dataclass(frozen=True)
class Window:
    """One pair of windows of both objectives, and a rate of errors that it must tell."""

    name: str
    severity: str
    step: str
    at: str
    requests: int  # a step
    errors: int  # a step


WINDOWS = [
    Window("1h", "critical", step="1m", at="60m", requests=600, errors=12),
    Window("6h", "critical", step="1m", at="60m", requests=600, errors=5),
    Window("1d", "warning", step="10m", at="10h", requests=6000, errors=22),
    Window("3d", "warning", step="10m", at="10h", requests=6000, errors=9),
]


def handled(code: str) -> str:
    return on_pod("grpc_server_handled_total", **RECOGNIZE, grpc_code=code)


def timed(fast: int, all_: int) -> dict[str, str]:
    """Requests a step: within 0.25 s, and all."""
    within = on_pod("grpc_server_handling_seconds_bucket", **RECOGNIZE, le="0.25")
    count = on_pod("grpc_server_handling_seconds_count", **RECOGNIZE)
    return {within: f"0+{fast}x60", count: f"0+{all_}x60"}


def availability(window: Window) -> AlertCase:
    answered = {handled("OK"): f"0+{window.requests}x60"}
    return AlertCase(
        "VisionloopAvailabilityBudgetBurn",
        window.severity,
        chosen={"window": window.name},
        fires=[
            Story(
                "the service fails requests all the time",
                {**answered, handled("Internal"): f"0+{window.errors}x60"},
                at=window.at,
                labels={"job": JOB, "slo": "availability"},
                interval=window.step,
            )
        ],
        quiet=[
            Story(
                "callers ask for what is not there, at the same rate",
                {**answered, handled("NotFound"): f"0+{window.requests}x60"},
                at=window.at,
                interval=window.step,
            ),
            Story(  # ten times as many for a third of the time; the short window is clean again
                "it failed, but does not any more",
                {
                    **answered,
                    handled("Internal"): f"0+{window.errors * 10}x20 {window.errors * 200}x40",
                },
                at=window.at,
                interval=window.step,
            ),
            Story(
                "one call at night, and it fails",
                {handled("Internal"): "0x5 1x60"},
                at="6m" if window.step == "1m" else "60m",
                interval=window.step,
            ),
        ],
    )


def latency(window: Window) -> AlertCase:
    return AlertCase(
        "VisionloopLatencyBudgetBurn",
        window.severity,
        chosen={"window": window.name},
        fires=[
            Story(
                "answers come late all the time",
                timed(window.requests - 10 * window.errors, window.requests),
                at=window.at,
                labels={"job": JOB, "slo": "latency"},
                interval=window.step,
            )
        ],
        quiet=[
            Story(
                "one of a thousand comes late",
                timed(window.requests * 999 // 1000, window.requests),
                at=window.at,
                interval=window.step,
            )
        ],
    )


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: window.name)
def test_they_fire_and_keep_quiet(window: Window, tmp_path: Path) -> None:
    check([availability(window), latency(window)], rule_group("inference", "slo"), tmp_path)


def test_every_alert_has_stories() -> None:
    cases = [case for window in WINDOWS for case in (availability(window), latency(window))]
    check_complete(cases, rule_group("inference", "slo"))


def test_objectives_are_values() -> None:
    group = rule_group("inference", "slo", **{"slo.availability": 99.5, "slo.minRps": 2})
    burn = [r for r in alerts(group) if r["alert"] == "VisionloopAvailabilityBudgetBurn"]
    assert [float(r["expr"].splitlines()[0].rsplit(">", 1)[1]) for r in burn] == [
        0.072, 0.03, 0.015, 0.005,
    ]  # fmt: skip
