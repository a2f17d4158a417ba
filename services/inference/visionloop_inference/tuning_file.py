"""What was measured of graphs on this machine, in a file: for the next start, and for the next
version.

Each finding stands under the digest of the graph's structure, the kind of machine and all that
would change the answer. So it is found again at the next start, and by the next version of a
network, which has other weights and costs the same: a swap measures nothing beside the traffic.
What a busy machine or one short of memory gave is good for an hour only.
"""

import contextlib
import fcntl
import json
import logging
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any

import onnxruntime

from visionloop.doctor.accelerators import gpu_name
from visionloop_inference.machine import cores
from visionloop_inference.providers import Target

log = logging.getLogger(__name__)

# Seconds that a batch costs a runner and a front end around its run: a wake-up, a turn of the loop,
# a send (bench.link). Without them a cheap graph that does not gain by batches runs row by row.
TURN = 100e-6
PROVISIONAL = 3600.0  # seconds that figures from a busy machine are good for
MOST_ENTRIES = 256
FORMAT = 3  # changes with all that makes older figures wrong
FIRST_GUESS = 0.001  # seconds of a batch, where no example could be run


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found: `seconds` maps rows to what a batch of them takes."""

    threads: int
    batch: int
    seconds: Mapping[int, float] = field(repr=False)
    quiet: bool = True  # nothing else wanted the cores, or took the memory of a larger batch

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
