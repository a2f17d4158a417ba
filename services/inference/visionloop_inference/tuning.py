"""What is measured once for a graph on a machine: its threads, its best batch, what batches cost.

One thread is compared with all cores at warm-up, because no rule tells: on two cores ResNet-50 runs
twice as fast on both, while a graph that mostly reads its input is slower on both than on one. All
cores must be worth it (1.2 times the rows a second), for whoever decodes and parses wants them too;
where that is close, both run again in turns.
Measuring costs a few seconds, bounded; what was found is kept in a JSON file under the digest of
the graph's structure, the kind of machine and all that would change the answer. So it is found
again at the next start, and by the next version of a network, which has other weights and costs the
same: a swap measures nothing beside the traffic. The kernel says how long our threads waited for a
core: where that was much, other work had its hand in the figures, and they are good for an hour
only (a runner that dies under load is soon back), not for tomorrow. Price: where neighbours never
rest, a start always measures.
"""

import contextlib
import ctypes
import fcntl
import json
import logging
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter, time
from typing import Any

import numpy as np
import onnxruntime

from visionloop.bundle import Bundle, TensorsBundle
from visionloop.doctor.accelerators import gpu_name
from visionloop_inference import bfloat16
from visionloop_inference.datatypes import DATATYPES, Arrays
from visionloop_inference.machine import cores
from visionloop_inference.pace import Pace
from visionloop_inference.providers import Target
from visionloop_inference.session import Session

log = logging.getLogger(__name__)

WORTH_ALL_CORES = 1.2  # times the rows a second that one thread does
DOUBT = 1.5  # a gain within this factor of WORTH_ALL_CORES is measured again, in turns
TURNS_SECONDS = 0.4
MOST_TURNS = 20
BUDGET = 1.5  # seconds after which no larger batch is tried, for each number of threads
GPU_BUDGET = 15.0  # the same on a GPU, whose first run loads libraries and kernels
GPU_WARM_UPS = 4  # runs of each size that do not count
BUSY = 0.2  # share of the time that threads may wait for a core on a quiet machine
# Seconds that a batch costs a runner and a front end around its run: a wake-up, a turn of the loop,
# a send (bench.link). Without them a cheap graph that does not gain by batches runs row by row.
TURN = 100e-6
PROVISIONAL = 3600.0  # seconds that figures from a busy machine are good for
MOST_ENTRIES = 256
FORMAT = 3  # changes with all that makes older figures wrong
FIRST_GUESS = 0.001  # seconds of a batch, where no example could be run

Example = Callable[[int], Arrays]  # rows -> inputs on which the graph runs


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found: `seconds` maps rows to what a batch of them takes."""

    threads: int
    batch: int
    seconds: Mapping[int, float] = field(repr=False)
    quiet: bool = True  # nothing else wanted the cores

    @classmethod
    def guess(cls, threads: int, batch: int) -> "Tuned":
        """For a graph that no example runs on; its pace corrects itself with the first requests."""
        return cls(threads, batch, dict.fromkeys((1, batch), FIRST_GUESS))

    @property
    def rows_a_second(self) -> float:
        return self.batch / (TURN + self.seconds[self.batch])


class TuningFile:
    """The findings of this machine, shared by all runners on it. Without a path it keeps nothing.

    A file that cannot be read or written costs the measuring and nothing else.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def get(self, key: str) -> Tuned | None:
        """What was found under this key, if something was."""
        if self._path is None:
            return None
        try:
            found = self._read()[key]
            seconds = {int(rows): float(took) for rows, took in found["seconds"].items()}
            quiet = bool(found.get("quiet", True))
            tuned = Tuned(int(found["threads"]), int(found["batch"]), seconds, quiet)
            if not quiet and time() - found["measured"] > PROVISIONAL:
                return None
            if tuned.threads < 1 or not 0 < seconds[tuned.batch] < float("inf"):
                raise ValueError("it makes no sense")
        except KeyError:
            return None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("%s is not used: %s", self._path, error)
            return None
        return tuned

    def put(self, key: str, tuned: Tuned) -> None:
        """Keeps a finding; the oldest go when there are too many."""
        if self._path is None:
            return
        try:
            with self._locked():
                entries = {}
                with contextlib.suppress(OSError, ValueError):
                    entries = self._read()
                entries[key] = {
                    "threads": tuned.threads,
                    "batch": tuned.batch,
                    "seconds": {str(rows): took for rows, took in tuned.seconds.items()},
                    "quiet": tuned.quiet,
                    "measured": round(time()),
                }
                newest = sorted(entries, key=lambda known: entries[known].get("measured", 0))
                kept = {known: entries[known] for known in newest[-MOST_ENTRIES:]}
                new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
                new.write_text(json.dumps({"format": FORMAT, "entries": kept}, indent=1))
                new.replace(self._path)
        except OSError as error:
            log.warning(
                "%s cannot be written, the next start measures again: %s", self._path, error
            )

    def _read(self) -> dict[str, dict[str, Any]]:
        if self._path is None or not self._path.exists():
            return {}
        content = json.loads(self._path.read_text())
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError("its format is not known here")
        entries = content.get("entries")
        if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
            raise ValueError("it holds no entries")
        return entries

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time; the lock goes with the process that holds it."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_name(f"{self._path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def key(structure: str, target: Target, threads: int, max_batch: int, *, pad: str) -> str:
    """Names all that a finding depends on. `threads` is what was asked for, 0: measure."""
    where = f"{target.provider}{target.device} {gpu_name(target.device)}" if target.gpu else "cpu"
    return (
        f"{structure} on {_machine()}, onnxruntime {onnxruntime.__version__} {where}, "
        f"threads {threads} batch {max_batch} pad {pad}"
    )


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
    on_gpu = session.target.gpu
    began, waited = perf_counter(), _waited()
    pace = Pace.measure(
        lambda rows: session.run(example(rows)),
        max_batch,
        budget=GPU_BUDGET if on_gpu else BUDGET,
        warm_ups=GPU_WARM_UPS if on_gpu else 0,
        turn=TURN,
    )
    quiet = _waited() - waited <= BUSY * threads * (perf_counter() - began)
    seconds = dict(zip(pace.sizes, pace.times, strict=True))
    tuned = Tuned(threads, pace.batch, seconds, quiet)
    log.info(
        "%d threads: %.1f rows a second in batches of %d", threads, tuned.rows_a_second, tuned.batch
    )
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


def _machine() -> str:
    """The processor's name and the cores of it that are ours; not the host's name, which a pod
    changes with every start."""
    name = platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name} x{cores()}"
