"""Programs under measurement: started, counted with all their children, stopped.

What a server costs is the sum over its whole tree of processes: workers and helpers count, and so
do children that have ended meanwhile (the kernel adds their CPU to the parent that waited for
them). Everything is read from /proc, so this runs on Linux only.
"""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
STOP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a tree of processes at one moment. CPU since its start, in seconds; memory in bytes."""

    at: float  # time.perf_counter()
    cpu: float
    rss: int  # shared pages are counted once for each process that maps them
    processes: int  # those that have not ended


@dataclass(frozen=True, slots=True)
class _Process:
    parent: int
    session: int
    cpu: float
    rss: int
    alive: bool  # False: it has ended, and its parent has not asked how yet


def usage(root: int) -> Usage:
    """Of the process `root`, all its descendants, and all that share its session."""
    at = time.perf_counter()
    found = _processes()
    tree = [
        found[pid] for pid in members(root, {p: (s.parent, s.session) for p, s in found.items()})
    ]
    return Usage(
        at=at,
        cpu=sum(process.cpu for process in tree),
        rss=sum(process.rss for process in tree),
        processes=sum(process.alive for process in tree),
    )


def members(root: int, relations: Mapping[int, tuple[int, int]]) -> set[int]:
    """The pids of root's tree; `relations` maps a pid to its parent and its session.

    A daemon that left its parent still counts while it is in the session that root leads.
    """
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in relations.items():
        children.setdefault(parent, []).append(pid)
    waiting = [pid for pid, (_, session) in relations.items() if root in (pid, session)]
    tree: set[int] = set()
    while waiting:
        pid = waiting.pop()
        if pid not in tree:
            tree.add(pid)
            waiting.extend(children.get(pid, ()))
    return tree


def machine_cpu() -> float:
    """CPU seconds that all cores together have worked since boot, for anybody, steal included."""
    fields = (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / _TICKS


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _relations(found: Mapping[int, _Process]) -> dict[int, tuple[int, int]]:
    return {pid: (process.parent, process.session) for pid, process in found.items()}


def _processes() -> dict[int, _Process]:
    found = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = parse_stat((entry / "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended in between
    return found


def parse_stat(line: str) -> _Process:
    """One line of /proc/<pid>/stat (proc(5)); the name in parentheses may hold anything."""
    fields = line.rpartition(")")[2].split()
    # Counted from 1 in the manual; the name is field 2, so `fields` starts at field 3.
    parent, session = int(fields[4 - 3]), int(fields[6 - 3])
    ticks = sum(map(int, fields[14 - 3 : 18 - 3]))  # user and system, own and of ended children
    return _Process(
        parent, session, ticks / _TICKS, int(fields[24 - 3]) * _PAGE, fields[3 - 3] != "Z"
    )


class Program:
    """A running command that leads a session of its own; its output goes to a log file."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.command = list(command)
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self.started = time.perf_counter()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )

    @property
    def pid(self) -> int:
        """The root of the tree."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """True once the root has exited."""
        return self._process.poll() is not None

    def usage(self) -> Usage:
        """Of the whole tree, now."""
        return usage(self.pid)

    def last_words(self, lines: int = 4) -> str:
        """The end of its log, on one line."""
        text = self.log.read_text(errors="replace").strip().splitlines()
        return " | ".join(line.strip() for line in text[-lines:]) or "it said nothing"

    def stop(self) -> None:
        """SIGTERM to the root; what is left of the tree when it has ended gets SIGKILL.

        The tree is looked up before: orphans are not found by their parent any more. A pidfd names
        the process itself, so that its number may be taken again meanwhile.
        """
        tree = [fd for fd in map(_pidfd, members(self.pid, _relations(_processes()))) if fd]
        if not self.ended:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        for fd in tree:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        for fd in tree:
            select.select([fd], [], [], STOP_SECONDS)  # readable once it has ended
            os.close(fd)
        self._process.wait()


def _pidfd(pid: int) -> int:
    """0 when the process has ended."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return 0
