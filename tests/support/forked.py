"""A child of this process that was forked, not started anew, and does nothing but live."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def forked_at_first() -> Iterator[Callable[[], None]]:
    """What forks, the first time it is called; the child lives as long as the block."""
    end, begin = os.pipe()
    children: list[int] = []

    def fork() -> None:
        if children:
            return
        child = os.fork()
        if child == 0:
            os.close(begin)
            os.read(end, 1)
            os._exit(0)
        children.append(child)

    try:
        yield fork
    finally:
        os.close(begin)
        os.close(end)
        for child in children:
            os.waitpid(child, 0)
