"""Every alert of charts/training fires when it should, and not when it should not."""

from pathlib import Path

import pytest
from support.alert_stories import AlertCase, Story, check, check_complete
from support.prometheus_rules import job, rule_groups

CRONJOB = 'namespace="vision",cronjob="demo-training"'
pytestmark = pytest.mark.usefixtures("helm_program")
JOB = job("training")
ON_POD = f'job="{JOB}",pod="demo-training-1-0-x"'
HOUR = 3600
LAST_STEP = "visionloop_training_last_step_timestamp_seconds"


def on_job(name: str, metric: str, more: str = "") -> str:
    return f'{metric}{{namespace="vision",job_name="{name}"{more}}}'


def failed_run(number: int, hour: int) -> dict[str, str]:
    """A run of the CronJob that began at this hour and failed at once."""
    name = f"demo-training-{number}"
    began = f"_x{hour} {hour * HOUR}x300"
    return {
        on_job(name, "kube_job_status_start_time"): began,
        on_job(name, "kube_job_failed", ',condition="true"'): f"_x{hour} 1x300",
    }


def succeeded(*hours: int) -> dict[str, str]:
    """The CronJob's last success, as it moves on."""
    values = [f"{hour * HOUR}x{following - hour - 1}" for hour, following in
              zip(hours, (*hours[1:], 300), strict=True)]  # fmt: skip
    series = f"kube_cronjob_status_last_successful_time{{{CRONJOB}}}"
    return {series: f"_x{hours[0]} " + " ".join(values)}


CASES = [
    AlertCase(
        "VisionloopTrainingMissed",
        "warning",
        fires=[
            Story(
                "eleven days without a run that ended well",
                {
                    **succeeded(1),
                    f"kube_cronjob_spec_suspend{{{CRONJOB}}}": "0x300",
                },
                at="265h",
                interval="1h",
                labels={"namespace": "vision", "cronjob": "demo-training"},
            ),
            Story(
                "it was installed eleven days ago, and no run has ever ended well",
                {f"kube_cronjob_created{{{CRONJOB}}}": "_x1 3600x300"},
                at="265h",
                interval="1h",
                labels={"namespace": "vision", "cronjob": "demo-training"},
            ),
        ],
        quiet=[
            Story(
                "it was suspended on purpose",
                {
                    **succeeded(1),
                    f"kube_cronjob_spec_suspend{{{CRONJOB}}}": "0x100 1x200",
                },
                at="265h",
                interval="1h",
            ),
            Story(
                "it was installed long ago and runs every week",
                {**succeeded(1, 169), f"kube_cronjob_created{{{CRONJOB}}}": "0x300"},
                at="265h",
                interval="1h",
            ),
        ],
    ),
    AlertCase(
        "VisionloopTrainingFailed",
        "warning",
        fires=[
            Story(
                "the newest run failed, the one before did not",
                {**succeeded(1), **failed_run(2, 20)},
                at="25h",
                interval="1h",
                labels={"namespace": "vision"},
            ),
            Story(
                "the very first run failed",
                failed_run(1, 2),
                at="25h",
                interval="1h",
                labels={"namespace": "vision"},
            ),
        ],
        quiet=[
            Story(
                "the next run succeeded",
                {**succeeded(1, 30), **failed_run(2, 20)},
                at="40h",
                interval="1h",
            ),
            Story(
                "somebody's experiment failed",
                {
                    on_job("demo-training-try-it", "kube_job_status_start_time"): "7200x50",
                    on_job("demo-training-try-it", "kube_job_failed", ',condition="true"'): "1x50",
                },
                at="25h",
                interval="1h",
            ),
        ],
    ),
    AlertCase(
        "VisionloopTrainingPending",
        "warning",
        fires=[
            Story(
                "no node has a free GPU",
                {
                    'kube_pod_status_phase{namespace="vision",pod="demo-training-1-0-x",phase="Pending"}': "1x90"  # noqa: E501
                },
                at="80m",
                labels={"namespace": "vision"},
            ),
            Story(
                "Kueue does not admit it, so it has no pods",
                {on_job("demo-training-1", "kube_job_created"): "0x90"},
                at="80m",
                labels={"namespace": "vision"},
            ),
        ],
        quiet=[
            Story(
                "it was admitted after half an hour, and one of last week is done",
                {
                    on_job("demo-training-2", "kube_job_created"): "0x90",
                    on_job("demo-training-2", "kube_job_status_start_time"): "_x30 1800x60",
                    on_job("demo-training-1", "kube_job_created"): "0x90",
                    on_job("demo-training-1", "kube_job_status_start_time"): "0x90",
                },
                at="80m",
            ),
            Story(
                "a node is added within half an hour",
                {
                    'kube_pod_status_phase{namespace="vision",pod="demo-training-1-0-x",phase="Pending"}': "1x30 0x60"  # noqa: E501
                },
                at="80m",
            ),
        ],
    ),
    AlertCase(
        "VisionloopTrainingStalled",
        "warning",
        fires=[
            Story(
                "the last step was at the tenth minute",
                {
                    f"{LAST_STEP}{{{ON_POD}}}": "0+60x10 600x50",
                    f'visionloop_training_stage_info{{{ON_POD},stage="fit"}}': "1x60",
                },
                at="40m",
                labels={"job": JOB, "pod": "demo-training-1-0-x"},
            )
        ],
        quiet=[
            Story(
                "the stages after fit have no steps",
                {
                    f"{LAST_STEP}{{{ON_POD}}}": "0+60x10 600x50",
                    f'visionloop_training_stage_info{{{ON_POD},stage="fit"}}': "1x10 0x50",
                },
                at="40m",
            ),
            Story(
                "every step takes a minute",
                {
                    f"{LAST_STEP}{{{ON_POD}}}": "0+60x60",
                    f'visionloop_training_stage_info{{{ON_POD},stage="fit"}}': "1x60",
                },
                at="40m",
            ),
        ],
    ),
]


def test_alerts(tmp_path: Path) -> None:
    check(CASES, rule_groups("training"), tmp_path)


def test_every_alert_has_stories() -> None:
    check_complete(CASES, rule_groups("training"))
