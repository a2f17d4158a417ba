"""A disk that a test may fill: a small file system, or, where none can be mounted, a limit.

Mounting is for root. For everybody else the kernel's limit on the size of a file stands in (EFBIG
instead of ENOSPC): it is set for a process, and counts for all that it writes, wherever. So tests
with it run everywhere, and no write is ever pretended to fail. SMALL_DISK=limit takes the limit in
any case.
"""

import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = r"(No space left on device|File too large)"  # what the kernel says, in either case


class SmallDisk:
    """A disk that can be filled and emptied; `folder` is its root."""

    def __init__(self, folder: Path, *, mounted: bool) -> None:
        self.folder = folder
        self.mounted = mounted
        self._ballast = folder / "ballast"
        self._limited: dict[int, tuple[int, int]] = {}

    def fill(self, process: int = 0) -> None:
        """From now on it takes nothing more, from `process` at least (0: this one)."""
        if self.mounted:
            _fill(self._ballast)
        elif process not in self._limited:
            before = resource.prlimit(process, resource.RLIMIT_FSIZE)
            resource.prlimit(process, resource.RLIMIT_FSIZE, (0, before[1]))
            self._limited[process] = before

    def empty(self) -> None:
        """It has room again."""
        self._ballast.unlink(missing_ok=True)
        while self._limited:
            process, before = self._limited.popitem()
            resource.prlimit(process, resource.RLIMIT_FSIZE, before)


@contextmanager
def small_disk(folder: Path, size: str = "48m") -> Iterator[SmallDisk]:
    """A disk in `folder` of so many bytes (as tmpfs writes them)."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = os.environ.get("SMALL_DISK") != "limit" and os.geteuid() == 0 and _done(mount)
    disk = SmallDisk(folder, mounted=mounted)
    try:
        yield disk
    finally:
        disk.empty()
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def _done(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))  # a page of tmpfs, so that nothing is left
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017
