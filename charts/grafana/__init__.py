"""Grafana's dashboards, written as what they show; `python -m charts.grafana` makes their JSON.

    charts/inference/dashboards/        service-slo, model, batching-gpu
    charts/labeling-ingest/dashboards/  labelling-funnel
    charts/training/dashboards/         training-runs

The JSON is what the charts ship and what Grafana imports; a test keeps it current, and runs every
query against a real Prometheus that has scraped the real programs. A panel that needs somebody
else's exporter says which.
"""

from pathlib import Path

from charts.grafana.batching_gpu import BATCHING_GPU
from charts.grafana.document import as_json
from charts.grafana.labelling_funnel import LABELLING_FUNNEL
from charts.grafana.model import MODEL
from charts.grafana.panels import Dashboard
from charts.grafana.service_slo import SERVICE_SLO
from charts.grafana.training_runs import TRAINING_RUNS

CHARTS = Path(__file__).resolve().parents[1]
DASHBOARDS = (SERVICE_SLO, MODEL, BATCHING_GPU, LABELLING_FUNNEL, TRAINING_RUNS)


def path_of(dashboard: Dashboard) -> Path:
    """Where its JSON stands."""
    return CHARTS / dashboard.chart / "dashboards" / f"{dashboard.name}.json"


def main() -> None:
    """Writes all of them."""
    for dashboard in DASHBOARDS:
        path_of(dashboard).parent.mkdir(parents=True, exist_ok=True)
        path_of(dashboard).write_text(as_json(dashboard), encoding="utf-8")
