"""The frames that come in on a socket (`wire`), read into one buffer that is used again and again.

Nothing is copied out of it here: who takes a frame reads it where it lies. The buffer grows for a
frame that is larger and shrinks once that was taken.
"""

import socket
from collections.abc import Iterator

from visionloop_inference.wire import HEAD, LONGEST_FRAME, MalformedFrameError

BUFFER = 128 * 1024  # bytes read at once


class Inbox:
    """The incoming side of a socket."""

    def __init__(self, end: socket.socket, longest: int = LONGEST_FRAME) -> None:
        self._socket = end
        self._longest = longest
        self.buffer = memoryview(bytearray(BUFFER))
        self._filled = 0

    def receive(self) -> bool:
        """Reads once; False when the other side is gone. Raises BlockingIOError on a socket that
        does not block and has nothing."""
        try:
            count = self._socket.recv_into(self.buffer[self._filled :])
        except ConnectionError:
            return False
        self._filled += count
        return count > 0

    def frames(self) -> Iterator[tuple[int, int, int]]:
        """Kind, start and end (in `buffer`) of every whole frame; to be exhausted before the next
        `receive`. Raises MalformedFrameError for a length that cannot be."""
        start, filled = 0, self._filled
        longest = self._longest
        while filled - start >= HEAD.size:
            length, kind = HEAD.unpack_from(self.buffer, start)
            if not HEAD.size <= length <= longest:
                raise MalformedFrameError(f"a frame of {length} bytes")
            if start + length > filled:
                self._make_room(start, length)
                return
            yield kind, start, start + length
            start += length
        self._make_room(start, 0)

    def _make_room(self, start: int, length: int) -> None:
        """Moves what is left to the buffer's beginning; the buffer is large enough for `length`."""
        rest = self._filled - start
        if length > len(self.buffer) or (rest == 0 and len(self.buffer) > BUFFER):
            larger = memoryview(bytearray(max(length, BUFFER)))
            larger[:rest] = self.buffer[start : self._filled]
            self.buffer = larger
        elif start:
            self.buffer[:rest] = self.buffer[start : self._filled]
        self._filled = rest
