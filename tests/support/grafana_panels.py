"""The panels of the charts' dashboards, as Grafana would ask for them."""

import json

from support.charts import CHARTS


def panels(*, outside: bool) -> list[tuple[str, str]]:
    """Title and query of every target, with Grafana's variables filled in.

    `outside`: of the panels that need somebody else's exporter.
    """
    return [
        (f"{path.stem}: {panel['title']}", filled_in(target["expr"]))
        for path in sorted(CHARTS.glob("*/dashboards/*.json"))
        for panel in json.loads(path.read_text())["panels"]
        if ("Needs " in panel.get("description", "")) == outside
        for target in panel.get("targets", [])
    ]


def filled_in(expression: str) -> str:
    for name in ("job", "model", "dataset"):
        expression = expression.replace(f'"${name}"', '".*"')
    return expression.replace("$__rate_interval", "15s")
