"""Starts this node's processes of one run, and answers for all of them with one exit code.

    visionloop-train --processes-per-node 2 …                      one machine
    visionloop-train --nodes 4 --node-rank 2 --master-addr HOST …  the same command on each of four

torchrun does the same and ends with 1 whatever happened; a Kubernetes Job must tell "preempted, run
me again" (85) from "refused, never again" (65). The places in the run are fixed when it starts
(RANK, WORLD_SIZE, MASTER_ADDR: what torchrun sets, too), so one process lost ends all of them at
once, and the checkpoint carries the run over. What is not here: growing and shrinking while a run
goes on. Nothing of torch is imported; the children do that.

SIGTERM goes on to every child, and then the children decide when they are done. When a child fails,
the others get SIGTERM, and SIGKILL after GRACE_SECONDS: it may have left them in an exchange that
never ends.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import FrameType

from visionloop.errors import ConfigurationError

GRACE_SECONDS = 30.0
DEFAULT_PORT = 29400
_PR_SET_PDEATHSIG = 1
_LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
_FOR_GOOD = (64, 65, 66, 77)  # wrong, refused, not found, no right: it would end so again


@dataclass(frozen=True, slots=True)
class Place:
    """This node's part of a run of `nodes` × `processes` processes."""

    nodes: int = 1
    node_rank: int = 0
    processes: int = 1  # on each node
    master_addr: str = "127.0.0.1"
    master_port: int = DEFAULT_PORT

    def check(self) -> None:
        """Raises ConfigurationError for a place that cannot be."""
        count = self.nodes * self.processes
        if self.nodes < 1 or self.processes < 1:
            raise ConfigurationError(
                f"--nodes is {self.nodes} and --processes-per-node {self.processes}; "
                "both must be 1 or more",
                field="nodes",
            )
        if count & (count - 1):
            raise ConfigurationError(
                f"--nodes {self.nodes} × --processes-per-node {self.processes} are {count} "
                "processes; their number must be a power of two",
                field="nodes",
            )
        if not 0 <= self.node_rank < self.nodes:
            raise ConfigurationError(
                f"--node-rank is {self.node_rank}; of {self.nodes} nodes it is 0 to "
                f"{self.nodes - 1}",
                field="node_rank",
            )
        if self.nodes > 1 and self.master_addr in ("", "127.0.0.1", "localhost"):
            raise ConfigurationError(
                f"--master-addr is {self.master_addr!r}; {self.nodes} nodes need the address of "
                "node 0 that all of them can reach (or set MASTER_ADDR)",
                field="master_addr",
            )

    def environment(self, local_rank: int) -> dict[str, str]:
        """What a child's process reads, in torchrun's names."""
        return {
            "RANK": str(self.node_rank * self.processes + local_rank),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(self.nodes * self.processes),
            "LOCAL_WORLD_SIZE": str(self.processes),
            "GROUP_RANK": str(self.node_rank),
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": str(self.master_port),
        }


def needed(place: Place, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether processes must be started: not for a single one, nor inside one that was started."""
    launched = all(name in environment for name in _LAUNCHED)
    return not launched and place.nodes * place.processes > 1


def run(place: Place, command: Sequence[str]) -> int:
    """Runs `command` in each of this node's processes; returns one exit code.

    It is the leading process's (rank 0) own where that is on this node and says why it ended, else
    that of the first that failed; 128 + n for one killed by signal n. Where another one failed for
    good first, it is that one's: the leading process was only told to stop because of it, and its
    "run me again" would have the same end for ever.
    """
    place.check()
    if place.nodes == 1:
        place = Place(1, 0, place.processes, "127.0.0.1", _free_port())
    children = _Children()
    with children.signals():
        for local_rank in range(place.processes):
            environment = {**os.environ, **place.environment(local_rank)}
            children.start(command, environment)
        codes = children.ended()
    leading = codes.get(0, 0) if place.node_rank == 0 else 0
    first = next((code for code in codes.values() if code), 0)
    if first in _FOR_GOOD and not children.told:
        return first
    return _exit_code(leading if leading > 0 else first)


class _Children:
    """The processes of this node, in the order of their rank."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ended: SimpleQueue[tuple[int, int]] = SimpleQueue()
        self._told: int | None = None

    @property
    def told(self) -> bool:
        """Whether a signal from outside went on to them."""
        return self._told is not None

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts one more; a signal that came meanwhile is not lost on it."""
        child = subprocess.Popen(command, env=dict(environment), preexec_fn=_die_with_parent)
        number = len(self._processes)
        self._processes.append(child)
        if self._told is not None:
            child.send_signal(self._told)
        watch = threading.Thread(
            target=lambda: self._ended.put((number, child.wait())), daemon=True
        )
        watch.start()

    def ended(self) -> dict[int, int]:
        """Number and return code of every child in the order of their ends; waits for all."""
        codes: dict[int, int] = {}
        kill_at: float | None = None
        while len(codes) < len(self._processes):
            try:
                left = None if kill_at is None else max(0.0, kill_at - time.monotonic())
                number, code = self._ended.get(timeout=left)
            except Empty:
                self._tell(signal.SIGKILL)
                kill_at = None
                continue
            codes[number] = code
            if code and self._told is None and kill_at is None:
                self._tell(signal.SIGTERM)
                kill_at = time.monotonic() + GRACE_SECONDS
        return codes

    @contextmanager
    def signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C go on to the children; this process waits for them and lives on."""

        def told(number: int, _frame: FrameType | None) -> None:
            self._told = number
            self._tell(number)

        before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _tell(self, number: int) -> None:
        for child in self._processes:
            child.send_signal(number)  # looks first whether it is still there


def _exit_code(returned: int) -> int:
    return 128 - returned if returned < 0 else returned


def _free_port() -> int:
    """Two runs on one machine must not meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """In the child: a launcher that is killed must not leave processes behind that train on."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
