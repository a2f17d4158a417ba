"""Charts rendered by real helm: the value sets, and what they render to.

A value set is a file of tests/charts/values/<chart>/ or an example of the umbrella chart; its
first line may say the least Kubernetes that it is for: `# kubernetes: 1.34`. Renders are kept for
the run.
"""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.helm import helm

ROOT = Path(__file__).parents[2]
CHARTS = ROOT / "charts"
VALUES = ROOT / "tests" / "charts" / "values"
RELEASE, NAMESPACE = "demo", "vision"
KUBERNETES = tuple(f"1.{minor}" for minor in range(30, 38))
TRIAL_PASSWORD = "password-of-the-tests"
Object = dict[str, Any]


class RefusedError(Exception):
    """Helm refused the values; the message has its words."""


@dataclass(frozen=True, slots=True)
class ValueSet:
    """Values that a chart must render."""

    chart: str
    path: Path
    least: str  # Kubernetes

    @property
    def name(self) -> str:
        return f"{self.chart}-{self.path.stem}"

    @property
    def flags(self) -> tuple[str, ...]:
        """What helm is to be given. The umbrella's password has no default, nor has its example."""
        password = f"--set=trial.password={TRIAL_PASSWORD}"
        return (f"--values={self.path}", *([password] if self.chart == "visionloop" else []))


def value_sets() -> list[ValueSet]:
    """All of them, by name."""
    paths = [(path.parent.name, path) for path in VALUES.glob("*/*.yaml")]
    paths += [("visionloop", path) for path in (CHARTS / "visionloop" / "examples").glob("*.yaml")]
    return sorted((_value_set(*one) for one in paths), key=lambda one: one.name)


def _value_set(chart: str, path: Path) -> ValueSet:
    with path.open(encoding="utf-8") as file:
        said = re.match(r"# kubernetes: ([0-9.]+)", file.readline())
    return ValueSet(chart, path, said[1] if said else KUBERNETES[0])


every_value_set = pytest.mark.parametrize("values", value_sets(), ids=lambda one: one.name)


def template(
    chart: str | Path, *flags: str, kubernetes: str = KUBERNETES[-1], release: str = RELEASE
) -> str:
    """What `helm template` prints. Raises RefusedError."""
    return run(
        "template", release, str(CHARTS / chart), f"--namespace={NAMESPACE}",
        f"--kube-version={kubernetes}.0", *flags,
    )  # fmt: skip


def run(*arguments: str) -> str:
    """One call of helm. Raises RefusedError with what it said."""
    done = subprocess.run(
        [helm(), *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode != 0:
        raise RefusedError(done.stderr)
    return done.stdout


@cache
def rendered_text(values: ValueSet, kubernetes: str = KUBERNETES[-1]) -> str:
    """A value set's render."""
    return template(values.chart, *values.flags, kubernetes=kubernetes)


@cache
def rendered(values: ValueSet) -> tuple[Object, ...]:
    """Its objects, on the newest Kubernetes."""
    return tuple(objects_of(rendered_text(values)))


def objects_of(text: str) -> list[Object]:
    """The objects in helm's output."""
    return [one for one in yaml.load_all(text, Loader=yaml.CSafeLoader) if one]


def one_of(objects: Sequence[Object], kind: str, name: str = "") -> Object:
    """The one object of a kind, by name where there are several."""
    found = [
        one
        for one in objects
        if one["kind"] == kind and (not name or one["metadata"]["name"] == name)
    ]
    assert len(found) == 1, f"{len(found)} objects {kind} {name}"
    return found[0]


def pod_of(item: Object) -> Object | None:
    """The pod's spec inside a workload; None where there is none."""
    match item["kind"]:
        case "Pod":
            spec: Object = item["spec"]
        case "Deployment" | "Job":
            spec = item["spec"]["template"]["spec"]
        case "StatefulSet":
            spec = item["spec"]["template"]["spec"]
            claims = [one["metadata"]["name"] for one in item["spec"]["volumeClaimTemplates"]]
            claimed = [{"name": name, "persistentVolumeClaim": {}} for name in claims]
            spec = {**spec, "volumes": [*spec["volumes"], *claimed]}
        case "CronJob":
            spec = item["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        case _:
            return None
    return spec


def pods(objects: Sequence[Object]) -> list[tuple[str, Object]]:
    """Every pod's spec with the name of what holds it."""
    found = [(f"{one['kind']}/{one['metadata']['name']}", pod_of(one)) for one in objects]
    return [(name, spec) for name, spec in found if spec is not None]


def containers(spec: Object) -> list[Object]:
    """All containers of a pod, those that run first included."""
    return [*spec.get("initContainers", []), *spec["containers"]]
