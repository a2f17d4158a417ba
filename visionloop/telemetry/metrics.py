"""How a metric is declared: once, as data, in the module of the program that fills it.

`visionloop.telemetry.inference`, `.labeling`, `.training` and `.rpc` hold the metrics as constants;
importing one makes its metrics appear in this process's `exposition`. docs/metrics.md is the same
data as a table. The price of constants is one registry per process: two services in one process
share their counts, which only tests do.
"""

from dataclasses import dataclass

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

# Seconds. 0.25 s and the other round numbers are there because alerts compare with them.
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
JOB_BUCKETS = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)  # seconds
ROW_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One declared metric, as the table of docs/metrics.md shows it."""

    program: str
    name: str
    kind: str  # counter, gauge or histogram
    labels: tuple[str, ...]
    help: str


REGISTRY = CollectorRegistry(auto_describe=True)
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

_declared: list[Metric] = []


def counter(program: str, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
    """Declares what only grows; `name` ends in _total."""
    _declare(program, name, "counter", labels, text)
    return Counter(name, text, labels, registry=REGISTRY)


def gauge(program: str, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
    """Declares what goes up and down."""
    _declare(program, name, "gauge", labels, text)
    return Gauge(name, text, labels, registry=REGISTRY)


def histogram(
    program: str,
    name: str,
    text: str,
    labels: tuple[str, ...] = (),
    buckets: tuple[float, ...] = LATENCY_BUCKETS,
) -> Histogram:
    """Declares a distribution; seconds unless the name says otherwise."""
    _declare(program, name, "histogram", labels, text)
    return Histogram(name, text, labels, buckets=buckets, registry=REGISTRY)


def declared() -> tuple[Metric, ...]:
    """The metrics of all modules imported so far, in the order of their declaration."""
    return tuple(_declared)


def exposition() -> tuple[bytes, str]:
    """The body of a GET /metrics, and its content type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST


def _declare(program: str, name: str, kind: str, labels: tuple[str, ...], text: str) -> None:
    _declared.append(Metric(program, name, kind, labels, text))
