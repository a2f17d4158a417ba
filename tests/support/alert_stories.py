"""What must have happened for an alert to fire, and what happens every day and fires none.

    AlertCase(
        "VisionloopModelPending",
        fires=[Story("the promoted version was refused", {"visionloop_model_pending{…}": "1x20"})],
        quiet=[Story("it takes five minutes to load", {"visionloop_model_pending{…}": "1x5 0x20"})],
    )

Values are in promtool's notation, one for each minute (or `interval`). `check` has `promtool test
rules` play all stories and compare the alert's series of ALERTS, with all its labels.
"""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from support.prometheus_rules import alerts, promtool


@dataclass(frozen=True)
class Story:
    """Series over time, and the state of the alert at `at`."""

    what: str
    series: dict[str, str]
    at: str = "30m"
    labels: dict[str, str] = field(default_factory=dict)  # beside severity, namespace and job
    interval: str = "1m"


@dataclass(frozen=True)
class AlertCase:
    """At least one story in which the alert fires and one in which it does not."""

    alert: str
    severity: str
    fires: list[Story]
    quiet: list[Story]
    chosen: dict[str, str] = field(default_factory=dict)  # which of several rules of that name


def series(metric: str, **labels: str) -> str:
    """One series as promtool and PromQL write it: metric{name="value",…}."""
    return metric + "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def check(cases: list[AlertCase], groups: list[dict[str, Any]], folder: Path) -> None:
    """Every story comes out as told."""
    rules = folder / "rules.yaml"
    rules.write_text(yaml.safe_dump({"groups": _needed(cases, groups)}))
    owner = _owner(groups)
    files: dict[str, list[dict[str, Any]]] = defaultdict(list)  # by interval
    for case in cases:
        for story in (*case.fires, *case.quiet):
            files[story.interval].append(_entry(case, story, owner))
    for interval, tests in files.items():
        path = folder / f"stories-{interval}.yaml"
        content = {"rule_files": [str(rules)], "evaluation_interval": interval, "tests": tests}
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        done = promtool("test", "rules", path)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def _needed(cases: list[AlertCase], groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups with the rules of the cases and what those read; the rest would cost seconds."""
    every = [rule for group in groups for rule in group["rules"]]
    kept = [
        rule
        for rule in every
        for case in cases
        if rule.get("alert") == case.alert and case.chosen.items() <= rule["labels"].items()
    ]
    recorded = [rule for rule in every if "record" in rule]
    while more := [
        rule
        for rule in recorded
        if rule not in kept and any(rule["record"] + "{" in other["expr"] for other in kept)
    ]:
        kept += more
    thinned = ({**g, "rules": [rule for rule in g["rules"] if rule in kept]} for g in groups)
    return [group for group in thinned if group["rules"]]


def check_complete(cases: list[AlertCase], groups: list[dict[str, Any]]) -> None:
    """Every alerting rule has stories of both kinds, and says only what it knows."""
    rules = {(rule["alert"], rule["labels"]["severity"]): rule for rule in alerts(groups)}
    assert set(rules) == {(case.alert, case.severity) for case in cases}
    assert sum(1 for _ in alerts(groups)) == len(cases)
    for case in cases:
        assert case.fires, case.alert
        assert case.quiet, case.alert
        rule = rules[case.alert, case.severity]
        for story in case.fires:
            known = {"job", *case.chosen, *story.labels}
            words = " ".join(rule["annotations"].values())
            assert set(re.findall(r"\$labels\.(\w+)", words)) <= known, case.alert


def _owner(groups: list[dict[str, Any]]) -> dict[str, str]:
    """What every alert of a chart says of whose it is."""
    labels = next(alerts(groups))["labels"]
    return {name: labels[name] for name in ("namespace", "job")}


def _entry(case: AlertCase, story: Story, owner: dict[str, str]) -> dict[str, Any]:
    which = {"alertname": case.alert, "alertstate": "firing", **case.chosen}
    labels = {**which, "severity": case.severity, **owner, **story.labels}
    sample = {"labels": series("ALERTS", **labels), "value": 1}
    return {
        "interval": story.interval,
        "input_series": [
            {"series": series, "values": values} for series, values in story.series.items()
        ],
        "promql_expr_test": [
            {
                "expr": series("ALERTS", **which),
                "eval_time": story.at,
                "exp_samples": [sample] if story in case.fires else [],
            }
        ],
    }
