"""The restricted Pod Security Standard, rule by rule, and what this suite asks beyond it.

After https://kubernetes.io/docs/concepts/security/pod-security-standards/ (restricted, Linux). An
API server would apply the first part in a namespace that enforces it.
"""

from collections.abc import Iterator
from typing import Any

from support.charts import containers

Spec = dict[str, Any]
_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
    "projected", "secret",
}  # fmt: skip
_SECCOMP = {"RuntimeDefault", "Localhost"}


def violations(spec: Spec) -> list[str]:
    """What the pod's spec violates; each says where."""
    found = [*_of_pod(spec), *_beyond_of_pod(spec)]
    for container in containers(spec):
        of_one = [*_of_container(spec, container), *_beyond_of_container(container)]
        found += [f"{container['name']}: {what}" for what in of_one]
    return found


def _of_pod(spec: Spec) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is on"
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= _VOLUMES:
            yield f"volume {volume['name']} is a {kinds - _VOLUMES}"
    if "sysctls" in spec.get("securityContext", {}):
        yield "sysctls are set"


def _of_container(spec: Spec, container: Spec) -> Iterator[str]:
    pod, own = spec.get("securityContext", {}), container.get("securityContext", {})
    both = {**pod, **own}
    if both.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if both.get("runAsUser") == 0:
        yield "runs as root"
    if both.get("seccompProfile", {}).get("type") not in _SECCOMP:
        yield "no seccomp profile"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if own.get("privileged"):
        yield "is privileged"
    capabilities = own.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"]:
        yield "does not drop all capabilities"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"adds capabilities {capabilities['add']}"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "takes a port of the host"


def _beyond_of_pod(spec: Spec) -> Iterator[str]:
    if spec.get("automountServiceAccountToken") is not False:
        yield "gets a token for the Kubernetes API"
    if spec.get("enableServiceLinks") is not False:
        yield "gets every Service's address as an environment variable"
    if not spec.get("securityContext", {}).get("runAsUser", 0):
        yield "runs as whom the image says, which may be root's number"


def _beyond_of_container(container: Spec) -> Iterator[str]:
    if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
        yield "can write to its root"
    limits = container.get("resources", {}).get("limits", {})
    if "memory" not in limits:
        yield "has no memory limit"
    requests = container.get("resources", {}).get("requests", {})
    if "cpu" not in requests:
        yield "requests no CPU"
    for variable in container.get("env", []):
        secret = any(word in variable["name"] for word in ("SECRET", "PASSWORD", "TOKEN", "_KEY"))
        if secret and "value" in variable and not variable["name"].endswith("_FILE"):
            yield f"{variable['name']} stands in the clear"
