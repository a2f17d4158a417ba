"""The loop on a real cluster: `make test-cluster`, with KUBECONFIG set and the images to be had.

    make images PREFIX=registry.example.com/visionloop/ …      # and push them
    CLUSTER_VALUES=my-registry.yaml KUBECONFIG=~/.kube/config make test-cluster

Needs about 3 cores, 8 GB, a default StorageClass and rights to make a namespace; 15 minutes. The
tests are one story and run in the order in which they stand: each goes on where the one before
ended.
"""

import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import (
    CHART,
    INFERENCE,
    LABELING,
    PODS_OF_INFERENCE,
    PODS_OF_LABELING,
    RELEASE,
    TRAINING,
    Cluster,
    installed,
    until,
)
from support.command_line import command, environment
from support.digits import pictures

from visionloop.client import Client
from visionloop.demo.load import Request

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(3600),
    pytest.mark.skipif("KUBECONFIG" not in os.environ, reason="KUBECONFIG names no cluster"),
]
DATASET = "digits"  # of tests/cluster/values.yaml; the model's name as well
EACH = 60  # images of a class
LOAD = "load"  # the pod that asks all the time
LOAD_FILE = "/tmp/requests.jsonl"


@pytest.fixture(scope="module")
def cluster(helm_program: Path) -> Iterator[Cluster]:
    with installed() as made:
        yield made


def train(cluster: Cluster, job: str) -> None:
    """One run as the schedule would start it, to its end."""
    cluster.kubectl("create", "job", f"--from=cronjob/{TRAINING}", job)
    cluster.kubectl("wait", f"job/{job}", "--for=condition=complete", "--timeout=15m", minutes=16)


def models(cluster: Cluster, *arguments: str) -> str:
    """The command line in a pod of inference, whose keys may do all in the trial store."""
    return cluster.kubectl("exec", f"deploy/{INFERENCE}", "--", "visionloop", "models", *arguments)


def served(cluster: Cluster) -> int:
    """The version that answers."""
    with cluster.forwarded(INFERENCE, 8001) as target, Client(target) as client:
        [result] = client.recognize([pictures(0)[0]], model=DATASET)
        assert result.error is None
        return result.version


def requests(cluster: Cluster) -> list[Request]:
    """What the load has seen so far."""
    told = cluster.kubectl("exec", LOAD, "--", "cat", LOAD_FILE)
    return [Request(**json.loads(line)) for line in told.splitlines() if line.endswith("}")]


def test_labelled_images_go_in(cluster: Cluster, tmp_path: Path) -> None:
    for digit in (0, 1):
        folder = tmp_path / "photos" / str(digit)
        folder.mkdir(parents=True)
        for number, image in enumerate(pictures(digit)[:EACH]):
            (folder / f"{number}.png").write_bytes(image)
    account = ("exec", f"deploy/{LABELING}", "-c", "labeling-ingest", "--", "visionloop-labeling", "account")  # fmt: skip # noqa: E501
    cluster.kubectl(*account, "add", "loader", "--role=admin", "--no-password")
    token = json.loads(cluster.kubectl(*account, "token", "loader", "--json"))["token"]
    with cluster.forwarded(LABELING, 8081) as target:
        for words in (
            ("import", tmp_path / "photos", "--dataset", DATASET),
            ("snapshots", "create", DATASET),
        ):
            subprocess.run(
                command(*words, "--target", target),
                env={**environment(), "VISIONLOOP_TOKEN": token},
                check=True,
                timeout=300,
            )


def test_a_job_from_the_schedule_trains_promotes_and_is_served(cluster: Cluster) -> None:
    train(cluster, "first")
    cluster.kubectl("rollout", "status", f"deploy/{INFERENCE}", "--timeout=5m", minutes=6)
    cluster.helm("test", RELEASE)
    assert served(cluster) == 1


def test_the_next_version_is_served_and_taken_back(cluster: Cluster) -> None:
    """Trained again on the same, so that no gate can find it worse."""
    cluster.helm("upgrade", RELEASE, str(CHART), "--reuse-values", "--set=training.again=true")
    train(cluster, "second")
    until(lambda: served(cluster) == 2, "version 2 is served")
    models(cluster, "rollback", DATASET, "--why", "a test")
    until(lambda: served(cluster) == 1, "version 1 is served again")
    cluster.helm("test", RELEASE)


