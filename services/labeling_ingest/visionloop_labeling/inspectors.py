"""Who looks at untrusted images: worker processes with limits, each at one image at a time.

An image that kills its worker or takes too long harms nothing but itself: the worker is replaced
(a fork, 5 ms), the image is answered as undecodable and goes to quarantine. One that died is asked
once more in a new worker before the image is blamed, because the kernel kills whom it likes when
memory is short. Workers are replaced after `RECYCLED_AFTER` images, too, so that what leaks in a
decoder does not add up.

A worker is not trusted either: whoever breaks out of a decoder is still in it. What it answers is
checked here for size, type and range, and the digest that an image is stored under is not its word.

Memory: see `inspector`; in the worst case each worker needs 24 bytes a pixel of the largest image
that is allowed, 1.2 GB at the default of 50 megapixels, plus 128 MB.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Final, Protocol, TypeAlias

import numpy as np
from pydantic import Field, ValidationError

from visionloop.errors import ImageError, UnavailableError, VisionloopError
from visionloop.images import Limits
from visionloop.record import Record
from visionloop.telemetry import labeling as metrics
from visionloop_labeling import inspection
from visionloop_labeling.duplicates import THUMBNAIL_SIDE, Fingerprint, unpack_hashes
from visionloop_labeling.inspection import Inspection
from visionloop_labeling.inspector import (
    DONE,
    INSPECT,
    PREVIEW,
)
from visionloop_labeling.nursery import Answer, Nursery, Worker
from visionloop_labeling.quality import Quality
from visionloop_labeling.renditions import MAX_BYTES, RECIPES, Recipe, render

RECYCLED_AFTER: Final = 2000  # images
CPU_SECONDS: Final = 20  # for one image; the largest allowed takes about 1
WALL_SECONDS: Final = 60.0  # for one image, on a machine with much else to do
# Images that one worker is given at once, because handing them over one by one costs much of what
# it takes to look at a small one.
HAND: Final = 8
HAND_BYTES: Final = 2**20  # of all of them; larger ones go one by one
_FINGERPRINT_BYTES: Final = 8 * 8 + THUMBNAIL_SIDE**2
_log = logging.getLogger(__name__)


class UndecodableError(VisionloopError):
    """An image that no worker survived. `reason` is decoder_crashed or decode_timeout."""

    grpc_code = "INVALID_ARGUMENT"
    http_status = 400

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self._reason = reason

    @property
    def reason(self) -> str:
        return self._reason


Inspected: TypeAlias = Inspection | ImageError | UndecodableError


class Inspector(Protocol):
    """Looks at images. Safe to use from several threads."""

    def inspect(self, image: bytes) -> Inspection:
        """What an image is. Raises ImageError, UndecodableError and UnavailableError."""
        ...

    def inspect_all(self, images: Sequence[bytes]) -> list[Inspected]:
        """What each image is, or why it is refused. Raises UnavailableError."""
        ...

    def preview(self, image: bytes, recipe: Recipe) -> bytes:
        """A rendition as WebP. Raises as `inspect` does."""
        ...

    def close(self) -> None:
        """Lets go of what it holds; images being looked at are given up."""
        ...


class OwnProcess:
    """Looks at images in this process: for images that are trusted, and for tests."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def inspect(self, image: bytes) -> Inspection:
        return inspection.inspect(image, self._limits)

    def inspect_all(self, images: Sequence[bytes]) -> list[Inspected]:
        return [_inspected(self, image) for image in images]

    def preview(self, image: bytes, recipe: Recipe) -> bytes:
        return render(image, recipe, self._limits)

    def close(self) -> None:
        """Holds nothing."""


