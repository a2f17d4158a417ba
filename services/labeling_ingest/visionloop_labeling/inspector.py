"""The program in which untrusted images are decoded: a nursery, and the workers it forks.

`python -m visionloop_labeling.inspector MAX_BYTES MAX_PIXELS MAX_ASPECT CPU_SECONDS`, with a socket
to the service as file descriptor 0. The nursery imports everything once and decodes nothing. For
each worker the service sends it one end of a socket pair; it forks, which takes 5 ms, and shares
its memory with all workers. It is their parent, so it alone can end one and say how it ended,
without ever meaning another process that got the same number.

    service → nursery    b"start" with a socket    →  the worker's number, or b"failed …"
    service → nursery    b"end <number>"           →  the exit status as waitpid gives it
    service → worker     REQUEST, image            →  REPLY, JSON, bytes

Where the service asks several at once, the answers go back together after the last: each one that
comes by itself wakes the service, whose threads wait for one another.

A worker has no more than it needs: the socket, an environment without secrets, no new files (limit
FSIZE), no core dumps, no new privileges, address space for one image of the largest size, and CPU
seconds for each image, after which the kernel kills it. When the service dies, by whatever, the
nursery reads the end of its socket and exits, and the kernel kills the workers with it.

The price: the pixels of an image stay here, only what was measured goes back; the bytes of an image
cross a socket, 0.1 ms for 200 kB. 35 MB for the nursery, 4 MB more for each idle worker.
"""

import contextlib
import ctypes
import gc
import io
import json
import os
import resource
import signal
import socket
import struct
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final, NoReturn

import numpy as np
from PIL import Image, ImageCms

from visionloop.errors import ImageError
from visionloop.images import Limits, Refusal
from visionloop_labeling.inspection import Inspection, inspect
from visionloop_labeling.renditions import RECIPES, render

# Kind of request, index of the recipe (previews only), whether another request follows at once,
# bytes of the image that follows.
REQUEST: Final = struct.Struct("!BB?I")
# Status, bytes of the JSON, bytes of the rest.
REPLY: Final = struct.Struct("!BII")
INSPECT, PREVIEW = 1, 2
DONE, REFUSED = 0, 1

MESSAGE_BYTES: Final = 256  # between service and nursery
_ROOM: Final = 128 * 2**20  # bytes of address space beside the pixels
_BYTES_A_PIXEL: Final = 24  # what decoding costs at most (see `visionloop.images`), rounded up
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38


def main() -> None:
    """The nursery: forks workers until the service goes away."""
    max_bytes, max_pixels, max_aspect, cpu_seconds = sys.argv[1:]
    limits = Limits(int(max_bytes), int(max_pixels), float(max_aspect))
    service = socket.socket(fileno=0)
    _warm_up(limits)
    children: set[int] = set()
    # The service may go away at any moment; then so do we, and the workers with us.
    with contextlib.suppress(ConnectionError):
        while True:
            message, handed, _, _ = socket.recv_fds(service, MESSAGE_BYTES, 1)
            if not message:
                return
            command, _, number = message.partition(b" ")
            if command == b"start":
                service.send(_start(handed[0], limits, int(cpu_seconds), service, children))
            else:
                children.remove(int(number))
                service.send(b"%d" % _end(int(number)))


def _warm_up(limits: Limits) -> None:
    """Loads what Pillow and numpy load late, once for all workers to come."""
    sample = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for format_name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"):
        encoded = io.BytesIO()
        sample.save(encoded, format_name, icc_profile=profile)
        with contextlib.suppress(ImageError):  # limits may be anything
            inspect(encoded.getvalue(), limits)
            render(encoded.getvalue(), RECIPES[0], limits)
    gc.collect()
    gc.freeze()  # a collection in a worker would copy every page it looks at


