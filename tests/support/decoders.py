"""Decoders for tests, each a process or a thread, and a front end's `Decoder` linked to them.

with decoders(2) as running:
    async with linked(running) as decoder:
        decoded = await decoder.decode(data, preprocessing)
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from support.waiting import until

from visionloop_inference.control import Control
from visionloop_inference.decoder import Decoder
from visionloop_inference.decoder_link import DecoderLink
from visionloop_inference.decoder_process import serve
from visionloop_inference.decoding_load import DecodingLoad
from visionloop_inference.hosted_decoder import ARENA
from visionloop_inference.rows import Arena


class RunningDecoder:
    """A decoder that is up."""

    def __init__(self, kind: str, **environment: str) -> None:
        self.control, theirs = Control.pair()
        self.process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        if kind == "process":
            fd = theirs.fileno()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "visionloop_inference.decoder_process", str(fd)],
                pass_fds=[fd],
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            )
            theirs.close()
        else:
            self._thread = threading.Thread(target=serve, args=[theirs], daemon=True)
            self._thread.start()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def up(self) -> "RunningDecoder":
        received = self.control.receive()
        assert received is not None, "the decoder died before it was up"
        assert received[0] == {"said": "ready"}
        return self

    def ends(self, size: int = ARENA) -> list[int]:
        """Descriptors of a front end's socket and arena, the caller's to close."""
        ours, theirs = socket.socketpair()
        arena = Arena.create(size)
        with theirs:
            self.control.send({"do": "link", "front_end": 0}, [theirs.fileno(), arena.fd])
        fds = [ours.detach(), os.dup(arena.fd)]
        arena.close()
        return fds

    def close(self) -> None:
        """It ends by itself with its control channel."""
        self.control.close()
        if self.process is not None:
            self.process.wait(timeout=30)
        if self._thread is not None:
            self._thread.join(timeout=30)
            assert not self._thread.is_alive(), "the decoder did not end with its channel"


@contextlib.contextmanager
def decoders(
    count: int, kind: str = "process", **environment: str
) -> Iterator[list[RunningDecoder]]:
    """So many, all up; `environment` is the first one's alone."""
    running = [RunningDecoder(kind, **({} if number else environment)) for number in range(count)]
    try:
        for one in running:
            one.up()
        yield running
    finally:
        for one in running:
            one.close()


@contextlib.asynccontextmanager
async def linked(
    running: Sequence[RunningDecoder],
    *,
    arena: int = ARENA,
    load: DecodingLoad | None = None,
    lost: Callable[[], None] = lambda: None,
) -> AsyncIterator[Decoder]:
    """A Decoder of one thread. At its end nobody's space may be in use."""
    decoder = Decoder(1, load=load)
    try:
        for one in running:
            decoder.processes.link(one.ends(arena), lost)
        yield decoder
        for link in links(decoder):
            await idle(link)
            assert link.rows_waiting == 0
            assert used(link) == 0
    finally:
        decoder.close()


def links(decoder: Decoder) -> list[DecoderLink]:
    return decoder.processes._links


def used(link: DecoderLink) -> int:
    """Bytes of its arena."""
    return link._arena.used


async def idle(link: DecoderLink) -> None:
    """Waits for the decoder's word for everything that it holds."""
    await until(lambda: not link.images)