class WorkerPool:
    """At most `workers` processes, started when they are first needed."""

    def __init__(
        self,
        limits: Limits,
        workers: int,
        *,
        cpu_seconds: int = CPU_SECONDS,
        wall_seconds: float = WALL_SECONDS,
        recycled_after: int = RECYCLED_AFTER,
    ) -> None:
        self._limits = limits
        self._wall_seconds = wall_seconds
        self._recycled_after = recycled_after
        self._nursery = Nursery(limits, cpu_seconds)
        self._free = threading.Semaphore(workers)
        self._idle: list[Worker] = []  # the last used is the first taken: its memory is warm
        self._closed = False

    def inspect(self, image: bytes) -> Inspection:
        words, rest = self._ask(INSPECT, 0, image)
        return _inspection(words, rest, self._limits)

    def inspect_all(self, images: Sequence[bytes]) -> list[Inspected]:
        """One worker gets all of them at once (for at most `HAND` that are small), in their order.

        Where it dies, they are looked at one by one.
        """
        found: list[Inspected] = []
        if 1 < len(images) <= HAND and sum(map(len, images)) <= HAND_BYTES:
            for answer in self._ask_in_turn(images):
                try:
                    found.append(_inspection(*_done(answer), self._limits))
                except (ImageError, UndecodableError) as refusal:
                    found.append(refusal)
        return found + [_inspected(self, image) for image in images[len(found) :]]

    def preview(self, image: bytes, recipe: Recipe) -> bytes:
        _, rest = self._ask(PREVIEW, RECIPES.index(recipe), image)
        if not (rest[:4] == b"RIFF" and rest[8:12] == b"WEBP" and len(rest) <= MAX_BYTES):
            raise _untrustworthy()
        return rest

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        self._nursery.close()
        metrics.INSPECTORS.set(0)

    def _ask(self, kind: int, recipe: int, image: bytes) -> tuple[bytes, bytes]:
        """The JSON and the bytes of an answer."""
        with self._free:
            for last in (False, True):
                try:
                    with self._worker() as worker:
                        answer = worker.ask(kind, recipe, image, self._wall_seconds)
                    break
                except _Died as death:
                    if last or death.overran:
                        raise death.undecodable(self._wall_seconds) from None
        return _done(answer)

    def _ask_in_turn(self, images: Sequence[bytes]) -> list[Answer]:
        """The answers for images in a row; none where their worker died."""
        with self._free, suppress(_Died), self._worker() as worker:
            return worker.ask_all(INSPECT, 0, images, self._wall_seconds)
        return []

    @contextmanager
    def _worker(self) -> Iterator[Worker]:
        """A worker that nobody else has; it is ended when the block fails. Raises _Died."""
        worker = self._idle.pop() if self._idle else self._nursery.start()
        try:
            yield worker
        except OSError as error:
            raise self._died(worker, overran=isinstance(error, TimeoutError)) from error
        except BaseException:
            self._nursery.end(worker)
            raise
        if worker.asked >= self._recycled_after or self._closed:
            self._nursery.end(worker)
            metrics.INSPECTOR_ENDS.labels("recycled").inc()
        else:
            self._idle.append(worker)

    def _died(self, worker: Worker, *, overran: bool) -> "_Died":
        status = self._nursery.end(worker)
        if self._closed:
            raise UnavailableError("the service is shutting down; send this again in a moment")
        by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        overran = overran or by == signal.SIGXCPU
        metrics.INSPECTOR_ENDS.labels("overran" if overran else "died").inc()
        how = f"signal {by}" if by else f"exit code {os.waitstatus_to_exitcode(status)}"
        _log.warning("an inspector ended in the middle of an image", extra={"how": how})
        return _Died(how, overran=overran)


class _Died(Exception):  # noqa: N818 - it is caught here, never seen outside
    """A worker ended in the middle of an image."""

    def __init__(self, how: str, *, overran: bool) -> None:
        super().__init__(how)
        self.how = how
        self.overran = overran

    def undecodable(self, seconds: float) -> UndecodableError:
        if self.overran:
            return UndecodableError(
                f"decoding the image took more than {CPU_SECONDS} seconds of computing or "
                f"{seconds:g} in all; save it anew in a plainer form",
                reason="decode_timeout",
            )
        return UndecodableError(
            f"decoding the image ended its process twice ({self.how}); save it anew with another "
            "program",
            reason="decoder_crashed",
        )


class _Refusal(Record):
    reason: Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]
    message: Annotated[str, Field(max_length=1000)]


class _Described(Record):
    pixel_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    media_type: Annotated[str, Field(pattern=r"^image/[a-z]{1,20}$")]
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    quality: Quality


def _inspected(inspector: Inspector, image: bytes) -> Inspected:
    try:
        return inspector.inspect(image)
    except (ImageError, UndecodableError) as refusal:
        return refusal


def _done(answer: Answer) -> tuple[bytes, bytes]:
    """JSON and bytes of an answer. Raises ImageError for a refusal, UndecodableError."""
    status, words, rest = answer
    if status == DONE:
        return words, rest
    try:
        refusal = _Refusal.model_validate_json(words)
    except ValidationError as error:
        raise _untrustworthy() from error
    raise ImageError(refusal.message, reason=refusal.reason)


def _inspection(words: bytes, rest: bytes, limits: Limits) -> Inspection:
    """An answer, believed as far as it is possible. Raises UndecodableError."""
    try:
        found = _Described.model_validate_json(words)
    except ValidationError as error:
        raise _untrustworthy() from error
    if found.width * found.height > limits.max_pixels:
        raise _untrustworthy()
    if len(rest) not in (0, _FINGERPRINT_BYTES):
        raise _untrustworthy()
    return Inspection(
        pixel_sha256=found.pixel_sha256,
        media_type=found.media_type,
        width=found.width,
        height=found.height,
        quality=found.quality,
        fingerprint=_fingerprint(rest) if rest else None,
    )


def _fingerprint(packed: bytes) -> Fingerprint:
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    thumbnail = np.frombuffer(packed, dtype=np.uint8, offset=64).reshape(side)
    return Fingerprint(unpack_hashes([packed[:64]]), thumbnail)


def _untrustworthy() -> UndecodableError:
    _log.error("an inspector gave an answer that cannot be; its image is put aside")
    return UndecodableError(
        "decoding the image gave an answer that cannot be", reason="decoder_crashed"
    )
