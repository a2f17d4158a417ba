"""What a soak showed: samples as a table, and whether memory and latency stayed flat.

The first half of a run fills what is filled once (caches, heaps, tuning) and kills processes; in
the second half versions go on changing, but processes grow old. The verdict compares the two
quarters of that half: medians, because a sample may meet a swap. Memory is flat when its growth is
below MOST_GROWTH and MOST_MIB, latency when its p99 is not MOST_SLOWER times as long; a machine
that does other things moves the latter more than a leak would, so its load stands beside it.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

MOST_GROWTH, MOST_MIB = 0.10, 10.0  # memory may grow by a tenth, or by so much
MOST_SLOWER = 1.3
LEAST_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class Sample:
    """One interval. Times in seconds since the start; memory in MiB, what is shared left out."""

    at: float
    calls: int
    failed: int
    wrong: int
    p50_ms: float
    p99_ms: float
    version: int
    swaps: int
    kills: int
    supervisor_mib: float
    front_ends_mib: float
    runners_mib: float
    descriptors: int  # of the supervisor and the front ends
    processes: int
    machine_load: float  # processes that wanted a core, ours included


COLUMNS: tuple[tuple[str, Callable[[Sample], str]], ...] = (
    ("s", lambda s: f"{s.at:.0f}"),
    ("calls", lambda s: f"{s.calls}"),
    ("failed", lambda s: f"{s.failed}"),
    ("wrong", lambda s: f"{s.wrong}"),
    ("p50 ms", lambda s: f"{s.p50_ms:.1f}"),
    ("p99 ms", lambda s: f"{s.p99_ms:.1f}"),
    ("version", lambda s: f"{s.version}"),
    ("swaps", lambda s: f"{s.swaps}"),
    ("kills", lambda s: f"{s.kills}"),
    ("supervisor MiB", lambda s: f"{s.supervisor_mib:.1f}"),
    ("front ends MiB", lambda s: f"{s.front_ends_mib:.1f}"),
    ("runners MiB", lambda s: f"{s.runners_mib:.1f}"),
    ("descriptors", lambda s: f"{s.descriptors}"),
    ("machine load", lambda s: f"{s.machine_load:.1f}"),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One claim."""

    claim: str
    outcome: str  # "holds", "does not hold", or "too short to say"
    numbers: str

    def __str__(self) -> str:
        return f"{self.outcome:16} {self.claim}: {self.numbers}"


def table(samples: Sequence[Sample]) -> str:
    """One line for each sample."""
    lines = [[name for name, _ in COLUMNS]]
    lines += [[shown(sample) for _, shown in COLUMNS] for sample in samples]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def verdicts(samples: Sequence[Sample]) -> list[Verdict]:
    """Flat or not, right or not."""
    wrong = sum(sample.wrong for sample in samples)
    answers = sum(sample.calls for sample in samples)
    found = [
        Verdict(
            "every answer is that of the version it names",
            _outcome(wrong == 0 and answers > 0),
            f"{wrong} wrong of {answers}",
        )
    ]
    for name, value in (
        ("supervisor's memory", lambda s: s.supervisor_mib),
        ("front ends' memory", lambda s: s.front_ends_mib),
        ("runners' memory", lambda s: s.runners_mib),
    ):
        found.append(_flat(f"the {name} is flat", samples, value, _memory_flat, "MiB"))
    found.append(
        _flat("descriptors do not leak", samples, lambda s: s.descriptors, _count_flat, "open")
    )
    found.append(_flat("latency is flat", samples, lambda s: s.p99_ms, _latency_flat, "ms p99"))
    return found


def _flat(
    claim: str,
    samples: Sequence[Sample],
    value: Callable[[Sample], float],
    flat: Callable[[float, float], bool],
    unit: str,
) -> Verdict:
    quarter = len(samples) // 4
    if len(samples) < LEAST_SAMPLES:
        return Verdict(claim, "too short to say", f"{len(samples)} samples, {LEAST_SAMPLES} needed")
    before = statistics.median(map(value, samples[-2 * quarter : -quarter]))
    after = statistics.median(map(value, samples[-quarter:]))
    return Verdict(claim, _outcome(flat(before, after)), f"{before:.1f} {unit}, then {after:.1f}")


def _outcome(holds: bool) -> str:
    return "holds" if holds else "does not hold"


def _memory_flat(before: float, after: float) -> bool:
    return after - before <= max(MOST_GROWTH * before, MOST_MIB)


def _count_flat(before: float, after: float) -> bool:
    return after - before <= 2  # a swap has two runners for a moment


def _latency_flat(before: float, after: float) -> bool:
    return after <= MOST_SLOWER * before


def as_json(samples: Sequence[Sample], found: Sequence[Verdict]) -> dict[str, object]:
    """For soak.json."""
    return {
        "samples": [asdict(sample) for sample in samples],
        "verdicts": [asdict(verdict) for verdict in found],
    }
