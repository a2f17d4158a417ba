"""A child that front ends are linked to, as the supervisor sees it: a runner or a decoder."""

import contextlib
import itertools
import socket
from abc import ABC, abstractmethod
from typing import Protocol

from visionloop.errors import UnavailableError
from visionloop_inference.children import Child
from visionloop_inference.control import Message
from visionloop_inference.rows import Arena

_numbers = itertools.count(1)


class Linked(Protocol):
    """A front end that a child can be linked to."""

    index: int

    def send(self, message: Message, fds: list[int]) -> None: ...


class LinkedChild(ABC):
    """One of them. `number` is its own, of all there ever were: front ends name it by that."""

    child: Child

    def __init__(self) -> None:
        self.number = next(_numbers)

    @abstractmethod
    def link(self, front_end: Linked, arena_bytes: int, rows: int) -> None:
        """Gives it and a front end a socket and an arena of their own.

        The arena of a runner has `arena_bytes`, and room for a request of so many `rows` in any
        case. Raises UnavailableError when one of them is gone, OSError when the machine has no
        room.
        """

    def _join(self, front_end: Linked, arena_bytes: int, told: Message) -> None:
        """The link itself; the front end is `told` what it is for."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            arena = Arena.create(arena_bytes)
            try:
                message = {"do": "link", "front_end": front_end.index}
                self.child.send(message, [ours.fileno(), arena.fd])
                front_end.send(told, [theirs.fileno(), arena.fd])
            finally:
                arena.close()

    def log_level(self, level: str) -> None:
        """How much it logs from here on; by its name in `logging`."""
        with contextlib.suppress(UnavailableError):  # who comes in its place is told, too
            self.child.send({"do": "log", "level": level})

    async def close(self, patience: float) -> None:
        """Ends it once its front ends have let go and everything queued is answered."""
        if not self.child.ended.done():
            try:
                self.child.send({"do": "close", "seconds": patience})
            except UnavailableError:
                self.child.kill()
        await self.child.stop(patience)
