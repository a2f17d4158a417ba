"""How a metric is declared: once, as data, in the module of the program that fills it.

`visionloop.telemetry.inference`, `.labeling`, `.training` and `.rpc` hold the metrics as constants;
importing one makes its metrics appear in this process's `exposition`. docs/metrics.md is the same
data as a table. The values live in pages (see `pages`), so that a program of several processes adds
them up in one place: its parent calls `adopt` for each child and `fold` when the child is gone, the
child calls `write_to`. The price of constants is one set of values per process: two services in one
process share their counts, which only tests do.
"""

import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from visionloop.telemetry.pages import Labels, Page, PageFullError

log = logging.getLogger(__name__)

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
    labels: Labels
    help: str
    buckets: tuple[float, ...] = ()  # upper edges; +Inf is not among them


class _Numbers:
    """Where one labelled series of this process counts."""

    __slots__ = ("_buckets", "_first", "_lock", "_numbers")

    def __init__(self, metric: Metric, labels: Labels) -> None:
        # Histogram: one per bucket, one for +Inf, the sum. Gauge: its value, whether it is told.
        count = {"counter": 1, "gauge": 2, "histogram": len(metric.buckets) + 2}[metric.kind]
        self._buckets = metric.buckets
        self._lock = _page.lock
        try:
            self._first = _page.series(metric.name, labels, count).first
            self._numbers = _page.numbers
        except PageFullError as error:
            # No answer may fail because it cannot be counted: it counts where nobody looks.
            _tell_full(error)
            self._first = 0
            self._numbers = memoryview(bytearray(8 * count)).cast("d")


def _tell_full(error: PageFullError) -> None:
    """Once: there may be thousands more, one with each request."""
    global _full
    if not _full:
        _full = True
        log.error("%s; this and what comes later is not counted", error)


class CounterSeries(_Numbers):
    """What only grows."""

    __slots__ = ()

    def inc(self, amount: float = 1.0) -> None:
        with self._lock:
            self._numbers[self._first] += amount


class GaugeSeries(_Numbers):
    """What goes up and down."""

    __slots__ = ()

    def __init__(self, metric: Metric, labels: Labels) -> None:
        super().__init__(metric, labels)
        self._numbers[self._first + 1] = 1.0

    def set(self, value: float) -> None:
        self._numbers[self._first] = value
        self._numbers[self._first + 1] = 1.0

    def inc(self, amount: float = 1.0) -> None:
        with self._lock:
            self._numbers[self._first] += amount

    def withdraw(self) -> None:
        """Tells nothing until it is set again: 0 would say something."""
        self._numbers[self._first + 1] = 0.0


