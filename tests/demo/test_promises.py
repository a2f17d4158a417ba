"""The demo's own arithmetic: it must be able to say no."""

import math

import pytest
from scipy.stats import binomtest

from visionloop.demo.load import Request
from visionloop.demo.promises import count_requests, mcnemar_worse, promises, quantile


def answered(sent: float, version: int, took: float = 0.1, error: str = "") -> Request:
    return Request(sent, sent + took, version, error)


def test_a_clean_swap_counts_nothing_wrong() -> None:
    run = [answered(t / 10, 1) for t in range(100)] + [answered(10 + t / 10, 2) for t in range(50)]
    counts, swapped = count_requests(run, (1, 2), promoted=8.95, after_seconds=2.95)
    assert (counts.sent, counts.failed, counts.wrong_version) == (150, 0, 0)
    assert swapped == pytest.approx(10.1)
    assert counts.during_swap == 41
    assert counts.p50_ms == pytest.approx(100)


def test_every_wrong_kind_is_seen() -> None:
    run = [
        answered(1.0, 2),  # the new one before its promotion
        answered(5.0, 2),
        answered(6.0, 1),  # the old one after the new one's first answer
        answered(6.1, 7),  # neither
        answered(6.2, 0, error="unavailable: gone"),
    ]
    counts, _ = count_requests(run, (1, 2), promoted=4.0, after_seconds=3.0)
    assert (counts.failed, counts.wrong_version) == (1, 3)
    late = [answered(0.0, 2), answered(0.05, 1)]  # sent before the answer was there: fair
    assert count_requests(late, (1, 2), promoted=0.0, after_seconds=3.0)[0].wrong_version == 0


def test_nothing_answered() -> None:
    counts, swapped = count_requests([answered(0, 0, error="x")], (1, 2), 0.0, 3.0)
    assert (counts.failed, swapped) == (1, math.inf)
    assert math.isnan(counts.p99_ms)
    assert quantile([1.0, 2.0, 3.0], 0.99) == 3.0


@pytest.mark.parametrize(("losses", "gains"), [(0, 0), (3, 9), (9, 3), (20, 5), (1, 0)])
def test_mcnemar_is_the_binomial_tail(losses: int, gains: int) -> None:
    expected = (
        binomtest(losses, losses + gains, 0.5, alternative="greater").pvalue
        if losses + gains
        else 1.0
    )
    assert mcnemar_worse(losses, gains) == pytest.approx(expected)


def test_broken_promises_are_named() -> None:
    report = {
        "requests": {"sent": 10, "failed": 1, "wrong_version": 2, "during_swap": 3},
        "rounds": [
            {"version": 1, "parity_max_abs_probability_difference": 0.0},
            {"version": 2, "parity_max_abs_probability_difference": 0.5},
        ],
        "served_version_at_end": 1,
    }
    assert [p.kept for p in promises(report, worse_p=0.01)] == [False] * 6
    report["requests"] = {"sent": 10, "failed": 0, "wrong_version": 0, "during_swap": 20}
    report["rounds"][1]["parity_max_abs_probability_difference"] = 1e-6
    report["served_version_at_end"] = 2
    assert [p.kept for p in promises(report, worse_p=0.5)] == [True] * 6
