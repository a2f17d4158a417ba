"""Rows, verdicts and options: what is printed follows from what was measured."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.serving.burst import Burst
from bench.serving.load import Window
from bench.serving.measure import Cell, Measured, Round
from bench.serving.options import from_environment
from bench.serving.report import COLUMNS, Row, row_of, rows_of, table
from bench.serving.table import markdown
from bench.serving.verdicts import FAILED, NOT_MEASURED, PASSED, Verdict, verdicts
from visionloop.errors import ConfigurationError

SCHEMA = (
    "peer", "model", "concurrency", "images_per_second", "p50_ms", "p99_ms", "ratio_to_limit",
    "server_cpu_s_per_1000", "rss_mb", "ready_s",
)  # fmt: skip


def window(rate: float, **values: Any) -> Window:
    defaults: dict[str, Any] = {
        "p50_ms": 1.0, "p99_ms": 2.0, "mean_batch": 4.0, "server_cores": 1.0,
        "generator_cores": 0.0, "other_cores": 0.0, "rss": 2**20, "errors": 0, "problems": (),
    }  # fmt: skip
    return Window(images_per_second=rate, **(defaults | values))


def row(peer: str = "visionloop", model: str = "resnet50", **values: Any) -> Row:
    defaults: dict[str, Any] = {
        "concurrency": 16, "images_per_second": 100.0, "p50_ms": 10.0, "p99_ms": 20.0,
        "ratio_to_limit": 0.95, "server_cpu_s_per_1000": 1.0, "rss_mb": 1.0, "ready_s": 1.0,
        "pairs": 5, "spread": 0.04, "mean_batch": 4.0, "generator_cores": 0.1,
        "cold_ready_s": 2.0, "echo_ratio": 0.8, "cpu_ratio": 0.9,
    }  # fmt: skip
    return Row(peer=peer, model=model, **(defaults | values))


GOOD = Burst(ratio=0.999, spread=0.01, pairs=10, answers=1000, changed=0)


def outcome(claim: str, *rows: Row, burst: Burst | str = GOOD, **skipped: str) -> Verdict:
    """The verdict whose claim holds this text."""
    (found,) = [v for v in verdicts(rows, burst, skipped) if claim in v.claim]
    return found


def test_a_row_is_the_median_of_its_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.serving.measure.cores", lambda: 2)
    echo = window(200.0, server_cores=0.5)
    cell = Cell("visionloop", "pool", 4, ready_s=1.5, cold_ready_s=2.5)
    cell.rounds = [
        Round(window(rate, generator_cores=0.5), limit=200.0, limit_cpu=0.005, echo=echo)
        for rate in (90.0, 100.0, 120.0)
    ]
    found = row_of(cell)
    assert found.images_per_second == 100.0
    assert found.spread == pytest.approx(0.3)
    assert found.pairs == 3
    # Half a core of two went to the generator: three quarters were left to the limit.
    assert found.ratio_to_limit == pytest.approx(100 / (200 * 0.75))
    assert found.server_cpu_s_per_1000 == pytest.approx(10.0)
    assert found.echo_ratio == pytest.approx(0.5)
    assert found.cpu_ratio == pytest.approx(0.010 / (1.25 * (0.0025 + 0.005) + 50e-6))
    assert found.rss_mb == 1.0


def test_the_columns_begin_as_agreed() -> None:
    assert COLUMNS[: len(SCHEMA)] == SCHEMA
    assert tuple(row().as_json())[: len(SCHEMA)] == SCHEMA
    lines = table([row(), row("onnxruntime", rss_mb=None)]).splitlines()
    assert lines[0].split() == list(COLUMNS)
    assert len({line.index("16") for line in lines[1:]}) == 1  # aligned
    assert "-" in lines[2].split()


def test_the_echo_has_no_ratio_to_the_graphs_limit() -> None:
    cell = Cell("grpc-echo", "pool", 1)
    one = window(100.0)
    cell.rounds = [Round(one, limit=100.0, limit_cpu=0.001, echo=one)]
    assert rows_of(Measured(cells=[cell]))[0].ratio_to_limit is None


@pytest.mark.parametrize(
    ("claim", "good", "bad"),
    [
        ("bare loop", {}, {"ratio_to_limit": 0.89}),
        ("CPU of a request", {}, {"cpu_ratio": 1.01}),
        ("p99 at 16", {"p99_ms": 25.0}, {"p99_ms": 25.1}),
        ("warm", {"ready_s": 2.9}, {"ready_s": 3.0}),
    ],
)
def test_a_bar_is_passed_or_failed(
    claim: str, good: dict[str, float], bad: dict[str, float]
) -> None:
    claims = {"bare loop": "resnet50 at least", "warm": "first answer"}
    wanted = claims.get(claim, claim)
    assert outcome(wanted, row(**good)).outcome == PASSED
    assert outcome(wanted, row(**good), row(**{"concurrency": 16, **bad})).outcome in (
        (PASSED if claim == "warm" else FAILED),  # one start counts, every load must be good
    )
    assert outcome(wanted, row(**bad)).outcome == FAILED
    assert "(!)" in str(outcome(wanted, row(**bad)))
    assert outcome(wanted).outcome == NOT_MEASURED


def test_pool_is_compared_with_the_echo_and_with_shared_memory() -> None:
    pool = row(model="pool")
    assert outcome("bare echo", pool).outcome == PASSED
    assert outcome("bare echo", replace(pool, echo_ratio=0.69)).outcome == FAILED
    shared = row("visionloop-shm", "pool", images_per_second=200.0)
    assert outcome("shared memory", pool, shared).outcome == PASSED
    assert (
        outcome("shared memory", pool, replace(shared, images_per_second=199.0)).outcome == FAILED
    )
    other = replace(shared, concurrency=4)  # nothing to compare it with
    assert outcome("shared memory", pool, other).outcome == NOT_MEASURED
    reason = verdicts([pool], GOOD, {"visionloop-shm on pool": "no flag"})
    assert any(v.outcome == NOT_MEASURED and v.numbers == "no flag" for v in reason)


@pytest.mark.parametrize(
    ("model", "theirs", "expected"),
    [
        ("pool", 99.0, PASSED),
        ("pool", 100.0, FAILED),
        ("resnet50", 101.0, PASSED),  # within half of the spread of 0.04
        ("resnet50", 103.0, FAILED),
    ],
)
def test_a_rival_must_be_behind(model: str, theirs: float, expected: str) -> None:
    rival = row("mlserver", model, images_per_second=theirs)
    assert outcome("ahead of mlserver", row(model=model), rival).outcome == expected
    assert outcome("ahead of pytriton", row(model=model), rival).outcome == NOT_MEASURED


def test_a_rival_that_did_not_run_leaves_its_reason() -> None:
    skipped = {"pytriton on pool": "it cannot be installed: no wheel"}
    found = [v for v in verdicts([row()], GOOD, skipped) if "pytriton" in v.claim]
    assert [v.numbers for v in found] == ["it cannot be installed: no wheel"]


@pytest.mark.parametrize(
    ("burst", "expected"),
    [
        (GOOD, PASSED),
        (replace(GOOD, ratio=0.98), FAILED),
        (replace(GOOD, changed=1), FAILED),
        ("it did not start", NOT_MEASURED),
    ],
)
def test_a_bad_image_costs_nearly_nothing(burst: Burst | str, expected: str) -> None:
    assert outcome("a bad image", burst=burst).outcome == expected


def test_markdown_of_a_run() -> None:
    document = {
        "machine": {
            "at": "2026-01-02T03:04:05Z", "cores": 2, "cpu": "A CPU", "python": "3.11",
            "onnxruntime": "1.31", "visionloop": "0.1",
        },
        "generator": "perf_analyzer",
        "options": {"pairs": 5, "seconds": 2.0},
        "rows": json.loads(json.dumps([row().as_json()])),
        "verdicts": [{"claim": "a | b", "outcome": "passed", "numbers": "1"}],
        "skipped": {"ray on pool": "no wheel"},
    }  # fmt: skip
    text = markdown(document)
    assert "| visionloop | resnet50 | 16 | 100 |" in text
    assert "a \\| b" in text
    assert "- ray on pool: no wheel" in text


def test_options_come_from_the_environment() -> None:
    options = from_environment({"PEERS": "ray, visionloop", "MODELS": "pool", "CONCURRENCY": "1,8"})
    assert options.peers == ("visionloop", "ray")
    assert options.models == ("pool",)
    assert options.concurrency == (1, 8)
    assert options.pairs == 5
    assert options.minutes < from_environment({}).minutes
    assert from_environment({"OUTPUT": "x"}).output == Path("x")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PEERS", "triton"), ("MODELS", "vgg"), ("CONCURRENCY", "1,0"), ("PAIRS", "many"),
        ("SECONDS", "0.01"), ("GENERATOR", "wrk"), ("SECONDS", "nan"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named(variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=variable) as caught:
        from_environment({variable: value})
    assert caught.value.field == variable
