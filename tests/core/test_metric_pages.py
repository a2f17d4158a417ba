"""Counts in pages: added up over processes, kept when one of them is killed."""

import os
import signal
import subprocess
import sys
import threading
from array import array
from collections.abc import Iterator

import pytest

from visionloop.telemetry import metrics, pages

CALLS = metrics.counter("test", "visionloop_test_calls_total", "Calls of a test.", ("kind",))
DEPTH = metrics.gauge("test", "visionloop_test_depth", "A depth in a test, nothing else.")
LEVEL = metrics.gauge("test", "visionloop_test_level", "A level in a test.", ("kind",))
SIZES = metrics.histogram(
    "test", "visionloop_test_sizes", "Sizes seen in a test.", ("kind",), buckets=(1.0, 2.0)
)

CHILD = """
import sys
from visionloop.telemetry import metrics, pages
metrics.write_to(pages.Page.shared(int(sys.argv[1])))
calls = metrics.counter("test", "visionloop_test_calls_total", "Calls of a test.", ("kind",))
depth = metrics.gauge("test", "visionloop_test_depth", "A depth in a test, nothing else.")
sizes = metrics.histogram(
    "test", "visionloop_test_sizes", "Sizes seen in a test.", ("kind",), buckets=(1.0, 2.0)
)
calls.labels("a").inc(3)
depth.set(5)
for size in (0.5, 1.0, 1.5, 9.0):
    sizes.labels(kind="b").observe(size)
print("counted", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child() -> Iterator[tuple[subprocess.Popen[str], pages.Page]]:
    fd = pages.shared_memory()
    page = pages.Page.shared(fd)
    metrics.adopt(page)
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(fd)],
        pass_fds=[fd], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(fd)
    assert process.stdout is not None
    assert process.stdout.readline() == "counted\n"
    yield process, page
    process.kill()
    process.communicate()


def sample(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name, labels)


def test_what_a_killed_child_counted_stays(
    child: tuple[subprocess.Popen[str], pages.Page],
) -> None:
    process, page = child
    before = sample("visionloop_test_calls_total", kind="a") or 0.0
    CALLS.labels("a").inc()
    DEPTH.set(1.0)
    assert sample("visionloop_test_calls_total", kind="a") == before + 1
    assert sample("visionloop_test_depth") == 6.0
    process.send_signal(signal.SIGKILL)
    process.wait()
    metrics.fold(page)
    assert sample("visionloop_test_calls_total", kind="a") == before + 1
    assert sample("visionloop_test_depth") == 1.0  # a dead process has no depth
    SIZES.labels("b").observe(0.1)
    assert sample("visionloop_test_sizes_bucket", kind="b", le="1.0") == 3.0
    assert sample("visionloop_test_sizes_bucket", kind="b", le="2.0") == 4.0
    assert sample("visionloop_test_sizes_bucket", kind="b", le="+Inf") == 5.0
    assert sample("visionloop_test_sizes_count", kind="b") == 5.0
    assert sample("visionloop_test_sizes_sum", kind="b") == pytest.approx(12.1)


def test_a_gauge_that_was_withdrawn_has_no_series_until_it_is_set() -> None:
    LEVEL.labels("a").set(2.0)
    LEVEL.labels("b")
    held = LEVEL.labels("a")
    for _ in range(2):
        LEVEL.withdraw("a")
        LEVEL.withdraw("never there")
        assert sample("visionloop_test_level", kind="a") is None
        assert sample("visionloop_test_level", kind="b") == 0.0
        assert sample("visionloop_test_level", kind="never there") is None
        held.set(3.0)
        assert sample("visionloop_test_level", kind="a") == 3.0


def test_a_child_tells_only_its_own_gauges_no_more() -> None:
    fd = pages.shared_memory()
    page = pages.Page.shared(fd)
    os.close(fd)
    LEVEL.labels("shared").set(1.0)
    theirs = page.series("visionloop_test_level", ("shared",), 2)
    page.numbers[theirs.first : theirs.first + 2] = memoryview(array("d", (5.0, 1.0)))
    metrics.adopt(page)
    assert sample("visionloop_test_level", kind="shared") == 6.0
    page.numbers[theirs.first + 1] = 0.0
    assert sample("visionloop_test_level", kind="shared") == 1.0
    metrics.fold(page)


def test_threads_lose_no_counts() -> None:
    series = CALLS.labels("threads")
    threads = [
        threading.Thread(target=lambda: [series.inc() for _ in range(20_000)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sample("visionloop_test_calls_total", kind="threads") == 80_000


def test_a_full_page_says_so() -> None:
    page = full_page()
    assert page.series("m", ("x",), pages.NUMBERS - 1).first == 1  # known: no new room
    with pytest.raises(pages.PageFullError, match="full"):
        page.series("m", ("y",), 1)


def full_page() -> pages.Page:
    page = pages.Page.private()
    page.series("m", ("x",), pages.NUMBERS - 1)
    return page


def test_what_has_no_room_is_left_out_and_costs_nobody_an_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As the classes of a model that knows twenty thousand, each with its own counter."""
    monkeypatch.setattr(metrics, "_page", full_page())
    monkeypatch.setattr(metrics, "_full", False)
    for kind in ("species 20,001", "species 20,002"):
        CALLS.labels(kind).inc()
        LEVEL.labels(kind).set(1.0)
        LEVEL.withdraw(kind)
        SIZES.labels(kind).observe(5.0)
        assert sample("visionloop_test_calls_total", kind=kind) is None
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "the metric page is full"
    ]


