"""What a dashboard is made of: panels, and the queries that come up again and again."""

from dataclasses import dataclass
from typing import Any

DCGM = "NVIDIA's DCGM exporter"
KUBE = "kube-state-metrics"


@dataclass(frozen=True)
class Query:
    """One PromQL expression and what its series are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel; `kind` and `unit` in Grafana's words."""

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    text: str = ""  # what to look for
    needs: str = ""  # an exporter that is not ours


@dataclass(frozen=True)
class Dashboard:
    """A dashboard over the releases of one chart; `variable` names further variables' labels."""

    name: str
    chart: str
    title: str
    listed_by: str  # a metric whose jobs are the releases to choose from
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    variables: tuple[tuple[str, str], ...] = ()  # label, metric that has it


def panel(title: str, *queries: tuple[str, str] | str, **how: Any) -> Panel:
    """Queries as texts, or as pairs with a legend."""
    made = (Query(query) if isinstance(query, str) else Query(*query) for query in queries)
    return Panel(title, tuple(made), **how)


J = 'job=~"$job"'
M = f'{J},model=~"$model"'
RATE = "[$__rate_interval]"


def per_second(metric: str, by: str, where: str = J) -> str:
    """The rate of a counter."""
    return f"sum by ({by}) (rate({metric}{{{where}}}{RATE}))"


def in_an_hour(metric: str, by: str, where: str = J) -> str:
    """The increase of a counter that grows seldom."""
    return f"sum by ({by}) (increase({metric}{{{where}}}[1h]))"


def highest(metric: str, by: str, where: str = J) -> str:
    """A gauge that every replica tells alike."""
    return f"max by ({by}) ({metric}{{{where}}})"


def quantile(share: float, metric: str, by: str = "", where: str = J) -> str:
    """A quantile of a histogram."""
    rates = per_second(f"{metric}_bucket", f"{by}, le" if by else "le", where)
    return f"histogram_quantile({share}, {rates})"


def quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    """Median, 95th and 99th percentile of a histogram."""
    shares = ((0.5, "median"), (0.95, "p95"), (0.99, "p99"))
    return tuple((quantile(share, metric), legend) for share, legend in shares)
