"""Work that may wait, done without taking a core from those who answer requests.

A version that is loaded beside one that serves spends most of its seconds on imports and files. A
thread may lower its own priority and nobody, without rights, may raise it again; so such work gets
a thread of its own, which ends with it. What that thread starts inherits its priority for ever:
sessions, whose threads run the graph, must not be made here. Price: on a machine without a free
moment a load takes longer, since requests go first.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

LOWEST = 19  # niceness


def at_low_priority(work: Callable[[], T]) -> T:
    """What `work` returns or raises, called in a thread of the lowest priority."""
    done: Future[T] = Future()

    def run() -> None:
        with contextlib.suppress(OSError):  # some sandboxes forbid it: then at ours
            # On Linux the niceness is a thread's own.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 — raised where it is waited for
            done.set_exception(error)

    threading.Thread(target=run, name="low priority", daemon=True).start()
    return done.result()
