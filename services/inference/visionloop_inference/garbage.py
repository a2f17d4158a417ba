"""Python's cyclic garbage collector, told what a server is like.

By default it looks through every object of the process now and then, modules and all: some 30 ms in
which nobody is answered. What was made before the first request stays for good, so it is taken out
of the search, and requests leave almost no cycles behind, so the search can wait.
"""

import gc

YOUNG = 50_000  # new objects between two looks at the new ones; Python's default is 700
OLDER = 50  # looks at the new ones between two at the older


def settle_garbage_collector() -> None:
    """To be called once everything that stays is imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, OLDER, OLDER)
