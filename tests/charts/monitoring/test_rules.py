"""All rules: accepted by Prometheus' own tool, each with severity, words and a runbook."""

from pathlib import Path

import pytest
import yaml
from support.charts import NAMESPACE
from support.prometheus_rules import ALL_ON, alerts, job, promtool, rule_groups

ROOT = Path(__file__).parents[3]
RUNBOOKS = ROOT / "docs/runbooks"
pytestmark = pytest.mark.usefixtures("helm_program")
every_chart = pytest.mark.parametrize("chart", list(ALL_ON))


@every_chart
def test_prometheus_accepts_them(chart: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": rule_groups(chart)}))
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", path)
    assert done.returncode == 0, done.stdout + done.stderr


@every_chart
def test_each_alert_says_how_bad_it_is_and_what_it_means(chart: str) -> None:
    for rule in alerts(rule_groups(chart)):
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
        assert set(rule["annotations"]) >= {"summary", "description"}, rule["alert"]
        assert rule["alert"].startswith("Visionloop")


def test_no_group_of_inference_is_without_its_file_of_stories() -> None:
    """Each of those files sees that its own group is complete."""
    for group in rule_groups("inference"):
        name = group["name"].removeprefix("visionloop-inference-")
        assert Path(__file__).with_name(f"test_inference_{name}_alerts.py").exists()


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    names = {rule["alert"] for chart in ALL_ON for rule in alerts(rule_groups(chart))}
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == names
    index = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    for name in names:
        assert f"[{name}]({name}.md)" in index
        text = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
        for heading in ("Impact", "First look", "Causes", "When to escalate"):
            assert f"\n## {heading}\n" in text, name


def test_alerts_lead_to_their_runbooks_and_can_be_left_out() -> None:
    values = {
        "monitoring.rules.disabled": ["VisionloopModelStale", "VisionloopSaturated"],
        "global.monitoring.runbookBase": "https://wiki/x/",
        "monitoring.rules.labels.team": "vision",
    }
    rules = {rule["alert"]: rule for rule in alerts(rule_groups("inference", **values))}
    assert {"VisionloopModelStale", "VisionloopSaturated"}.isdisjoint(rules)
    pending = rules["VisionloopModelPending"]
    url = "https://wiki/x/VisionloopModelPending.md"
    assert pending["annotations"]["runbook_url"] == url
    assert "runbook" not in pending["annotations"]
    assert pending["labels"].items() >= {"severity": "warning", "team": "vision"}.items()


@every_chart
def test_each_alert_says_whose_it_is(chart: str) -> None:
    """Without it those of two releases would be one to Alertmanager."""
    for rule in alerts(rule_groups(chart)):
        assert rule["labels"].items() >= {"namespace": NAMESPACE, "job": job(chart)}.items()


@every_chart
def test_without_an_address_alerts_name_their_page_and_link_nowhere(chart: str) -> None:
    """A link that leads nowhere is worse than none, to whoever is woken by it."""
    for rule in alerts(rule_groups(chart)):
        assert "runbook_url" not in rule["annotations"]
        assert (ROOT / rule["annotations"]["runbook"]).is_file()
