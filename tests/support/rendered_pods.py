"""Pods that helm rendered, played by podman: real namespaces, cgroups, mounts and signals.

Podman does the kubelet's part: init containers, command, arguments, environment, volumes, users,
capabilities, seccomp, limits of memory. What it does not do is done here in the plainest way: a
workload's template becomes a pod, readiness is asked for where the rendered probe says, preStop's
pause comes before SIGTERM. Podman 4.3 misreads the Secrets that it plays, so it gets them as
ConfigMaps of the same names. Not here at all: Services, NetworkPolicies, scheduling, size limits of
volumes, fsGroup.
"""

import contextlib
import copy
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping

import yaml
from support.charts import Object, containers, pod_of
from support.node import NETWORK, Node

Contents = Mapping[str, str]  # of a Secret or a ConfigMap, by key
KEEP_INIT_CONTAINERS = {"io.podman.annotations.init.container.type": "always"}  # with their logs
# One line for each fact, as a program in the container sees them; folders to try are arguments.
LOOK = """
echo user $(id -u):$(id -g)
echo memory $(cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes)
echo first $(tr '\\0' ' ' < /proc/1/cmdline)
grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/1/status | tr -d ':\\t' | sed 's/[0-9]/ &/'
echo frozen $(grep -E '^[^ ]+ [^ ]+ [^ ]+ ro,' /proc/mounts | cut -d' ' -f2)
echo writes $(for folder; do touch $folder/.touched && echo $folder; done)
"""


class RenderedPod:
    """The pod of a Deployment or a CronJob; `read` are the Secrets and ConfigMaps by name."""

    def __init__(self, node: Node, workload: Object, read: Mapping[str, Contents]) -> None:
        self._node = node
        self._name = workload["metadata"]["name"]
        self._played = [*(_config_map(*one) for one in read.items()), _pod(workload)]
        spec = pod_of(workload)
        assert spec is not None
        self._spec = spec
        [self._main] = spec["containers"]
        self.address = node.pod_address

    @property
    def said(self) -> str:
        """The log of the main container."""
        return self.log(self._main["name"])

    def log(self, container: str) -> str:
        """What a container, init containers included, has said."""
        done = self._node.asked("logs", f"{self._name}-{container}")
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The init containers have ended well, the main one runs; nothing is left at the end."""
        manifest = yaml.safe_dump_all(self._played)
        network = f"--network={NETWORK}:ip={self.address}"
        try:
            done = self._node.asked("play", "kube", "--build=false", network, "-", input=manifest)
            assert done.returncode == 0, f"{done.stderr}\n{self._logs()}"
            yield
        finally:
            self._node.podman("pod", "rm", "--force", "--ignore", "--time=0", self._name)
            self._node.podman("volume", "rm", "--all", "--force")

    def wait_until_ready(self) -> None:
        """Until the readiness probe is answered, for as long as the startup probe has patience."""
        probe, patience = self._main["readinessProbe"]["httpGet"], self._main["startupProbe"]
        ports = {port["name"]: port["containerPort"] for port in self._main["ports"]}
        url = f"http://{self.address}:{ports[probe['port']]}{probe['path']}"
        end = time.monotonic() + patience["periodSeconds"] * patience["failureThreshold"]
        while not _answers(url):
            assert self._state()["Running"], f"it exited: {self.said[-3000:]}"
            assert time.monotonic() < end, f"waited in vain: {self.said[-3000:]}"

    def run(self, *program: str) -> "subprocess.CompletedProcess[str]":
        """Runs beside the main container's program, as `kubectl exec` does."""
        return self._node.asked("exec", self._container, *program)

    def stop(self) -> int:
        """As the kubelet ends it: preStop, SIGTERM, the grace period. The exit code."""
        pause = self._main["lifecycle"]["preStop"]["sleep"]["seconds"]
        grace = self._spec["terminationGracePeriodSeconds"]
        time.sleep(pause)
        # Not `pod stop`, which takes the network away at once.
        self._node.podman("stop", f"--time={grace - pause}", self._container)
        return int(self._state()["ExitCode"])

    def ended(self, seconds: float) -> int:
        """Waits for the main container's end. The exit code."""
        return int(self._node.podman("wait", self._container, timeout=seconds))

    def assert_confined(self) -> None:
        """The kernel does what the render asks for, and no more can be written than that."""
        spec, security = self._spec["securityContext"], self._main["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert spec["seccompProfile"] == {"type": "RuntimeDefault"}
        mounts = {
            one["mountPath"]: one.get("readOnly", False) for one in self._main["volumeMounts"]
        }
        looked = self.run("sh", "-c", LOOK, "sh", "/", "/opt", *mounts)
        assert looked.returncode == 0, f"{looked.stderr}\n{self.said[-3000:]}"
        seen = {name: words for name, *words in map(str.split, looked.stdout.splitlines())}
        assert self._main["command"][0] in " ".join(seen.pop("first"))
        assert {"/", *(path for path, frozen in mounts.items() if frozen)} <= {*seen.pop("frozen")}
        gibibytes = self._main["resources"]["limits"]["memory"].removesuffix("Gi")
        assert seen == {
            "user": [f"{spec['runAsUser']}:{spec['runAsGroup']}"],
            "memory": [str(int(gibibytes) * 2**30)],
            "CapEff": ["0000000000000000"],
            "CapBnd": ["0000000000000000"],
            "NoNewPrivs": ["1"],
            "Seccomp": ["2"],  # a filter
            "writes": [path for path, frozen in mounts.items() if not frozen],
        }

    def _logs(self) -> str:
        return "\n".join(self.log(one["name"]) for one in containers(self._spec))

    @property
    def _container(self) -> str:
        return f"{self._name}-{self._main['name']}"

    def _state(self) -> Object:
        [found] = json.loads(self._node.podman("inspect", self._container))
        state: Object = found["State"]
        return state


def _config_map(name: str, contents: Contents) -> Object:
    metadata = {"name": name}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(contents)}


def _pod(workload: Object) -> Object:
    """What controllers make of the workload's template, in words that podman 4.3 understands."""
    name, owner = workload["metadata"]["name"], workload["spec"]
    if workload["kind"] == "CronJob":
        owner = owner["jobTemplate"]["spec"]
    pod: Object = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(owner["template"])}
    pod["metadata"]["name"] = name
    pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] = name
    pod["metadata"].setdefault("annotations", {}).update(KEEP_INIT_CONTAINERS)
    pod["spec"]["restartPolicy"] = "Never"  # an end is to be seen, not mended
    for volume in pod["spec"]["volumes"]:
        if volume.pop("ephemeral", None):
            volume["emptyDir"] = {}
        if secret := volume.pop("secret", None):  # its files would be base64
            volume["configMap"] = {"name": secret.pop("secretName"), **secret}
    for container in containers(pod["spec"]):
        container.pop("ports", None)  # they would be ports of this machine
        mounts = container["volumeMounts"]  # no folder in memory: podman has one there by itself
        container["volumeMounts"] = [one for one in mounts if one["mountPath"] != "/dev/shm"]
        for source in (one["valueFrom"] for one in container.get("env", []) if "valueFrom" in one):
            if "secretKeyRef" in source:
                source["configMapKeyRef"] = source.pop("secretKeyRef")
    return pod


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False