class HistogramSeries(_Numbers):
    """A distribution."""

    __slots__ = ()

    def observe(self, value: float) -> None:
        bucket = bisect_left(self._buckets, value)
        with self._lock:
            self._numbers[self._first + bucket] += 1.0
            self._numbers[self._first + len(self._buckets) + 1] += value

    @contextmanager
    def time(self) -> Iterator[None]:
        """Observes the seconds that the block takes."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - began)


S = TypeVar("S", CounterSeries, GaugeSeries, HistogramSeries)


class _Declared(Generic[S]):
    """A metric with labels: `labels` gives one of its series, for callers to keep and count on."""

    def __init__(self, metric: Metric, kind: Callable[[Metric, Labels], S]) -> None:
        self.metric = metric
        self._kind: Callable[[Metric, Labels], S] = kind
        self._series: dict[Labels, S] = {}

    def labels(self, *values: str, **named: str) -> S:
        """The series of these label values, all by position or all by name."""
        if named:
            values = tuple(named[name] for name in self.metric.labels)
        found = self._series.get(values)
        if found is None:
            if len(values) != len(self.metric.labels) or len(named) > len(values):
                raise ValueError(f"{self.metric.name} has the labels {self.metric.labels}")
            found = self._series[values] = self._kind(self.metric, tuple(map(str, values)))
        return found


class Counter(_Declared[CounterSeries]):
    def inc(self, amount: float = 1.0) -> None:
        self.labels().inc(amount)


class Gauge(_Declared[GaugeSeries]):
    def set(self, value: float) -> None:
        self.labels().set(value)

    def withdraw(self, *values: str) -> None:
        """Ends the series of these label values, if there is one, until it is set again."""
        if (found := self._series.get(values)) is not None:
            found.withdraw()


class Histogram(_Declared[HistogramSeries]):
    def observe(self, value: float) -> None:
        self.labels().observe(value)

    def time(self) -> AbstractContextManager[None]:
        return self.labels().time()


_declared: dict[str, Metric] = {}
_page = Page.private()
_full = False  # and said so
_children: list[Page] = []
# A scrape reads in a thread of its own: no page may move or close under it, nor count twice.
_reading = threading.Lock()


def counter(program: str, name: str, text: str, labels: Labels = ()) -> Counter:
    """Declares what only grows; `name` ends in _total, unless another server made it known."""
    return Counter(_declare(Metric(program, name, "counter", labels, text)), CounterSeries)


def gauge(program: str, name: str, text: str, labels: Labels = ()) -> Gauge:
    """Declares what goes up and down."""
    return Gauge(_declare(Metric(program, name, "gauge", labels, text)), GaugeSeries)


def histogram(
    program: str,
    name: str,
    text: str,
    labels: Labels = (),
    buckets: tuple[float, ...] = LATENCY_BUCKETS,
) -> Histogram:
    """Declares a distribution; seconds unless the name says otherwise."""
    metric = Metric(program, name, "histogram", labels, text, buckets)
    return Histogram(_declare(metric), HistogramSeries)


def declared() -> tuple[Metric, ...]:
    """The metrics of all modules imported so far, in the order of their declaration."""
    return tuple(_declared.values())


def write_to(page: Page) -> None:
    """From now on this process counts on `page`. For a child, before it counts anything."""
    global _page
    _page = page


def adopt(page: Page) -> None:
    """The exposition of this process includes what a child counts on this page."""
    with _reading:
        _children.append(page)


def fold(page: Page) -> None:
    """A child is gone: keeps its counts, forgets its gauges, closes its page."""
    with _reading:
        _children.remove(page)
        for series, numbers in page.read():
            metric = _declared.get(series.metric)
            if metric is not None and metric.kind != "gauge":
                try:
                    mine = _page.series(series.metric, series.labels, series.count)
                except PageFullError as error:
                    _tell_full(error)
                    continue
                with _page.lock:
                    for place, number in enumerate(numbers):
                        _page.numbers[mine.first + place] += number
        page.close()


def values() -> dict[str, dict[Labels, list[float]]]:
    """metric name -> label values -> numbers, added up over this process and its children.

    One number, or for a histogram the count of each bucket (not cumulative), of +Inf, and the sum.
    """
    found: dict[str, dict[Labels, list[float]]] = {name: {} for name in _declared}
    with _reading:
        for page in (_page, *_children):
            for series, numbers in page.read():
                if (of_metric := found.get(series.metric)) is None:
                    continue
                if _declared[series.metric].kind == "gauge" and not numbers.pop():
                    continue  # withdrawn
                before = of_metric.get(series.labels)
                of_metric[series.labels] = (
                    numbers if before is None else _merged(series.metric, before, numbers)
                )
    return found


def _merged(metric: str, before: list[float], numbers: list[float]) -> list[float]:
    if metric.endswith("_timestamp_seconds"):  # moments: the latest counts
        return [max(a, b) for a, b in zip(before, numbers, strict=True)]
    return [a + b for a, b in zip(before, numbers, strict=True)]


class _Pages(Collector):
    """All declared metrics for Prometheus."""

    def collect(
        self,
    ) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        found = values()
        for metric in declared():
            series = found[metric.name]
            if not metric.labels:
                series = series or {(): [0.0] * (len(metric.buckets) + 2)}
            yield _family(metric, series)


def _family(
    metric: Metric, series: dict[Labels, list[float]]
) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    name, text, labels = metric.name, metric.help, metric.labels
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(name, text, labels=labels)
        edges = [*map(str, metric.buckets), "+Inf"]
        for values, (*counts, total) in series.items():
            histogram.add_metric(values, list(zip(edges, accumulate(counts), strict=True)), total)
        return histogram
    # The library ends every counter's name in _total; Triton's do not end so, and stay untyped.
    total_ending = metric.kind == "counter" and name.endswith("_total")
    kind = CounterMetricFamily if total_ending else GaugeMetricFamily
    family = kind(name, text, labels=labels)
    for values, numbers in series.items():
        family.add_metric(values, numbers[0])
    return family


def _declare(metric: Metric) -> Metric:
    if metric.name in _declared:
        raise ValueError(f"{metric.name} is declared twice")
    _declared[metric.name] = metric
    return metric


REGISTRY = CollectorRegistry(auto_describe=False)
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)
REGISTRY.register(_Pages())


def exposition() -> tuple[bytes, str]:
    """The body of a GET /metrics, and its content type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
