"""The metrics contract: rules, panels, autoscalers and pages use what the programs really export.

Ours are looked up in /metrics of the running programs; those of others in outside_metrics.yaml;
recorded ones in the rules. A typo in a name or label is silent in Prometheus: the alert never
fires, the panel stays empty.
"""

import json
import re
import time
from pathlib import Path

import pytest
import yaml
from prometheus_client import Metric
from support.charts import CHARTS, ROOT, VALUES, objects_of, one_of, template
from support.grafana_panels import panels
from support.prometheus_rules import ALL_ON, rule_groups
from support.promql import Selector, groupings, selectors

import visionloop.telemetry.table  # noqa: F401 - declares every metric
from visionloop.proto.v1 import labeling_pb2, recognition_pb2
from visionloop.telemetry import metrics, rpc

OUTSIDE = Path(__file__).with_name("outside_metrics.yaml")
OURS = re.compile(r"\b(?:visionloop_|grpc_server_|nv_)[a-z0-9_]+")
# What Prometheus and a PodMonitor put on every series.
TARGET = {"job", "instance", "namespace", "pod", "container"}
SECONDS = 60.0  # until the last panel has something to show
HISTOGRAM_PARTS = ("_bucket", "_count", "_sum")
WORD = re.compile(r"[A-Za-z0-9_-]+(?:\.[0-9]+)?")
PACKAGES = {"visionloop_inference", "visionloop_labeling", "visionloop_training"}


class Known:
    """Labels by metric name."""

    def __init__(self, families: dict[str, Metric]) -> None:
        self.families = families
        self.declared = {metric.name: metric for metric in metrics.declared()}
        self.outside: dict[str, list[set[str]]] = {}
        for sample in yaml.safe_load(OUTSIDE.read_text()):
            [one] = selectors(sample.rpartition(" ")[0])
            self.outside.setdefault(one.name, []).append(one.labels)
        self.recorded: dict[str, set[str]] = {}
        for rule in every_rule():
            if "record" in rule:
                labels = set(rule.get("labels", ()))
                for grouping in groupings(rule["expr"]):
                    labels |= grouping.labels
                self.recorded[rule["record"]] = labels

    def labels(self, name: str) -> set[str] | None:
        """All that a series of this name may have; None: there is none of this name."""
        if name in self.recorded:
            return self.recorded[name]
        if name in self.outside:
            return set().union(*self.outside[name])
        metric = self._declared(name)
        if name in self.families and name not in self.declared:  # process_… and python_…
            return TARGET | {key for s in self.families[name].samples for key in s.labels}
        if metric is None or not self._told(metric):
            return None
        return TARGET | set(metric.labels) | ({"le"} if name.endswith("_bucket") else set())

    def values(self, name: str, label: str) -> str:
        """Where a label's value must stand: in a live sample, or in what the metric says of it."""
        metric = self._declared(name)
        if metric is None:
            return ""
        family = self.families.get(metric.name.removesuffix("_total")) or self.families.get(name)
        live = [s.labels.get(label, "") for s in family.samples] if family else []
        return " ".join([*live, metric.help])

    def is_ours(self, name: str) -> bool:
        """Whether the suite declares it."""
        return self._declared(name) is not None

    def _declared(self, name: str) -> metrics.Metric | None:
        found = self.declared.get(name)
        if found is not None:
            return found if found.kind != "histogram" else None
        for part in HISTOGRAM_PARTS:
            found = self.declared.get(name.removesuffix(part))
            if name.endswith(part) and found is not None and found.kind == "histogram":
                return found
        return None

    def _told(self, metric: metrics.Metric) -> bool:
        """By a running program; `_total` is no part of a family's name."""
        return metric.name.removesuffix("_total") in self.families or metric.name in self.families


def every_rule() -> list[dict]:
    return [r for chart in ALL_ON for group in rule_groups(chart) for r in group["rules"]]


