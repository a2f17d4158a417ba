"""Trying again with exponential back-off and full jitter, for what a client library does not retry.

botocore repeats requests; it does not repeat a body that breaks off while it is read, nor a
conditional write that collided with another one (409). With the defaults the last of four attempts
starts at most 1.4 s after the first failed.
"""

import random
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

ATTEMPTS = 4
FIRST_DELAY_SECONDS = 0.2


def retrying(
    call: Callable[[], Result], *, when: Callable[[BaseException], bool], attempts: int = ATTEMPTS
) -> Result:
    """The result of `call`, tried again while it raises an Exception for which `when` holds."""
    for attempt in range(attempts - 1):
        try:
            return call()
        except Exception as error:
            if not when(error):
                raise
        # Jitter keeps pods that failed together from coming back together.
        time.sleep(random.uniform(0, FIRST_DELAY_SECONDS * 2**attempt))  # noqa: S311
    return call()
