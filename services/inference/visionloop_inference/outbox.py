"""Frames on their way out of an event loop: those of one busy stretch leave by one send.

A send that wakes a runner costs a wake-up and a turn of the runner's loop, far more than one row of
a small graph costs there. So a frame may wait while the loop has other requests to see to, and what
they send joins it. That the loop has nothing more to do shows in a turn that took next to no time:
then everything leaves, so a lone caller's frame waits for a turn or two of an idle loop, some
microseconds. No timer runs and nothing sleeps; `patience` bounds the wait in a loop that is never
idle. Time is the loop's own CPU time, so that other programs on the machine do not look like work.
Price: one look at that clock (0.4 us) for each turn of the loop while frames wait.
"""

import asyncio
import math
import socket
from collections.abc import Callable
from time import thread_time

# A turn that handled nothing takes at most so many seconds, or so many times the shortest one that
# was seen; one that handled a request takes longer.
QUICK = 20e-6
IDLE = 4


class Outbox:
    """The outgoing side of a socket that does not block. For one event loop, the one it is made in.

    `patience()` says how many seconds of other work a frame may wait for; it is asked for the first
    of those that leave together. `broken` is told, in words, when the socket is of no more use.
    """

    def __init__(
        self, end: socket.socket, patience: Callable[[], float], broken: Callable[[str], None]
    ) -> None:
        self._socket = end
        self._patience = patience
        self._broken = broken
        self._frames = bytearray()
        self._leaving = False  # a look is due, or the socket has no room
        self._looked = self._until = 0.0  # thread_time() of the last look, and of the last one due
        self._shortest = math.inf  # seconds of a turn
        self._open = True
        self._loop = asyncio.get_running_loop()

    def put(self, frame: bytes) -> None:
        """Sends it soon, with the others that come meanwhile."""
        self._frames += frame
        if not self._leaving:
            self._leaving = True
            self._looked = thread_time()
            self._until = self._looked + self._patience()
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        """Once in a turn of the loop."""
        now = thread_time()
        turn = now - self._looked
        self._shortest = min(turn, self._shortest)
        if now >= self._until or turn <= max(QUICK, IDLE * self._shortest):
            self._send()
        else:
            self._looked = now
            self._loop.call_soon(self._look)

    def _send(self) -> None:
        """What the socket does not take waits until it does."""
        self._leaving = False
        if not self._open:
            return
        try:
            sent = self._socket.send(self._frames)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._broken(str(error))
            return
        del self._frames[:sent]
        if self._frames:
            self._leaving = True
            self._loop.add_writer(self._socket, self._send_rest)

    def _send_rest(self) -> None:
        self._loop.remove_writer(self._socket)
        self._send()

    def close(self) -> None:
        """Sends nothing more. To be called before the socket is closed."""
        self._open = False
        self._loop.remove_writer(self._socket)