def test_an_upgrade_under_load_costs_no_request(cluster: Cluster) -> None:
    start_load(cluster)
    until(lambda: len(requests(cluster)) > 50, "the load is answered")
    before = set(cluster.pods(PODS_OF_INFERENCE) + cluster.pods(PODS_OF_LABELING))
    changed = "podAnnotations.changed=yes"
    cluster.helm(
        "upgrade", RELEASE, str(CHART), "--reuse-values", "--wait", "--timeout=10m",
        f"--set-string=inference.{changed},labeling-ingest.{changed}",
    )  # fmt: skip
    after = set(cluster.pods(PODS_OF_INFERENCE) + cluster.pods(PODS_OF_LABELING))
    assert not before & after, "every pod is a new one"
    assert [one for one in requests(cluster) if one.error] == []


def test_killed_pods_come_back_and_what_they_held_is_there(cluster: Cluster) -> None:
    """Without grace, as when a node dies: requests under way may fail, later ones may not."""
    for labels in (PODS_OF_INFERENCE, PODS_OF_LABELING):
        victim = cluster.pods(labels)[0]
        cluster.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
    killed = time.time()
    for name in (INFERENCE, LABELING):
        cluster.kubectl("rollout", "status", f"deploy/{name}", "--timeout=5m", minutes=6)
    until(lambda: time.time() > killed + 60, "a minute of load after the kill")
    late = [one for one in requests(cluster) if one.sent > killed + 30]
    assert len(late) > 50
    assert [one.error for one in late if one.error] == []
    rebuild = ("exec", f"deploy/{LABELING}", "-c", "labeling-ingest", "--", "visionloop-labeling", "rebuild")  # fmt: skip # noqa: E501
    found = json.loads(cluster.kubectl(*rebuild, "--check", "--json"))
    assert (found[DATASET]["images"], found[DATASET]["differing"]) == (2 * EACH, 0)
    assert served(cluster) == 1


def test_a_run_whose_pod_is_taken_away_ends_well(cluster: Cluster) -> None:
    cluster.kubectl("create", "job", f"--from=cronjob/{TRAINING}", "third")
    pods = "batch.kubernetes.io/job-name=third"
    until(lambda: cluster.pods(pods), "the Job has a pod")
    [first] = cluster.pods(pods)
    cluster.kubectl("wait", f"pod/{first}", "--for=jsonpath={.status.phase}=Running", "--timeout=5m", minutes=6)  # fmt: skip # noqa: E501
    cluster.kubectl("delete", "pod", first, minutes=4)
    cluster.kubectl("wait", "job/third", "--for=condition=complete", "--timeout=15m", minutes=16)
    models(cluster, "show", DATASET, "3")


def start_load(cluster: Cluster) -> None:
    """A pod of our own image that sends ten requests a second, without retries."""
    image = cluster.kubectl(
        "get", f"deploy/{INFERENCE}", "--output=jsonpath={.spec.template.spec.containers[0].image}"
    )
    pixels = base64.b64encode(pictures(1)[0]).decode()
    cluster.apply(
        {
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": LOAD},
            "binaryData": {"one.png": pixels},
        }
    )  # fmt: skip
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": LOAD},
            "spec": {
                "automountServiceAccountToken": False,
                "restartPolicy": "Never",
                "securityContext": {
                    "runAsNonRoot": True, "runAsUser": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": LOAD,
                        "image": image,
                        "command": [
                            "python", "-m", "visionloop.demo.load",
                            f"{INFERENCE}:8001", "10", "10", LOAD_FILE, "/images/one.png",
                        ],
                        "resources": {
                            "requests": {"cpu": "100m", "memory": "128Mi"},
                            "limits": {"memory": "512Mi"},
                        },
                        "securityContext": {
                            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        "volumeMounts": [
                            {"name": "tmp", "mountPath": "/tmp"},
                            {"name": "images", "mountPath": "/images"},
                        ],
                    }
                ],
                "volumes": [
                    {"name": "tmp", "emptyDir": {}},
                    {"name": "images", "configMap": {"name": LOAD}},
                ],
            },
        }
    )  # fmt: skip
    cluster.kubectl("wait", f"pod/{LOAD}", "--for=condition=Ready", "--timeout=5m", minutes=6)
