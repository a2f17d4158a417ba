"""The parts of one request, worked on side by side."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def together(parts: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """What each gives, in their order.

    The first error is raised, and ends the other parts: a request that has failed gives back its
    room, so nothing of it may go on, outside of all limits. (`asyncio.gather` lets it go on, and
    `asyncio.TaskGroup` raises a group.)
    """
    if len(parts) == 1:
        return [await parts[0]]
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
