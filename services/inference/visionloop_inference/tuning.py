"""What is measured once for a graph on a machine: its threads, its best batch, what batches cost.

One thread is compared with all cores at warm-up, because no rule tells: on two cores ResNet-50 runs
twice as fast on both, while a graph that mostly reads its input is slower on both than on one. All
cores must be worth it (1.2 times the rows a second), for whoever decodes and parses wants them too;
where that is close, both run again in turns.
Measuring costs a few seconds, bounded, and what was found is kept (`tuning_file`). The kernel says
how long our threads waited for a core: where that was much, other work had its hand in the figures,
and they are good for an hour only (a runner that dies under load is soon back), not for tomorrow.
So are figures that end where memory ran out, as it may while two versions are beside each other on
a GPU. Price: where neighbours never rest, a start always measures.
"""

import contextlib
import ctypes
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np

from visionloop.bundle import Bundle, TensorsBundle
from visionloop_inference import bfloat16
from visionloop_inference.datatypes import DATATYPES, Arrays
from visionloop_inference.machine import cores
from visionloop_inference.pace import Pace
from visionloop_inference.providers import Target
from visionloop_inference.session import OutOfMemoryError, Session
from visionloop_inference.tuning_file import TURN, Tuned

log = logging.getLogger(__name__)

WORTH_ALL_CORES = 1.2  # times the rows a second that one thread does
DOUBT = 1.5  # a gain within this factor of WORTH_ALL_CORES is measured again, in turns
TURNS_SECONDS = 0.4
MOST_TURNS = 20
BUDGET = 1.5  # seconds after which no larger batch is tried, for each number of threads
GPU_BUDGET = 15.0  # the same on a GPU, whose first run loads libraries and kernels
GPU_WARM_UPS = 4  # runs of each size that do not count
BUSY = 0.2  # share of the time that threads may wait for a core on a quiet machine

Example = Callable[[int], Arrays]  # rows -> inputs on which the graph runs


def tune(
    load: Callable[[int], Session],
    example: Example,
    candidates: Sequence[int],
    max_batch: int,
) -> tuple[Session, Tuned]:
    """Loads and measures the graph with each number of threads, fewest first; gives the best.

    More threads must bring WORTH_ALL_CORES times the rows. Raises what loading and running raise.
    """
    measured: list[tuple[Session, Tuned]] = []
    for threads in sorted(set(candidates)):
        session = load(threads)
        measured.append((session, _measure(session, example, threads, max_batch)))
    if not measured:
        raise ValueError("no number of threads to try")
    quiet = all(tuned.quiet for _, tuned in measured)
    session, tuned = _best(measured, example)
    measured.clear()
    with contextlib.suppress(OSError, AttributeError):  # no glibc
        # The sessions that lost: for ResNet-50 the runner would stay 180 MB larger.
        ctypes.CDLL(None).malloc_trim(0)
    return session, replace(tuned, quiet=quiet)


def _measure(session: Session, example: Example, threads: int, max_batch: int) -> Tuned:
    """Batches of growing size, and whether anything else wanted the cores meanwhile."""
    on_gpu, enough = session.target.gpu, True

    def run(rows: int) -> None:
        nonlocal enough
        try:
            session.run(example(rows))
        except OutOfMemoryError:
            enough = False
            raise

    began, waited = perf_counter(), _waited()
    pace = Pace.measure(
        run,
        max_batch,
        budget=GPU_BUDGET if on_gpu else BUDGET,
        warm_ups=GPU_WARM_UPS if on_gpu else 0,
        turn=TURN,
    )
    quiet = enough and _waited() - waited <= BUSY * threads * (perf_counter() - began)
    seconds = dict(zip(pace.sizes, pace.times, strict=True))
    tuned = Tuned(threads, pace.batch, seconds, quiet)
    log.info(
        "%d threads: %.1f rows a second in batches of %d", threads, tuned.rows_a_second, tuned.batch
    )
    return tuned


def run_each(session: Session, example: Example, tuned: Tuned, sizes: Sequence[int]) -> Tuned:
    """Runs batches of these sizes, ascending; what was found, as far as there is memory for it.

    Raises OutOfMemoryError where there is none for the smallest that was measured.
    """
    for rows in sizes:
        try:
            session.run(example(rows))
        except OutOfMemoryError:
            fewer = {size: took for size, took in tuned.seconds.items() if size < rows}
            if not fewer:
                raise
            log.warning("no memory for %d rows at once; batches have %d at most", rows, max(fewer))
            return replace(tuned, batch=max(fewer), seconds=fewer)
    return tuned


def _best(measured: Sequence[tuple[Session, Tuned]], example: Example) -> tuple[Session, Tuned]:
    """More threads where they are worth it; `measured` has the fewest first."""
    best = measured[0]
    for other in measured[1:]:
        gain = other[1].rows_a_second / best[1].rows_a_second
        if WORTH_ALL_CORES / DOUBT < gain < WORTH_ALL_CORES * DOUBT:
            gain = _gain_in_turns(best, other, example)
        if gain >= WORTH_ALL_CORES:
            best = other
    return best


def _gain_in_turns(
    fewer: tuple[Session, Tuned], more: tuple[Session, Tuned], example: Example
) -> float:
    """How many times the rows more threads bring, each at its best batch, run in turns.

    They were measured one after the other, while the front ends of a service that starts wanted
    the cores, too: what disturbed one of them must not decide.
    """
    least = [math.inf, math.inf]
    inputs = [example(tuned.batch) for _, tuned in (fewer, more)]
    began, rounds = perf_counter(), 0
    while rounds < MOST_TURNS and (rounds == 0 or perf_counter() - began < TURNS_SECONDS):
        for place, (session, _) in enumerate((fewer, more)):
            started = perf_counter()
            session.run(inputs[place])
            least[place] = min(least[place], perf_counter() - started)
        rounds += 1
    rates = [
        tuned.batch / (TURN + took) for took, (_, tuned) in zip(least, (fewer, more), strict=True)
    ]
    log.info("in turns, %d threads bring %.2f times the rows", more[1].threads, rates[1] / rates[0])
    return rates[1] / rates[0]


def candidates(threads: int, target: Target) -> list[int]:
    """The numbers of threads to try: the one asked for, or with 0 one and all cores.

    Beside a GPU the cores only fetch and carry: one thread.
    """
    if threads > 0:
        return [threads]
    return [1] if target.gpu else [1, cores()]


def example_of(bundle: Bundle) -> Example | None:
    """Inputs on which the graph is known to run, for so many rows; None when there are none.

    Black images, or what the bundle says of plain tensors.
    """
    signature = bundle.signature
    shapes, value = [spec.shape for spec in signature.inputs], 0
    if isinstance(bundle, TensorsBundle):
        if bundle.warm_up is None:
            return None
        shapes, value = bundle.warm_up.shapes, bundle.warm_up.value
    kinds = [DATATYPES[spec.datatype] for spec in signature.inputs]

    def example(rows: int) -> Arrays:
        arrays = []
        for kind, sizes in zip(kinds, shapes, strict=True):
            shape = (rows, *sizes) if signature.batched else tuple(sizes)
            one: object = "1" if kind.numpy.hasobject else value
            nothing: object = "" if kind.numpy.hasobject else 0
            if kind.name == "BF16":
                one = bfloat16.ONE
            arrays.append(np.full(shape, one if value else nothing, kind.numpy))
        return arrays

    return example


def _waited() -> float:
    """Seconds that the threads of this process ever stood ready and had no core."""
    total = 0
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError, IndexError, ValueError):
            total += int((task / "schedstat").read_text().split()[1])
    return total / 1e9
