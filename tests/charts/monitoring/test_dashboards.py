"""Dashboards: the JSON is current, Grafana can lay it out, panels of others show what those told.

That no panel of ours is empty in a real Prometheus is a test of test_contract.py.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.charts import CHARTS
from support.grafana_panels import filled_in, panels
from support.prometheus_rules import promtool
from support.promql import parsed

OUTSIDE = yaml.safe_load(Path(__file__).with_name("outside_metrics.yaml").read_text())


def test_the_json_is_made_of_the_code() -> None:
    from charts.grafana import DASHBOARDS, as_json, path_of

    for dashboard in DASHBOARDS:
        said = "run python -m charts.grafana"
        assert path_of(dashboard).read_text() == as_json(dashboard), said
    assert {path_of(one) for one in DASHBOARDS} == set(CHARTS.glob("*/dashboards/*.json"))


@pytest.mark.parametrize("path", sorted(CHARTS.glob("*/dashboards/*.json")), ids=lambda p: p.stem)
def test_grafana_can_tell_panels_apart(path: Path) -> None:
    document: dict[str, Any] = json.loads(path.read_text())
    ids = [panel["id"] for panel in document["panels"]]
    assert len(ids) == len(set(ids))
    covered: set[tuple[int, int]] = set()
    for panel in document["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & covered, panel["title"]
        covered |= cells
    names = {variable["name"] for variable in document["templating"]["list"]}
    text = path.read_text().replace("$__rate_interval", "").replace("$__all", "")
    used = {word for word in ("datasource", "job", "model", "dataset") if f"${word}" in text}
    assert used <= names


def test_panels_of_other_exporters_show_what_those_told(tmp_path: Path) -> None:
    """On samples as they were seen, because neither a cluster nor a GPU is here."""
    asked = panels(outside=True)
    assert len(asked) >= 6
    path = tmp_path / "panels.yaml"
    series = [sample.rpartition(" ") for sample in OUTSIDE]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": f"{value}x10"} for name, _, value in series],
        "promql_expr_test": [
            {
                "expr": f"count({expression}) > bool 0",
                "eval_time": "5m",
                "exp_samples": [{"labels": "{}", "value": 1}],
            }
            for _, expression in asked
        ],
    }
    path.write_text(yaml.safe_dump({"tests": [test]}))
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_variables_and_annotations_are_promql() -> None:
    for path in CHARTS.glob("*/dashboards/*.json"):
        document = json.loads(path.read_text())
        for annotation in document["annotations"]["list"]:
            parsed(filled_in(annotation["expr"]))
        for variable in document["templating"]["list"][1:]:
            query = variable["query"]["query"]
            metric, label = query.removeprefix("label_values(").removesuffix(")").split(", ")
            assert query == f"label_values({metric}, {label})"
            parsed(f"count by ({label}) ({metric})")
