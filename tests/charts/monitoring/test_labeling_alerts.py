"""Every alert of charts/labeling-ingest fires when it should, and not when it should not."""

from pathlib import Path

import pytest
from support.alert_stories import AlertCase, Story, check, check_complete
from support.prometheus_rules import job, rule_groups

pytestmark = pytest.mark.usefixtures("helm_program")
JOB = job("labeling-ingest")
ON_POD = f'job="{JOB}",instance="10.0.0.7:8080",pod="demo-labeling-ingest-5f-x"'
DEPLOYMENT = 'namespace="vision",deployment="demo-labeling-ingest"'
AVAILABLE = f"kube_deployment_status_replicas_available{{{DEPLOYMENT}}}"
RPC = 'grpc_type="unary",grpc_service="visionloop.v1.LabelingIngest",grpc_method="RecordLabel"'
DAY = 86_400


def http(status: str) -> str:
    labels = f'{ON_POD},method="GET",route="/v1/datasets",status="{status}"'
    return f"visionloop_http_requests_total{{{labels}}}"


def rpc(code: str) -> str:
    return f'grpc_server_handled_total{{{ON_POD},{RPC},grpc_code="{code}"}}'


def connections(state: str) -> str:
    return f'visionloop_database_connections{{{ON_POD},state="{state}"}}'


def runs(loop: str, outcome: str) -> str:
    return f'visionloop_background_runs_total{{{ON_POD},loop="{loop}",outcome="{outcome}"}}'


def counter(name: str, **labels: str) -> str:
    more = "".join(f',{label}="{value}"' for label, value in labels.items())
    return f"visionloop_{name}{{{ON_POD}{more}}}"


def lag(within_a_minute: int, all_: int) -> dict[str, str]:
    """Corrections per minute; those that take longer take an hour and more."""
    buckets = (("60.0", within_a_minute), ("1800.0", within_a_minute), ("+Inf", all_))
    return {
        counter("feedback_lag_seconds_bucket", le=edge): f"0+{count}x90" for edge, count in buckets
    }


SERVICE_CASES = [
    AlertCase(
        "VisionloopLabelingDown",
        "critical",
        fires=[
            Story("the pod is away", {f"up{{{ON_POD}}}": "1x5 0x30"}),
            Story("there is no pod", {'up{job="another"}': "1x30"}),
            Story("the database is away", {f"up{{{ON_POD}}}": "1x40", AVAILABLE: "2x5 0x35"}),
        ],
        quiet=[
            Story(
                "a rollout replaces one of two",
                {f"up{{{ON_POD}}}": "1x5 0x30", f'up{{job="{JOB}",pod="b"}}': "1x35"},
            )
        ],
    ),
    AlertCase(
        "VisionloopLabelingErrors",
        "warning",
        fires=[
            Story(
                "the page fails",
                {http("200"): "0+50x30", http("500"): "0+9x30"},
                labels={"job": JOB},
            ),
            Story(
                "gRPC fails, and the page does not",
                {http("200"): "0+50x30", rpc("OK"): "0+50x30", rpc("Unavailable"): "0+9x30"},
                labels={"job": JOB},
            ),
        ],
        quiet=[
            Story(
                "callers send what is wrong",
                {
                    http("200"): "0+50x30",
                    http("422"): "0+50x30",
                    rpc("OK"): "0+50x30",
                    rpc("InvalidArgument"): "0+50x30",
                },
            )
        ],
    ),
    AlertCase(
        "VisionloopDatabaseConnectionsBusy",
        "warning",
        fires=[
            Story(
                "23 of 24",
                {connections("in_use"): "23x30", connections("limit"): "24x30"},
                labels={"job": JOB, "instance": "10.0.0.7:8080"},
            )
        ],
        quiet=[
            Story(
                "a burst of two minutes",
                {connections("in_use"): "3x25 24x1 3x5", connections("limit"): "24x32"},
            )
        ],
    ),
    AlertCase(
        "VisionloopBackgroundWorkFails",
        "warning",
        fires=[
            Story(
                "the inbox cannot be read",
                {runs("feedback", "failed"): "0+1x40", runs("reconcile", "done"): "0+1x40"},
                at="35m",
                labels={"job": JOB, "loop": "feedback"},
            )
        ],
        quiet=[
            Story(
                "it fails now and then",
                {runs("feedback", "failed"): "0+1x40", runs("feedback", "done"): "0+9x40"},
                at="35m",
            ),
            Story(
                "another replica has the lease",
                {runs("feedback", "elsewhere"): "0+9x40"},
                at="35m",
            ),
        ],
    ),
    AlertCase(
        "VisionloopInspectorsDie",
        "warning",
        fires=[
            Story(
                "each bomb takes a process along",
                {counter("inspector_ends_total", how="died"): "0+1x30"},
                labels={"job": JOB},
            )
        ],
        quiet=[
            Story(
                "they are replaced as planned",
                {counter("inspector_ends_total", how="recycled"): "0+3x30"},
            )
        ],
    ),
    AlertCase(
        "VisionloopSignInsThrottled",
        "warning",
        fires=[
            Story(
                "somebody tries a list of passwords",
                {counter("sign_ins_total", outcome="throttled"): "0+10x30"},
                labels={"job": JOB},
            )
        ],
        quiet=[
            Story(
                "somebody has forgotten the password",
                {
                    counter("sign_ins_total", outcome="throttled"): "0x10 2x20",
                    counter("sign_ins_total", outcome="failed"): "0x5 10x25",
                },
            )
        ],
    ),
]