def expressions() -> list[tuple[str, str]]:
    """Every PromQL expression of the suite with where it stands."""
    found = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in every_rule()]
    for path in CHARTS.glob("*/dashboards/*.json"):
        document = json.loads(path.read_text())
        for panel in document["panels"]:
            found += [
                (f"{path.stem}: {panel['title']}", target["expr"])
                for target in panel.get("targets", [])
            ]
        for variable in document["templating"]["list"][1:]:
            metric, _, label = variable["query"]["query"].partition("(")[2][:-1].partition(", ")
            found.append((f"{path.stem}: ${variable['name']}", f"count by ({label}) ({metric})"))
        found += [(path.stem, one["expr"]) for one in document["annotations"]["list"]]
    for path in sorted((ROOT / "docs").rglob("*.md")):
        blocks = re.findall(r"```promql\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
        found += [(path.name, block) for block in blocks]
    found.append(("the ScaledObject", keda_query()))
    return [(where, text.replace("$__rate_interval", "1m")) for where, text in found]


def keda_query() -> str:
    keda = template(
        "inference", f"--values={VALUES / 'inference/minimal.yaml'}",
        "--set=global.monitoring.enabled=true", "--set=autoscaling.mode=keda",
        "--set=networkPolicy.enabled=false",
        "--set=autoscaling.prometheus=http://prometheus:9090",
    )  # fmt: skip
    query: str = one_of(objects_of(keda), "ScaledObject")["spec"]["triggers"][0]["metadata"][
        "query"
    ]
    return query


@pytest.fixture(scope="module")
def known(watched) -> Known:
    return Known(watched.families)


def unknown_series(known: Known, expression: str) -> list[str]:
    """What is wrong with the selectors of an expression: names, labels."""
    wrong = []
    for one in selectors(expression):
        labels = known.labels(one.name)
        if labels is None:
            wrong.append(f"no program tells {one.name}")
        elif not one.labels <= labels:
            wrong.append(f"{one.name} has no label {sorted(one.labels - labels)}")
    return wrong


def unknown_groupings(known: Known, expression: str) -> list[str]:
    """Labels of by (…) and on (…) that nothing under it has."""
    return [
        f"nothing under it has {sorted(missing)}"
        for grouping in groupings(expression)
        if (
            missing := grouping.labels.difference(
                *(known.labels(one.name) or () for one in grouping.selectors)
            )
        )
    ]


def unknown_values(known: Known, expression: str) -> list[str]:
    """Values of matchers that no program tells or mentions."""
    return [
        f"{one.name} never has {label}={word}"
        for one in selectors(expression)
        if known.is_ours(one.name)
        for label, word in words(one)
        if word not in possible(known, one.name, label)
    ]


@pytest.mark.parametrize("look", [unknown_series, unknown_groupings, unknown_values])
def test_all_that_is_asked_for_exists(known: Known, look) -> None:
    """outcome="refusd" would be as silent as a typo in a name."""
    found = [(where, look(known, expression)) for where, expression in expressions()]
    assert len(found) > 150
    assert [(where, wrong) for where, wrong in found if wrong] == []


def test_typos_are_found(known: Known) -> None:
    assert unknown_series(known, "visionloop_model_pendig == 1")
    assert unknown_series(known, 'rate(visionloop_rejected_total{reson="late"}[5m])')
    assert unknown_series(known, "visionloop_request_duration_seconds")  # only its parts are series
    assert unknown_series(known, 'kube_job_failed{job="x"} or DCGM_FI_DEV_POWER_USAGE')
    assert unknown_groupings(known, "sum by (modell) (visionloop_model_pending)")
    assert unknown_groupings(known, "up / on (pood) visionloop_model_pending")
    assert unknown_values(known, 'visionloop_feedback_total{outcome=~"failed|lost"}')
    assert unknown_values(known, 'grpc_server_handled_total{grpc_code="INTERNAL"}')
    assert unknown_values(known, 'grpc_server_handling_seconds_bucket{le="0.3"}')


def test_samples_have_the_labels_that_are_declared(known: Known) -> None:
    """So that the declarations, which the other tests go by, are what is served."""
    compared = 0
    for metric in metrics.declared():
        family = known.families.get(metric.name.removesuffix("_total"))
        for sample in family.samples if family else ():
            compared += 1
            assert set(sample.labels) - {"le"} == set(metric.labels), metric.name
    assert compared > 200


def words(selector: Selector) -> list[tuple[str, str]]:
    """The plain values of the matchers; patterns are left out."""
    found = []
    for label, _, value in selector.matchers:
        parts = value.split("|")
        if label not in TARGET and all(WORD.fullmatch(part) for part in parts):
            found += [(label, part) for part in parts]
    return found


def possible(known: Known, name: str, label: str) -> set[str]:
    if label == "grpc_code":
        return set(rpc.SPELLED.values())
    if label in ("grpc_service", "grpc_method"):
        services = [
            *recognition_pb2.DESCRIPTOR.services_by_name.values(),
            *labeling_pb2.DESCRIPTOR.services_by_name.values(),
        ]
        own = {name for s in services for name in (s.full_name, *s.methods_by_name)}
        return own | {"inference.GRPCInferenceService", "ModelInfer"}
    return set(WORD.findall(known.values(name, label))) | set(known.values(name, label).split())


def test_names_in_pages_exist(known: Known) -> None:
    """Also those outside of queries: in sentences, tables and values files."""
    wrong = set()
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", *CHARTS.glob("*/README.md")]
    for path in pages:
        for name in OURS.findall(path.read_text(encoding="utf-8")):
            exact = known.labels(name) is not None or name in known.declared or name in PACKAGES
            prefix = any(one.startswith(name) for one in known.declared)  # `nv_inference_*`
            if not exact and not (name.endswith("_") and prefix):
                wrong.add(f"{path.name}: {name}")
    assert not wrong


def test_the_autoscaler_asks_for_what_there_is(known: Known) -> None:
    text = template(
        "inference",
        f"--values={VALUES / 'inference/minimal.yaml'}",
        "--set=global.monitoring.enabled=true",
        "--set=autoscaling.mode=hpa",
        "--set=networkPolicy.enabled=false",
    )
    scaler = one_of(objects_of(text), "HorizontalPodAutoscaler")
    names = [
        one["pods"]["metric"]["name"] for one in scaler["spec"]["metrics"] if one["type"] == "Pods"
    ]
    assert names
    assert all(known.labels(name) is not None for name in names)


def test_every_program_was_there(known: Known) -> None:
    """Otherwise this module would prove nothing of one that failed to start."""
    for name in ("visionloop_model_info", "visionloop_queue_images", "visionloop_training_step"):
        assert known.families[name].samples, name


@pytest.mark.timeout(300)
def test_no_panel_is_empty(watched) -> None:
    """Each shows something in the Prometheus that has scraped the programs and knows the rules."""
    empty = panels(outside=False)
    assert len(empty) > 50
    end = time.monotonic() + SECONDS
    with watched.loop.busy():
        while empty and time.monotonic() < end:
            empty = [panel for panel in empty if not shown(watched, panel[1])]
            time.sleep(0.5)
    assert not empty
    assert watched.prometheus.problems_but("training") == []


def shown(watched, expression: str) -> bool:
    """Whether it shows something now, or did while the training job was there."""
    if watched.prometheus.query(expression):
        return True
    if "visionloop_training_" not in expression:
        return False
    seconds = range(int(watched.run.began), int(watched.run.ended) + 1)
    return any(watched.prometheus.query(expression, at=float(second)) for second in seconds)
