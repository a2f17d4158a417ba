"""Every alert of charts/inference/rules/models.yaml fires when it should, and not otherwise."""

from pathlib import Path

import pytest
from support.alert_stories import AlertCase, Story, check, check_complete
from support.inference_series import JOB, ON_POD, answered, of_model
from support.prometheus_rules import rule_group

pytestmark = pytest.mark.usefixtures("helm_program")
PENDING = of_model("visionloop_model_pending")
CREATED = of_model("visionloop_model_created_timestamp_seconds", alias="stable")


def serves(version: str, alias: str = "stable", **pod: str) -> str:
    return of_model("visionloop_model_info", **pod, version=version, alias=alias)


CASES = [
    AlertCase(
        "VisionloopModelPending",
        "warning",
        fires=[
            Story(
                "the promoted version was refused",
                {PENDING: "0x5 1x30"},
                labels={**ON_POD, "model": "cells"},
            )
        ],
        quiet=[
            Story("it takes five minutes to load", {PENDING: "0x10 1x5 0x20"}),
        ],
    ),
    AlertCase(
        "VisionloopModelVersionSkew",
        "warning",
        fires=[
            Story(
                "one pod stays with the version before",
                {
                    serves("7"): "1x5 0x40",
                    serves("8"): "_x5 1x40",
                    serves("7", pod="b"): "1x45",
                },
                labels={"job": JOB, "model": "cells"},
            )
        ],
        quiet=[
            Story(
                "both have moved on, and a canary is another version",
                {
                    serves("7"): "0x40",
                    serves("8"): "1x40",
                    serves("8", pod="b"): "1x40",
                    serves("9", "canary", pod="b"): "1x40",
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
                {CREATED: "1x80"},
                at="74h",
                labels={"job": JOB, "model": "cells"},
                interval="1h",
            )
        ],
        quiet=[
            Story(
                "a new version was promoted yesterday",
                {CREATED: "1x60 216000x20"},
                at="74h",
                interval="1h",
            ),
            Story(
                "no version serves any more",
                {CREATED: "0x80"},
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


def test_they_fire_and_keep_quiet(tmp_path: Path) -> None:
    quick = {"monitoring.rules.thresholds.modelAgeDays": 3}  # 60 days are long, even in promtool
    check(CASES, rule_group("inference", "models", **quick), tmp_path)


def test_every_alert_has_stories() -> None:
    check_complete(CASES, rule_group("inference", "models"))