DATASET = {"job": JOB, "dataset": "cells"}
DATA_CASES = [
    AlertCase(
        "VisionloopImagesMissing",
        "critical",
        fires=[
            Story(
                "a bucket lost a folder",
                {counter("missing_images"): "0x5 3x30"},
                labels={"job": JOB},
            )
        ],
        quiet=[Story("all are there", {counter("missing_images"): "0x30"})],
    ),
    AlertCase(
        "VisionloopImagesQuarantined",
        "warning",
        fires=[
            Story(
                "an exporter writes half files",
                {
                    counter("ingest_quarantined_total", reason="truncated"): "0+30x90",
                    counter("ingest_images_total", way="grpc", outcome="accepted"): "0+60x90",
                    counter("ingest_images_total", way="import", outcome="quarantined"): "0+30x90",
                },
                at="80m",
                labels={"job": JOB},
            )
        ],
        quiet=[
            Story(
                "one of a hundred",
                {
                    counter("ingest_quarantined_total", reason="truncated"): "0+1x90",
                    counter("ingest_images_total", way="grpc", outcome="accepted"): "0+99x90",
                    counter("ingest_images_total", way="import", outcome="quarantined"): "0+1x90",
                },
                at="80m",
            )
        ],
    ),
    AlertCase(
        "VisionloopSnapshotOverdue",
        "warning",
        fires=[
            Story(
                "three weeks, and labels wait",
                {
                    counter("snapshot_age_seconds", dataset="cells"): f"{21 * DAY}+60x90",
                    counter("labels_since_snapshot", dataset="cells"): "240x90",
                },
                at="80m",
                labels=DATASET,
            )
        ],
        quiet=[
            Story(
                "three weeks, but nobody labelled",
                {
                    counter("snapshot_age_seconds", dataset="cells"): f"{21 * DAY}+60x90",
                    counter("labels_since_snapshot", dataset="cells"): "3x90",
                },
                at="80m",
            ),
            Story(
                "many labels since yesterday",
                {
                    counter("snapshot_age_seconds", dataset="cells"): f"{DAY}+60x90",
                    counter("labels_since_snapshot", dataset="cells"): "2400x90",
                },
                at="80m",
            ),
        ],
    ),
    AlertCase(
        "VisionloopLabelsOverdue",
        "info",
        fires=[
            Story(
                "an image waits for a month",
                {counter("queue_oldest_seconds", dataset="cells"): f"{30 * DAY}+60x90"},
                at="80m",
                labels=DATASET,
            )
        ],
        quiet=[
            Story(
                "the queue is empty",
                {counter("queue_oldest_seconds", dataset="cells"): "0x90"},
                at="80m",
            )
        ],
    ),
    AlertCase(
        "VisionloopFeedbackLate",
        "info",
        fires=[Story("it was away over night", lag(5, 60), at="60m", labels={"job": JOB})],
        quiet=[
            Story("nearly all within a minute", lag(59, 60), at="60m"),
            Story("there is no feedback", lag(0, 0), at="60m"),
        ],
    ),
    AlertCase(
        "VisionloopFeedbackRefused",
        "info",
        fires=[
            Story(
                "an app names a class that the dataset does not have",
                {counter("feedback_refused_total", reason="unknown_class"): "0x10 1x30"},
                labels={"job": JOB, "reason": "unknown_class"},
            )
        ],
        quiet=[
            Story(
                "that was yesterday",
                {counter("feedback_refused_total", reason="unknown_class"): "0x5 1x90"},
                at="90m",
            )
        ],
    ),
    AlertCase(
        "VisionloopSuggestionsRefused",
        "info",
        fires=[
            Story(
                "the model takes another size",
                {
                    counter("suggestions_total", outcome="predicted"): "0+10x60",
                    counter("suggestions_total", outcome="refused"): "0+30x60",
                },
                at="50m",
                labels={"job": JOB},
            )
        ],
        quiet=[
            Story(
                "one odd image",
                {
                    counter("suggestions_total", outcome="predicted"): "0+30x60",
                    counter("suggestions_total", outcome="refused"): "0x10 1x50",
                },
                at="50m",
            )
        ],
    ),
]

