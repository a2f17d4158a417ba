"""This process's place among those of one run, as its launcher says in the environment.

The names are torchrun's; `launch` sets them, too. Not every launcher says who shares a machine:
Kubeflow starts one process a pod and sets RANK and WORLD_SIZE alone.
"""

import os
from dataclasses import dataclass

from visionloop.errors import ConfigurationError

AS_TORCHRUN = (
    "set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT as torchrun does, or start all by "
    "visionloop-train --processes-per-node"
)


@dataclass(frozen=True, slots=True)
class Launched:
    """Process `rank` of `count`; on its machine `local_rank` of `local`."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local: int = 1

    @classmethod
    def here(cls) -> "Launched":
        """Of this process. Raises ConfigurationError for a place that cannot be."""
        count = _told("WORLD_SIZE", "1")
        if count == 1:
            return cls()
        if count & (count - 1):
            raise ConfigurationError(
                f"torchrun started {count} processes; their number must be a power of two",
                field="nproc-per-node",
            )
        place = cls(_told("RANK"), count, *_on_this_machine())
        for name, rank, of in (
            ("RANK", place.rank, place.count),
            ("LOCAL_RANK", place.local_rank, place.local),
        ):
            if rank >= of:
                raise ConfigurationError(
                    f"{name} is {rank}; of {of} processes it is 0 to {of - 1}; {AS_TORCHRUN}",
                    field=name.lower(),
                )
        return place


def _on_this_machine() -> tuple[int, int]:
    """LOCAL_RANK and LOCAL_WORLD_SIZE: both, or neither from a launcher of one a machine.

    With a default for one of them, all would leave the same share of the work undone.
    """
    if not {"LOCAL_RANK", "LOCAL_WORLD_SIZE"} & os.environ.keys():
        return 0, 1
    return _told("LOCAL_RANK"), _told("LOCAL_WORLD_SIZE")


def _told(name: str, otherwise: str | None = None) -> int:
    text = os.environ.get(name, otherwise)
    if text is None or not text.isdecimal():
        raise ConfigurationError(
            f"this is to be one of several processes (WORLD_SIZE), and {name} is "
            f"{'not set' if text is None else repr(text)}; {AS_TORCHRUN}",
            field=name.lower(),
        )
    return int(text)
