"""The arithmetic behind every figure."""

import pytest

from bench.serving.figures import bracket, percentile, rate_at, spread
from bench.serving.limits import Limit, Limits
from bench.serving.workloads import together


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        (range(1, 101), 99, 99),
        (range(1, 101), 50, 50),
        (range(1, 101), 100, 100),
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([3.0, 1.0, 2.0], 99, 3.0),
        ([7.0], 1, 7.0),
    ],
)
def test_a_percentile_is_the_nearest_rank(
    values: list[float], percent: float, expected: float
) -> None:
    assert percentile(list(values), percent) == expected


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no percentile"):
        percentile([], 50)


def test_the_spread_is_a_share_of_the_median() -> None:
    assert spread([90.0, 100.0, 120.0]) == pytest.approx(0.3)
    assert spread([5.0]) == 0.0


def test_the_limit_between_two_batch_sizes_follows_the_line_of_seconds() -> None:
    seconds = {4: 0.04, 8: 0.06}
    assert rate_at(seconds, 4) == pytest.approx(100.0)
    assert rate_at(seconds, 8) == pytest.approx(8 / 0.06)
    assert rate_at(seconds, 6) == pytest.approx(6 / 0.05)
    assert rate_at(seconds, 2) == pytest.approx(100.0)  # outside: the nearest size's cost of a row
    assert rate_at(seconds, 50) == pytest.approx(8 / 0.06)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [(1.0, {1}), (1.3, {1, 2}), (8.0, {8}), (11.9, {8, 16}), (200.0, {64}), (0.0, {1})],
)
def test_the_batch_sizes_around_a_mean_batch(batch: float, expected: set[int]) -> None:
    assert bracket(batch, 64) == expected


def test_limits_interpolate_throughput_and_cost() -> None:
    def limit(batch: int, rate: float, cpu: float) -> Limit:
        return Limit(batch, 1, rate, p50_ms=1.0, p99_ms=1.0, cpu_s_per_image=cpu)

    limits = Limits({1: limit(1, 100.0, 0.02), 2: limit(2, 125.0, 0.012)})
    assert limits.images_per_second(1.0) == pytest.approx(100.0)
    assert limits.images_per_second(1.5) == pytest.approx(1.5 / 0.013)
    assert limits.cpu_s_per_image(1.0) == pytest.approx(0.02)
    assert limits.cpu_s_per_image(1.5) == pytest.approx(0.022 / 1.5)
    both = together(limit(1, 100.0, 0.02), limit(1, 400.0, 0.004))
    assert both.images_per_second == pytest.approx(80.0)
    assert both.cpu_s_per_image == pytest.approx(0.024)
