"""The soak's verdicts: a leak and a slow-down are seen, and noise is not taken for one."""

import random
from dataclasses import replace

import pytest

from bench.soak.report import Sample, table, verdicts

GOOD = Sample(
    at=0.0, calls=500, failed=0, wrong=0, p50_ms=4.0, p99_ms=20.0, version=1, swaps=0, kills=0,
    supervisor_mib=45.0, front_ends_mib=60.0, runners_mib=80.0, descriptors=50, processes=3,
    machine_load=1.0,
)  # fmt: skip


def samples(count: int = 40, **growth: float) -> list[Sample]:
    """Noise of a few percent, and what grows by so much from the first to the last."""
    chance = random.Random(1)
    made = []
    for at in range(count):
        noise = {
            name: getattr(GOOD, name) * chance.uniform(0.97, 1.03) + more * at / count
            for name, more in ({"p99_ms": 0.0, "runners_mib": 0.0} | growth).items()
        }
        made.append(replace(GOOD, at=float(at), **noise))
    return made


def outcomes(found: list[Sample]) -> dict[str, str]:
    return {verdict.claim: verdict.outcome for verdict in verdicts(found)}


def test_noise_is_flat() -> None:
    assert set(outcomes(samples()).values()) == {"holds"}


@pytest.mark.parametrize(
    ("growth", "claim"),
    [
        ({"supervisor_mib": 120.0}, "the supervisor's memory is flat"),
        ({"front_ends_mib": 120.0}, "the front ends' memory is flat"),
        ({"runners_mib": 120.0}, "the runners' memory is flat"),
        ({"descriptors": 40.0}, "descriptors do not leak"),
        ({"p99_ms": 400.0}, "latency is flat"),
    ],
)
def test_what_grows_is_seen(growth: dict[str, float], claim: str) -> None:
    found = outcomes(samples(**growth))
    assert found.pop(claim) == "does not hold"
    assert set(found.values()) == {"holds"}


def test_one_wrong_answer_is_seen() -> None:
    made = [*samples(), replace(GOOD, wrong=1)]
    assert outcomes(made)["every answer is that of the version it names"] == "does not hold"


def test_a_few_samples_say_nothing_of_flatness() -> None:
    found = outcomes(samples(5))
    assert found["latency is flat"] == "too short to say"
    assert outcomes([])["every answer is that of the version it names"] == "does not hold"


def test_the_table_has_a_line_for_each_sample() -> None:
    lines = table(samples(3)).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
