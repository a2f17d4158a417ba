"""The charts' Prometheus rules as Helm renders them, and Prometheus' own tool to check them.

groups = rule_groups("inference"); promtool("check", "rules", "--lint=all", path)
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.charts import NAMESPACE, RELEASE, ROOT, VALUES, objects_of, template

# With everything on, so that every rule is there.
ALL_ON: dict[str, dict[str, Any]] = {
    "inference": {
        "gpu.mode": "device-plugin",
        "autoscaling.mode": "hpa",
        "networkPolicy.metricsFrom": [{"podSelector": {}}],
    },
    "labeling-ingest": {
        "backup.enabled": True,
        "backup.target": "s3://backup/production",
        "backup.storeSecret": "backup",
    },
    "training": {},
}


def job(chart: str) -> str:
    """What Prometheus calls the pods of a chart of this release."""
    return f"{NAMESPACE}/{RELEASE}-{chart}"


@cache
def prometheus_tool(name: str) -> Path:
    """`prometheus` or `promtool` of Debian's package, or unpacked in build/tools; or skips."""
    unpacked = ROOT / "build/tools/prometheus/usr/bin" / name
    found = shutil.which(name) or (unpacked if unpacked.exists() else None)
    return Path(found) if found else pytest.skip(f"{name} is not installed (Debian: prometheus)")


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    """One call of Prometheus' tool."""
    return subprocess.run(
        [prometheus_tool("promtool"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def rule_groups(chart: str, **values: Any) -> list[dict[str, Any]]:
    """The groups of the chart's PrometheusRule; `values` as {"gpu.mode": "none"} by keyword."""
    settings = {"global.monitoring.enabled": True, **ALL_ON[chart], **values}
    flags = [f"--set-json={name}={json.dumps(value)}" for name, value in settings.items()]
    text = template(chart, f"--values={VALUES / chart / 'minimal.yaml'}", *flags)
    rules = [one for one in objects_of(text) if one["kind"] == "PrometheusRule"]
    return [group for one in rules for group in one["spec"]["groups"]]


def rule_group(chart: str, name: str, **values: Any) -> list[dict[str, Any]]:
    """The one group visionloop-<chart>-<name>, with the keywords of `rule_groups`."""
    groups = rule_groups(chart, **values)
    return [group for group in groups if group["name"] == f"visionloop-{chart}-{name}"]


def alerts(groups: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The alerting rules of the groups."""
    return (rule for group in groups for rule in group["rules"] if "alert" in rule)
