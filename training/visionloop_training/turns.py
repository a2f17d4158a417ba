"""A few images of many, so that rare kinds are among them: one of each kind, then another of each.

The price is that of the images that are taken, not of the kinds times the images of the commonest.
"""

from collections.abc import Iterable

from visionloop_training.data import Item


def in_turns(kinds: Iterable[Iterable[Item]], most: int) -> list[Item]:
    """The first item of each kind, the second of each, …; each once, `most` at most."""
    taken: dict[str, Item] = {}
    left = [iter(kind) for kind in kinds]
    while left and len(taken) < most:
        going = []
        for kind in left:
            item = next(kind, None)
            if item is None:
                continue
            going.append(kind)
            taken.setdefault(item.sha256, item)
            if len(taken) == most:
                break
        left = going
    return list(taken.values())
