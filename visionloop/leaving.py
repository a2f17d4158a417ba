"""The end of a program although a call of it hangs.

A call to a store or a database that hangs cannot be cancelled, and Python waits at its end for the
thread that it is in: for minutes, and who started the program kills it meanwhile. So a program that
has finished its work calls `leave`. What it leaves behind has been given up before, by time limits
of their own; nothing is lost by it.
"""

import logging
import os
import threading
import time

log = logging.getLogger(__name__)

THREAD_SECONDS = 2.0
LOOK_EVERY = 0.02


def leave(seconds: float = THREAD_SECONDS) -> None:
    """Returns once no thread is at work; after `seconds` it ends the process, with exit code 0."""
    end = time.monotonic() + seconds
    while at_work := _threads_at_work():
        if time.monotonic() > end:
            log.warning("calls that do not come back are left behind: %s", ", ".join(at_work))
            logging.shutdown()
            os._exit(0)
        time.sleep(LOOK_EVERY)


def _threads_at_work() -> list[str]:
    """Names of the threads that Python would wait for."""
    ours = threading.current_thread()
    return [each.name for each in threading.enumerate() if each is not ours and not each.daemon]
