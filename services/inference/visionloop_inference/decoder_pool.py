"""The decoders that a front end is linked to, and the images that wait for one of them.

An image goes to the decoder that has the fewest before it, those of other front ends included. It
goes there only shortly before its turn: a decoder is given AHEAD seconds of work beyond the image
that it is at, enough to be busy while this event loop is at something else, and the rest waits
here. So a photograph that takes a second holds up few others, an image whose caller went away costs
nothing, and little is lost with a decoder: of its images only the one that it was at fails, for the
image may be what killed it; the others go to the next one. Price: where the loop is held up for
longer than AHEAD, decoders stand still.
"""

import asyncio
import contextlib
import math
import os
import socket
from collections import deque
from collections.abc import Callable

from visionloop.errors import CorruptError, OverloadedError, UnavailableError, VisionloopError
from visionloop.preprocessing import Preprocessing
from visionloop_inference import decoding_frames as frames
from visionloop_inference.datatypes import Buffer
from visionloop_inference.decoder_link import DecoderLink, Image
from visionloop_inference.decoding import Decoded
from visionloop_inference.rows import Arena

AHEAD = 0.004  # seconds
LEAST_AHEAD = 2  # images, the one that it is at included
SHORTEST = 1e-4  # seconds that an image takes
KEPT_STEPS = 64  # preprocessings whose JSON is remembered


class NoDecoderError(VisionloopError):
    """No process can take the image. Caught where threads can."""


class DecoderPool:
    """Used from one event loop only. `image_seconds()` is what an image takes, as last seen."""

    def __init__(self, image_seconds: Callable[[], float]) -> None:
        self._image_seconds = image_seconds
        self._links: list[DecoderLink] = []
        self._waiting: deque[Image] = deque()
        self._steps: dict[int, tuple[Preprocessing, bytes, int]] = {}  # by id

    @property
    def count(self) -> int:
        """Decoders that can be reached."""
        return len(self._links)

    def link(self, fds: list[int], lost: Callable[[], None]) -> None:
        """One more decoder. `fds` are the socket and the arena, which are ours from here on; `lost`
        is told when the link breaks. Raises ValueError where descriptors are missing, CorruptError,
        and OSError."""
        if len(fds) != 2:
            for fd in fds:  # which tells the decoder; it would wait for us at its end
                os.close(fd)
            raise ValueError(f"a link with {len(fds)} of 2 descriptors")
        sock = socket.socket(fileno=fds[0])
        try:
            arena = Arena.open(fds[1], thrifty=True)
        except CorruptError:
            sock.close()
            raise

        def broke(link: DecoderLink) -> None:
            self._links.remove(link)
            self._waiting.extendleft(reversed(link.not_begun))
            self._hand_out()
            lost()

        self._links.append(DecoderLink(sock, arena, self._hand_out, broke))
        self._hand_out()

    async def decode(self, data: Buffer, preprocessing: Preprocessing) -> tuple[Decoded, float]:
        """One image, and the seconds that it took.

        Raises ImageError; UnavailableError when its decoder died; NoDecoderError when none is there
        (any more), or the image is too large for their arenas.
        """
        if not self._links:
            raise NoDecoderError("no decoder is there")
        _, steps, room = self._steps_of(preprocessing)
        image = Image(data, steps, room, asyncio.get_running_loop().create_future())
        if not any(link.could_take(image) for link in self._links):
            raise NoDecoderError("the image is too large for an arena")
        self._waiting.append(image)
        self._hand_out()
        try:
            return frames.decoded(await image.answer)
        except asyncio.CancelledError:
            if image.link is not None:
                image.link.cancel(image)
            else:
                with contextlib.suppress(ValueError):  # it was never there, or has just left
                    self._waiting.remove(image)
            raise

    def close(self) -> None:
        """Ends all links; what is not decoded fails with UNAVAILABLE."""
        for link in self._links:
            link.close()
            self._waiting += link.not_begun
        self._links.clear()
        for image in self._waiting:
            if not image.answer.done():
                image.answer.set_exception(UnavailableError("the front end ended; try again"))
        self._waiting.clear()

    def _hand_out(self) -> None:
        """Gives waiting images to decoders that have room for more."""
        while self._waiting:
            image = self._waiting[0]
            if not image.answer.done():  # its caller is still there
                if not self._links:
                    image.answer.set_exception(NoDecoderError("the last decoder is gone"))
                elif not self._take(image):
                    return
            self._waiting.popleft()

    def _take(self, image: Image) -> bool:
        """Gives the image to the least loaded decoder, unless it has enough."""
        link = min(self._links, key=lambda link: link.rows_waiting)
        ahead = max(LEAST_AHEAD, math.ceil(AHEAD / max(SHORTEST, self._image_seconds())))
        if link.images and link.rows_waiting >= ahead:
            return False
        # A full arena holds images, and when one of them is answered we come here again.
        with contextlib.suppress(OverloadedError):
            link.submit(image)
            return True
        return False

    def _steps_of(self, preprocessing: Preprocessing) -> tuple[Preprocessing, bytes, int]:
        """It, its JSON, and the bytes of its outputs. Kept, so that its id names nothing else."""
        found = self._steps.get(id(preprocessing))
        if found is None:
            if len(self._steps) >= KEPT_STEPS:
                del self._steps[next(iter(self._steps))]
            steps = preprocessing.model_dump_json().encode()
            found = preprocessing, steps, frames.room(*preprocessing.output_size)
            self._steps[id(preprocessing)] = found
        return found
