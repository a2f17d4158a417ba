"""What this process may use of the machine."""

import contextlib
import os
import resource
from pathlib import Path


def cores() -> int:
    """CPU cores this process may use: its affinity, or a smaller cgroup quota."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return allowed
    if quota == "max":
        return allowed
    return max(1, min(allowed, round(int(quota) / int(period))))


def memory() -> int | None:
    """Bytes this process and its children may use by its cgroup; None where nothing is said."""
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # "max" is no number
        return None


def die_first() -> None:
    """Where memory runs out, the kernel takes this process, which comes back, not another."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def allow_all_descriptors() -> None:
    """Lets this process, and what it starts, open as many files as it ever may.

    Each connection is one. Container runtimes and shells start programs with 1,024, for the sake of
    those that wait by select(), which nothing here does.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # some sandboxes forbid it
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
