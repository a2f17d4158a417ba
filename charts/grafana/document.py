"""A dashboard as the JSON that Grafana imports."""

import json
from typing import Any

from charts.grafana.panels import Dashboard, M, Panel

GRID = 24  # columns of Grafana's grid
HEIGHT = 8
STABLE = f'visionloop_model_info{{{M},alias="stable"}} == 1'


def as_json(dashboard: Dashboard) -> str:
    """What Grafana imports."""
    variables = [("job", dashboard.listed_by), *dashboard.variables]
    document = {
        "title": dashboard.title,
        "uid": f"visionloop-{dashboard.name}",
        "tags": ["visionloop"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "links": [
            {
                "title": "Visionloop",
                "type": "dashboards",
                "tags": ["visionloop"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "annotations": {"list": [_promotions(dashboard)] if dashboard.name == "model" else []},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Prometheus", "type": "datasource",
                 "query": "prometheus"},
                *(_variable(label, metric) for label, metric in variables),
            ]
        },
        "panels": _panels(dashboard),
    }  # fmt: skip
    return json.dumps(document, indent=2) + "\n"


_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def _variable(label: str, metric: str) -> dict[str, Any]:
    return {
        "name": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": f"label_values({metric}, {label})", "refId": label},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }


def _promotions(dashboard: Dashboard) -> dict[str, Any]:
    del dashboard
    return {
        "name": "Promotions",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "purple",
        "expr": f"max by (model, version) ({STABLE}) unless max by (model, version) "
        f'(visionloop_model_info{{{M},alias="stable"}} offset 2m == 1)',
        "titleFormat": "{{model}} {{version}} is stable",
    }


def _panels(dashboard: Dashboard) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    top = 0
    for title, panels in dashboard.rows:
        place = {"x": 0, "y": top, "w": GRID, "h": 1}
        made.append({"id": len(made) + 1, "type": "row", "title": title, "gridPos": place})
        top += 1
        left = 0
        for shown in panels:
            if left + shown.width > GRID:
                left, top = 0, top + HEIGHT
            place = {"x": left, "y": top, "w": shown.width, "h": HEIGHT}
            made.append({"id": len(made) + 1, "gridPos": place, **_panel(shown)})
            left += shown.width
        top += HEIGHT
    return made


def _panel(shown: Panel) -> dict[str, Any]:
    text = [shown.text, f"Needs {shown.needs}." if shown.needs else ""]
    once = shown.kind in ("stat", "table")
    return {
        "type": shown.kind,
        "title": shown.title,
        "description": " ".join(filter(None, text)),
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": shown.unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                "instant": once,
                "range": not once,
                **({"format": "table"} if shown.kind == "table" else {}),
            }
            for place, query in enumerate(shown.queries)
        ],
    }
