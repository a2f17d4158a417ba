"""A front end's end of a link to a decoder, whose jobs are images.

A decoder says which image it was at (`decoding_frames`), so when it dies only that one fails, and
the others are handed back.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from visionloop_inference import decoding_frames as frames
from visionloop_inference.datatypes import Answer, Buffer
from visionloop_inference.link import Link, Waiting
from visionloop_inference.rows import HEADER, Arena


@dataclass(slots=True, eq=False)
class Image:
    """One encoded image that is to be decoded."""

    data: Buffer
    steps: bytes  # its preprocessing as JSON
    room: int  # bytes of the outputs
    answer: asyncio.Future[Answer]  # cancelled: its caller went away
    link: "DecoderLink | None" = None  # where it is
    job: int = 0

    @property
    def needed(self) -> int:
        """Bytes of an arena."""
        return frames.needed(self.data, self.steps, self.room)


class DecoderLink(Link):
    """Used from one event loop only, the one it is made in."""

    other = "the decoder"
    retry_seconds = 0.1  # the others go on

    def __init__(
        self,
        sock: socket.socket,
        arena: Arena,
        on_room: Callable[[], None],
        on_lost: Callable[["DecoderLink"], None],
    ) -> None:
        """Takes the socket and the arena over. `on_room` is called when an image is done with,
        `on_lost` once, unless `close` was."""
        super().__init__(sock, arena, frames.SIGNATURE, on_lost)
        self.not_begun: list[Image] = []  # when the link is lost: for another decoder
        self._on_room = on_room
        self._images: dict[int, Image] = {}  # by job

    @property
    def images(self) -> int:
        """Those that this decoder holds for us."""
        return len(self._images)

    def could_take(self, image: Image) -> bool:
        """Whether an empty arena has room for it."""
        return image.needed <= self._arena.size - HEADER

    def submit(self, image: Image) -> None:
        """Hands the image over. Raises OverloadedError when the arena has no room for it now."""
        asked = frames.inputs(image.data, image.steps)
        image.job = self._submit(asked, 1, None, 0, image.answer, image.room)
        image.link = self
        self._images[image.job] = image

    def cancel(self, image: Image) -> None:
        """Its caller went away: it is not decoded, unless that has begun. Its space stays the
        decoder's until it says so."""
        if image.job in self._images:
            self._cancel(image.job)

    def _finish(self, job: int, waiting: Waiting) -> None:
        super()._finish(job, waiting)
        del self._images[job]
        self._on_room()

    def _fail(self, job: int, waiting: Waiting, why: str) -> None:
        image = self._images.pop(job)
        image.link = None
        if job == frames.begun(self._arena.header):
            super()._fail(job, waiting, why)
        else:
            self.not_begun.append(image)
