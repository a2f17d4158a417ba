"""Waiting for what another thread or process does: asked over and over, given up in words."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 60.0  # seconds; only a broken program makes a test wait so long


def wait_for(what: Callable[[], T], *, patience: float = PATIENCE, hint: str = "") -> T:
    """Asks until the answer is true, and gives it."""
    end = time.monotonic() + patience
    while not (found := what()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {patience} s in vain for {hint or what}")
        time.sleep(0.01)
    return found


async def until(what: Callable[[], T], *, patience: float = PATIENCE, hint: str = "") -> T:
    """The same, while the loop's other tasks go on."""
    end = time.monotonic() + patience
    while not (found := what()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {patience} s in vain for {hint or what}")
        await asyncio.sleep(0.001)
    return found
