"""The charts that can be installed, and the files that are made from their values."""

from pathlib import Path

import yaml

from charts.tooling.schema import as_text, schema_of
from charts.tooling.table import renewed, table_of
from charts.tooling.values import read_values

FOLDER = Path(__file__).parents[1]
CHARTS = tuple(
    chart
    for chart in ("inference", "labeling-ingest", "training", "visionloop")
    if (FOLDER / chart / "Chart.yaml").exists()
)


def generated(chart: str) -> dict[Path, str]:
    """Path and content of each file that is made from the chart's values.yaml."""
    folder = FOLDER / chart
    facts = yaml.safe_load((folder / "Chart.yaml").read_text(encoding="utf-8"))
    names = [one["name"] for one in facts.get("dependencies", ()) if one["name"] != "common"]
    values = read_values(folder / "values.yaml")
    page = folder / "README.md"
    return {
        folder / "values.schema.json": as_text(schema_of(values, tuple(names))),
        page: renewed(page.read_text(encoding="utf-8"), table_of(values)),
    }
