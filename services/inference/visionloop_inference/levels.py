"""Who goes first: the levels of priority, one scale for every way in.

1 comes first. 2 is the normal level, and what a request that names none (0) has. From 3 on it is
work of low priority: it runs when no other row waits, and has only a share of the queue
(`admission`). What names none in a stream for bulk work has 3, since whoever streams wants all of
it done, not each of it soon.

Work of low priority leaves room while others call, before they wait: a batch that runs is not
interrupted, and neither is an image that is being decoded. Others call for `AFTERWARDS` seconds
after each of their requests, since who has asked is likely to ask again.
"""

from typing import Final

NORMAL: Final = 2
BULK: Final = 3
LAST: Final = 255
AFTERWARDS: Final = 10.0  # seconds


def level_of(priority: int, otherwise: int = NORMAL) -> int:
    """The level of a request that says `priority`; `otherwise` for 0."""
    return min(priority, LAST) or otherwise


def is_low(level: int) -> bool:
    """Whether it is behind the normal level."""
    return level > NORMAL