def test_a_child_that_dies_leaves_what_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    page = pages.Page.private()
    for kind in ("no room", "room"):
        page.numbers[page.series("visionloop_test_calls_total", (kind,), 1).first] = 3.0
    parent = pages.Page.private()
    parent.series("visionloop_test_calls_total", ("room",), 1)
    parent.series("m", ("x",), pages.NUMBERS - 2)
    monkeypatch.setattr(metrics, "_page", parent)
    metrics.adopt(page)
    metrics.fold(page)
    assert sample("visionloop_test_calls_total", kind="room") == 3.0
    assert sample("visionloop_test_calls_total", kind="no room") is None


@pytest.mark.parametrize("labels", [(), ("a", "b")])
def test_labels_must_fit(labels: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="has the labels"):
        CALLS.labels(*labels)


class ReadSlowly(pages.Page):
    """A page whose first reading stops in the middle until `go`."""

    begun: threading.Event
    go: threading.Event

    def read(self) -> Iterator[tuple[pages.Series, list[float]]]:
        first = not self.begun.is_set()
        for found in super().read():
            self.begun.set()
            if first:
                self.go.wait(10)
            yield found


def test_a_child_that_dies_during_a_scrape_is_counted_once() -> None:
    fd = pages.shared_memory()
    page = ReadSlowly.shared(fd)
    os.close(fd)
    page.begun, page.go = threading.Event(), threading.Event()
    for kind in ("first", "second"):
        series = page.series("visionloop_test_calls_total", (kind,), 1)
        page.numbers[series.first] = 7.0
    metrics.adopt(page)
    found: list[object] = []
    folded: list[Exception] = []

    def scrape() -> None:
        found.append(sample("visionloop_test_calls_total", kind="second"))

    def fold() -> None:
        try:
            metrics.fold(page)
        except Exception as error:  # noqa: BLE001 — whatever it is, the test tells
            folded.append(error)

    scraping, folding = threading.Thread(target=scrape), threading.Thread(target=fold)
    scraping.start()
    page.begun.wait(10)
    folding.start()
    folding.join(0.2)  # it has to wait for the scrape; where it does not, it is over by now
    page.go.set()
    scraping.join()
    folding.join()
    assert (found, folded) == ([7.0], [])
    assert sample("visionloop_test_calls_total", kind="second") == 7.0


GROWING = """
import sys
from visionloop.telemetry import pages
page = pages.Page.shared(int(sys.argv[1]))
for number in range(30_000):
    page.series("m", (str(number),), 1)
"""


def test_a_reader_never_misses_what_was_there_before() -> None:
    """A scrape while a child takes up a new series: counters must not seem to begin anew."""
    fd = pages.shared_memory()
    page = pages.Page.shared(fd)
    length = memoryview(page._memory)[:8].cast("Q")
    process = subprocess.Popen([sys.executable, "-c", GROWING, str(fd)], pass_fds=[fd])
    os.close(fd)
    seen = [0]
    while process.poll() is None:
        seen += [length[0] for _ in range(5_000)]
        assert seen == sorted(seen)
        del seen[:-1]
    length.release()
    assert process.returncode == 0
    assert len(list(page.read())) == 30_000
    page.close()
