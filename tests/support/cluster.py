"""A release of the umbrella chart on the cluster that KUBECONFIG points at, for tests.

Real kubectl and helm (see `support.helm`), each call bounded in time and told whole when it fails.
Everything goes into a namespace of its own, which enforces restricted pods and is deleted at the
end (KEEP_NAMESPACE=1 keeps it).
"""

import contextlib
import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support.helm import helm, kubectl

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "visionloop"
VALUES = (CHART / "examples" / "laptop.yaml", ROOT / "tests" / "cluster" / "values.yaml")
RELEASE = "demo"
# The objects that the tests name; tests/charts/test_cluster_names.py looks for them in the render.
INFERENCE, LABELING, TRAINING = (f"{RELEASE}-{one}" for one in ("inference", "labeling-ingest", "training"))  # fmt: skip # noqa: E501
STORE, POSTGRES = "visionloop-trial-store", "visionloop-trial-postgres"
PODS_OF_INFERENCE = f"app.kubernetes.io/name=inference,app.kubernetes.io/instance={RELEASE}"
PODS_OF_LABELING = f"app.kubernetes.io/name=labeling-ingest,app.kubernetes.io/instance={RELEASE}"
MINUTES = 60.0


def value_flags() -> list[str]:
    """What helm is told: the laptop's example, a tiny training, and CLUSTER_VALUES (a file), where
    the images' registry and a StorageClass may stand."""
    own = os.environ.get("CLUSTER_VALUES")
    return [f"--values={path}" for path in (*VALUES, *([own] if own else []))]


class Cluster:
    """One namespace of the cluster."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def kubectl(self, *arguments: str, minutes: float = 2) -> str:
        """What it prints; fails with all that it said."""
        return _run(str(kubectl()), f"--namespace={self.namespace}", *arguments, minutes=minutes)

    def helm(self, *arguments: str, minutes: float = 15) -> str:
        """The same for helm."""
        return _run(str(helm()), f"--namespace={self.namespace}", *arguments, minutes=minutes)

    def apply(self, item: dict[str, Any]) -> None:
        """Makes or changes one object."""
        flags = (f"--namespace={self.namespace}", "apply", "--filename=-")
        _run(str(kubectl()), *flags, minutes=2, fed=json.dumps(item))

    def pods(self, labels: str) -> list[str]:
        """The names of the pods that are not on their way out, oldest first."""
        told = self.kubectl("get", "pods", "--selector", labels, "--output=json")
        items = [one for one in json.loads(told)["items"] if "deletionTimestamp" not in one["metadata"]]  # fmt: skip # noqa: E501
        items.sort(key=lambda one: one["metadata"]["creationTimestamp"])
        return [one["metadata"]["name"] for one in items]

    @contextlib.contextmanager
    def forwarded(self, service: str, port: int) -> Iterator[str]:
        """An address on this machine that leads to a port of a Service (to one of its pods)."""
        flags = [f"--namespace={self.namespace}", "port-forward", f"service/{service}", f":{port}"]
        with subprocess.Popen([kubectl(), *flags], stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                said = process.stdout.readline()  # "Forwarding from 127.0.0.1:41234 -> 8001"
                found = re.search(r"127\.0\.0\.1:\d+", said)
                assert found, f"kubectl port-forward to {service}: {said!r}"
                yield found[0]
            finally:
                process.terminate()


def until(condition: Callable[[], object], what: str, minutes: float = 5) -> None:
    """Asks every second until it is so."""
    end = time.monotonic() + minutes * MINUTES
    while not condition():
        assert time.monotonic() < end, f"waited {minutes} minutes in vain: {what}"
        time.sleep(1)


@contextlib.contextmanager
def installed() -> Iterator[Cluster]:
    """The suite in a new namespace, store and Postgres ready, migrated; no model serves yet."""
    cluster = Cluster(f"visionloop-test-{secrets.token_hex(4)}")
    cluster.kubectl("create", "namespace", cluster.namespace)
    try:
        enforce = "pod-security.kubernetes.io/enforce=restricted"
        cluster.kubectl("label", "namespace", cluster.namespace, enforce)
        password = f"--set=trial.password={secrets.token_hex(16)}"
        cluster.helm("install", RELEASE, str(CHART), *value_flags(), password)
        for workload in (f"statefulset/{STORE}", f"statefulset/{POSTGRES}", f"deploy/{LABELING}"):
            cluster.kubectl("rollout", "status", workload, "--timeout=10m", minutes=11)
        yield cluster
    finally:
        if os.environ.get("KEEP_NAMESPACE") != "1":
            cluster.kubectl("delete", "namespace", cluster.namespace, "--wait=false")


def _run(*command: str, minutes: float, fed: str | None = None) -> str:
    done = subprocess.run(
        command, input=fed, capture_output=True, text=True, check=False, timeout=minutes * MINUTES
    )
    assert done.returncode == 0, f"{' '.join(command[1:])}\n{done.stdout}\n{done.stderr}"
    return done.stdout
