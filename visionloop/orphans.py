"""Programs that end with the one that started them, however that one ended.

SIGKILL leaves nobody time to pass a signal on. Linux does it, when the child asks before it becomes
the program (PR_SET_PDEATHSIG); elsewhere nothing is asked for. Price: a few lines run in the child
between fork and exec, which is safe only where the parent has no other threads.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def ends_with_us(number: signal.Signals = signal.SIGTERM) -> Callable[[], None] | None:
    """For `Popen(preexec_fn=…)`: the child gets this signal when this process is gone.

    The kernel looks at the thread that started the child, so start it from one that stays.
    """
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def in_the_child() -> None:
        prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it had gone before we asked
            os._exit(128 + number)

    return in_the_child
