"""What one broken upload costs everybody else: the same load with and without a truncated JPEG."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.serving.figures import spread
from bench.serving.load import own_command, read_own, run
from bench.serving.pictures import truncated
from bench.serving.subjects import Serving
from bench.serving.workloads import Images

CONCURRENCY = 16
LENGTH = 32  # requests, of which one is bad


@dataclass(frozen=True, slots=True)
class Burst:
    """Medians over interleaved pairs."""

    ratio: float  # answers/s with the bad image ÷ answers/s without
    spread: float
    pairs: int
    answers: int
    changed: int  # answers that were not what the same image gets alone


def measure(workload: Images, serving: Serving, pairs: int, seconds: float) -> Burst:
    """Raises UnavailableError when the server or the generator gives up."""
    pictures = [picture.read_bytes() for picture in workload.pictures]
    good = [pictures[index % len(pictures)] for index in range(LENGTH)]
    bad = [*good[:-1], truncated(good[-1])]
    ratios: list[float] = []
    answers = changed = 0
    for pair in range(pairs):
        rates = {}
        # Each goes first in every second pair: a machine that slows down favours neither.
        for name, burst in (("good", good), ("bad", bad))[:: -1 if pair % 2 else 1]:
            rates[name], wrong = _one(workload, serving, burst, seconds)
            answers += round(rates[name] * seconds)
            changed += wrong
        ratios.append(rates["bad"] / rates["good"])
    return Burst(statistics.median(ratios), spread(ratios), pairs, answers, changed)


def _one(
    workload: Images, serving: Serving, burst: Sequence[bytes], seconds: float
) -> tuple[float, int]:
    """(answers/s, answers that differ from what the image gets when it is sent alone)."""
    bodies = [workload.body(picture) for picture in burst]
    plan = workload.plan(serving, bodies, CONCURRENCY, seconds)
    answers = read_own(run(own_command(plan, workload.scratch), serving, seconds).output)
    return answers.images_per_second, answers.errors