MODEL_CASES = [
    AlertCase(
        "VisionloopGateRefuses",
        "info",
        fires=[
            Story(
                "three weekly runs in a row made nothing better",
                {counter("gate_refused_in_a_row", model="cells"): "2x5 3x30"},
                labels={"job": JOB, "model": "cells"},
            )
        ],
        quiet=[
            Story(
                "two, and the next passed",
                {counter("gate_refused_in_a_row", model="cells"): "1x5 2x10 0x20"},
            )
        ],
    )
]

BACKUP = 'namespace="vision",cronjob="demo-labeling-ingest-backup"'
BACKUP_CASES = [
    AlertCase(
        "VisionloopBackupMissed",
        "critical",
        fires=[
            Story(
                "the second night in a row fails",
                {f"kube_cronjob_status_last_successful_time{{{BACKUP}}}": "_x1 3600x60"},
                at="40h",
                interval="1h",
            ),
            Story(
                "it was switched on two days ago, and none has ever ended well",
                {f"kube_cronjob_created{{{BACKUP}}}": "_x1 3600x60"},
                at="40h",
                interval="1h",
            ),
            Story(
                "a clock that was ahead named the last one, so that those after it are refused",
                {
                    f"kube_cronjob_status_last_successful_time{{{BACKUP}}}": "_x1 3600x60",
                    counter("backup_timestamp_seconds"): f"{365 * DAY}x60",
                },
                at="40h",
                interval="1h",
            ),
        ],
        quiet=[
            Story(
                "every night ends well, and training's schedule is none of it",
                {
                    f"kube_cronjob_status_last_successful_time{{{BACKUP}}}": "_x1 3600x24 90000x30",
                    'kube_cronjob_created{namespace="vision",cronjob="demo-training"}': "0x60",
                },
                at="50h",
                interval="1h",
            ),
            Story(
                "the runs of three nights found damaged objects, and their days are complete",
                {
                    f"kube_cronjob_status_last_successful_time{{{BACKUP}}}": "_x1 3600x60",
                    counter("backup_timestamp_seconds"): "3600x24 90000x24 176400x30",
                },
                at="60h",
                interval="1h",
            ),
        ],
    ),
    AlertCase(
        "VisionloopBackupDamaged",
        "critical",
        fires=[
            Story(
                "two objects are not what they were",
                {counter("backup_damaged_objects"): "0x10 2x30"},
                labels={"job": JOB},
            ),
        ],
        quiet=[
            Story("they were mended", {counter("backup_damaged_objects"): "2x10 0x30"}),
        ],
    ),
]

CASES = [*SERVICE_CASES, *DATA_CASES, *MODEL_CASES, *BACKUP_CASES]


def test_alerts(tmp_path: Path) -> None:
    check(CASES, rule_groups("labeling-ingest"), tmp_path)


def test_every_alert_has_stories() -> None:
    check_complete(CASES, rule_groups("labeling-ingest"))