def _start(
    handed: int, limits: Limits, cpu_seconds: int, service: socket.socket, children: set[int]
) -> bytes:
    nursery = os.getpid()
    try:
        number = os.fork()
    except OSError as error:
        os.close(handed)
        return f"failed {error.strerror}".encode()[:MESSAGE_BYTES]
    if number == 0:
        service.detach()  # becomes /dev/null
        _work(socket.socket(fileno=handed), limits, cpu_seconds, nursery)
    os.close(handed)
    children.add(number)
    return b"%d" % number


def _end(number: int) -> int:
    """Kills a worker unless it is dead already; how it ended, as `os.waitpid` says it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(number, signal.SIGKILL)
    return os.waitpid(number, 0)[1]


def _work(asked: socket.socket, limits: Limits, cpu_seconds: int, nursery: int) -> NoReturn:
    """A worker: one image after the other, until the service closes the socket."""
    code = 1
    try:
        _confine(limits, nursery)
        answers: list[bytes] = []
        while (head := _received(asked, REQUEST.size)) is not None:
            kind, recipe, more, size = REQUEST.unpack(head)
            image = _received(asked, size)
            if image is None:
                break
            _allow_cpu(cpu_seconds)
            answers.append(_answer(kind, recipe, bytes(image), limits))
            if not more:
                asked.sendall(b"".join(answers))
                answers.clear()
        code = 0
    finally:
        os._exit(code)  # nothing of the nursery's is ours to clean up


def _confine(limits: Limits, nursery: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # libtiff likes to talk, and what it says is the sender's
        os.dup2(nowhere, stream)
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for option, value in (
        (_PR_SET_PDEATHSIG, signal.SIGKILL),
        (_PR_SET_DUMPABLE, 0),
        (_PR_SET_NO_NEW_PRIVS, 1),
    ):
        prctl(option, value, 0, 0, 0)
    if os.getppid() != nursery:  # it died before we asked to die with it
        os._exit(1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = _ROOM + limits.max_bytes + _BYTES_A_PIXEL * limits.max_pixels
    _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + room)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)


def _limit(what: int, wanted: int) -> None:
    hard = resource.getrlimit(what)[1]
    value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(what, (value, value))


def _allow_cpu(seconds: int) -> None:
    """So many seconds from now on; the kernel counts whole ones, from a process's beginning."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    allowed = int(used.ru_utime + used.ru_stime) + 1 + seconds
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = allowed if hard == resource.RLIM_INFINITY else min(allowed, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _answer(kind: int, recipe: int, image: bytes, limits: Limits) -> bytes:
    try:
        if kind == PREVIEW:
            return _reply(DONE, {}, render(image, RECIPES[recipe], limits))
        return _reply(DONE, *_described(inspect(image, limits)))
    except ImageError as error:
        return _reply(REFUSED, {"reason": error.reason, "message": str(error)[:1000]}, b"")
    except MemoryError:
        message = "the image needs more memory than one image is given; scale it down"
        return _reply(REFUSED, {"reason": Refusal.TOO_MANY_PIXELS, "message": message}, b"")


def _described(found: Inspection) -> tuple[dict[str, object], bytes]:
    """What goes back: JSON, and the fingerprint as 8 hashes (big-endian) and the thumbnail."""
    described = {
        "pixel_sha256": found.pixel_sha256,
        "media_type": found.media_type,
        "width": found.width,
        "height": found.height,
        "quality": None if found.quality is None else asdict(found.quality),
    }
    prints = found.fingerprint
    if prints is None:
        return described, b""
    return described, prints.hashes.astype(">u8").tobytes() + prints.thumbnail.tobytes()


def _reply(status: int, described: dict[str, object], rest: bytes) -> bytes:
    words = json.dumps(described).encode()
    return REPLY.pack(status, len(words), len(rest)) + words + rest


def _received(asked: socket.socket, size: int) -> bytearray | None:
    """Exactly `size` bytes, or None at the end."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = asked.recv_into(view)
        if not count:
            return None
        view = view[count:]
    return data


if __name__ == "__main__":
    main()
