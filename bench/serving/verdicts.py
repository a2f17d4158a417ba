"""What the figures must show, each as one line: passed, failed or not measured, with the numbers.

The bars are those of a machine of two cores that the load generator shares; elsewhere they are
still printed, with the machine beside them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.serving.burst import Burst
from bench.serving.options import RIVALS
from bench.serving.report import Row

OURS = "visionloop"
SHARED_MEMORY = "visionloop-shm"
LEAST_RATIO = 0.90  # resnet50, of the bare loop
LEAST_ECHO = 0.70  # pool, of the bare echo
LEAST_SHARED = 2.0  # pool through shared memory, of pool through the socket
MOST_P99 = 2.5  # of p50, at 16
MOST_READY = 3.0  # seconds, resnet50, warm
LEAST_BURST = 0.99  # of the throughput without the bad image

PASSED, FAILED, NOT_MEASURED = "passed", "failed", "not measured"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line."""

    claim: str
    outcome: str
    numbers: str

    def __str__(self) -> str:
        return f"{self.outcome:12}  {self.claim}: {self.numbers}"


def verdicts(rows: Sequence[Row], burst: Burst | str, skipped: dict[str, str]) -> list[Verdict]:
    """All of them. `burst` is a reason where it was not measured."""
    ours = [row for row in rows if row.peer == OURS]
    return [
        _near_the_limit(ours),
        _cheap(ours),
        _near_the_echo(ours),
        _shared_memory(ours, rows, skipped),
        *(_ahead(rival, ours, rows, skipped) for rival in RIVALS),
        _even(ours),
        _ready(ours),
        _burst(burst),
    ]


def _judge(claim: str, measured: Iterable[tuple[str, float, bool]], unmeasured: str) -> Verdict:
    """`measured` is (where, number, is it good); every one must be."""
    found = list(measured)
    if not found:
        return Verdict(claim, NOT_MEASURED, unmeasured)
    outcome = PASSED if all(good for _, _, good in found) else FAILED
    numbers = ", ".join(
        f"{where} {number:.3g}{'' if good else ' (!)'}" for where, number, good in found
    )
    return Verdict(claim, outcome, numbers)


def _place(row: Row) -> str:
    return f"{row.model} at {row.concurrency}"


def _near_the_limit(ours: Sequence[Row]) -> Verdict:
    return _judge(
        f"resnet50 at least {LEAST_RATIO} of the bare loop",
        (
            (f"at {row.concurrency}", row.ratio_to_limit, row.ratio_to_limit >= LEAST_RATIO)
            for row in ours
            if row.model == "resnet50" and row.ratio_to_limit is not None
        ),
        "visionloop did not run on resnet50",
    )


def _cheap(ours: Sequence[Row]) -> Verdict:
    return _judge(
        "CPU of a request at most 1.25 x (echo + bare loop) + 50 us, as a share of that",
        (
            (_place(row), row.cpu_ratio, row.cpu_ratio <= 1.0)
            for row in ours
            if row.cpu_ratio is not None
        ),
        "visionloop and the echo did not run side by side on tensors",
    )


def _near_the_echo(ours: Sequence[Row]) -> Verdict:
    return _judge(
        f"pool at least {LEAST_ECHO} of the bare echo",
        (
            (f"at {row.concurrency}", row.echo_ratio, row.echo_ratio >= LEAST_ECHO)
            for row in ours
            if row.model == "pool" and row.echo_ratio is not None
        ),
        "visionloop and the echo did not run side by side on pool",
    )


def _shared_memory(ours: Sequence[Row], rows: Sequence[Row], skipped: dict[str, str]) -> Verdict:
    plain = {row.concurrency: row for row in ours if row.model == "pool"}
    pairs = [
        (row.concurrency, row.images_per_second / plain[row.concurrency].images_per_second)
        for row in rows
        if row.peer == SHARED_MEMORY and row.concurrency in plain
    ]
    return _judge(
        f"system shared memory at least {LEAST_SHARED:g} x pool",
        ((f"at {concurrency}", ratio, ratio >= LEAST_SHARED) for concurrency, ratio in pairs),
        skipped.get(f"{SHARED_MEMORY} on pool", "it did not run on pool"),
    )


def _ahead(
    rival: str, ours: Sequence[Row], rows: Sequence[Row], skipped: dict[str, str]
) -> Verdict:
    theirs = {(row.model, row.concurrency): row for row in rows if row.peer == rival}
    reasons = [reason for what, reason in skipped.items() if what.startswith(f"{rival} ")]
    found = []
    for row in ours:
        other = theirs.get((row.model, row.concurrency))
        if other is not None:
            ratio = row.images_per_second / other.images_per_second
            found.append((_place(row), ratio, ratio > _bar(row, other)))
    return _judge(
        f"ahead of {rival} in images/s (resnet50: not behind beyond the spread)",
        found,
        reasons[0] if reasons else "it did not run beside visionloop",
    )


def _bar(row: Row, other: Row) -> float:
    return 1.0 - max(row.spread, other.spread) / 2 if row.model == "resnet50" else 1.0


def _even(ours: Sequence[Row]) -> Verdict:
    return _judge(
        f"p99 at 16 at most {MOST_P99} x p50",
        (
            (row.model, row.p99_ms / row.p50_ms, row.p99_ms <= MOST_P99 * row.p50_ms)
            for row in ours
            if row.concurrency == 16
        ),
        "visionloop did not run at 16",
    )


def _ready(ours: Sequence[Row]) -> Verdict:
    rows = [row for row in ours if row.model == "resnet50" and row.ready_s is not None][:1]
    return _judge(
        f"resnet50 from start to first answer in less than {MOST_READY:g} s, warm",
        (
            (f"(cold {row.cold_ready_s:.3g} s) warm", row.ready_s, row.ready_s < MOST_READY)
            for row in rows
            if row.ready_s is not None and row.cold_ready_s is not None
        ),
        "visionloop did not run on resnet50",
    )


def _burst(burst: Burst | str) -> Verdict:
    claim = "a bad image in a burst changes no other answer and costs less than 1 % of throughput"
    if isinstance(burst, str):
        return Verdict(claim, NOT_MEASURED, burst)
    good = burst.ratio >= LEAST_BURST and burst.changed == 0
    numbers = (
        f"{burst.ratio:.4f} of the throughput without it (median of {burst.pairs} pairs, spread "
        f"{burst.spread:.3f}), {burst.changed} of {burst.answers} answers changed"
    )
    return Verdict(claim, PASSED if good else FAILED, numbers)
