"""The processes below one process, and what they hold."""

import os
from contextlib import suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """Its children that live, zombies left out."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # threads come and go meanwhile
            found += [int(child) for child in (task / "children").read_text().split()]
    return [child for child in found if is_alive(child)]


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def running(pid: int, module: str) -> list[int]:
    """The children of `pid` that run this module, as "visionloop_inference.runner_process"."""
    return [child for child in children(pid) if module in command(child)]


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def descriptors(pid: int) -> int:
    """How many file descriptors it has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 — the names alone


def shared_mappings(pid: int) -> int:
    """How many memfd mappings it has: arenas and metric pages."""
    return Path(f"/proc/{pid}/maps").read_text().count("/memfd:")


def resident(pid: int) -> int:
    """Bytes of memory that are this process's own."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return 1024 * int(kilobytes)
