"""What this process may use of the machine."""

import os
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
