"""Many images over a service that comes and goes: results in order, and on after a break.

    for path, result in zip(paths, recognize_all(client, paths, top_k=1), strict=True):
        ...

A stream that breaks off, or a service that answers that it is not ready, costs a pause; then the
images without an answer are sent again, so those that were under way are recognised twice. The
first of them go one by one, for the images of a request fail together. An image that ends a process
of the service each time gets its error after so many tries, and the others get their results: that
it was the image is told by another one, which is answered meanwhile. Where that has no answer
either, the service is away. A service that never answered anything is no break: its error is raised
at once. Needs grpcio and protobuf alone.
"""

import logging
import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from visionloop.client import Client, Image, Recognition
from visionloop.errors import InvalidInputError, OverloadedError, UnavailableError
from visionloop.recognition_messages import name_of
from visionloop.recognition_stream import IMAGES

TRIES: Final = 8  # of one image, and then of others, without one answer; with pauses about 40 s
FIRST_PAUSE: Final = 0.5  # seconds; doubled for each try after it
LONGEST_PAUSE: Final = 10.0
LONGEST_WISH: Final = 60.0  # seconds that a service may ask us to wait
_AWAY: Final = (UnavailableError, OverloadedError)
_log = logging.getLogger(__name__)


def recognize_all(
    client: Client,
    images: Sequence[Image],
    *,
    tell: Callable[[str], None] = _log.warning,
    **asked: Any,
) -> Generator[Recognition, None, None]:
    """One result for each image, in their order. `asked` is what `Client.recognize_stream` takes;
    `tell` is told of each break.

    Raises UnavailableError or OverloadedError when a service stays away, and what
    `Client.recognize_stream` raises otherwise. What was yielded until then is good. Raises
    InvalidInputError at once for images that are no sequence: some are sent more than once.
    """
    if not isinstance(images, Sequence) or isinstance(images, str | bytes | bytearray | memoryview):
        raise InvalidInputError(
            f"images is of type {type(images).__name__}; give a list of encoded bytes or paths",
            field="images",
        )
    return _recognized(client, images, tell, asked)


def _recognized(
    client: Client,
    images: Sequence[Image],
    tell: Callable[[str], None],
    asked: Mapping[str, Any],
) -> Generator[Recognition, None, None]:
    done = fruitless = 0
    suspects = 0  # images from `done` on, one of which may have ended a process: each goes alone
    answered: int | None = None  # the place of one that was
    there = False  # the service answered another image, and not this one
    while done < len(images):
        places = range(done, min(done + 1, len(images)) if suspects else len(images))
        try:
            for result in _answered(client, images, places, asked):
                answered = done if result.error is None else answered
                done, fruitless, suspects, there = done + 1, 0, max(0, suspects - 1), False
                yield result
            continue
        except _AwayError as away:
            broke = away
        fruitless, suspects = fruitless + 1, IMAGES
        if broke.result is None and not done and fruitless == 1:
            raise broke.error
        if fruitless < TRIES:
            said = f"{done} of {len(images)} are answered, the others are sent again"
            tell(f"{broke.error}; {said}")
            time.sleep(_pause(fruitless, broke.error.retry_after_seconds or 0.0))
            continue
        others = _others(done, answered, len(images))
        if others and not there:
            tell(f"{broke.error}; {name_of(done, images[done])} had no answer {TRIES} times")
            answered = _asked_for(client, images, others, asked)
            if answered is None:
                raise broke.error
            there = True  # once more: it may have come back just now
            continue
        if not others and broke.result is None:
            raise broke.error
        yield broke.result or Recognition(
            name_of(done, images[done]), model="", version=0, error=broke.error
        )
        done, fruitless, suspects, there = done + 1, 0, IMAGES, False


def _others(place: int, answered: int | None, count: int) -> Sequence[int]:
    """The images that tell whether it is the one at `place` which has no answer, or the service:
    one that was answered, or those that come after it."""
    return [answered] if answered is not None else range(place + 1, min(place + 1 + TRIES, count))


def _asked_for(
    client: Client, images: Sequence[Image], places: Sequence[int], asked: Mapping[str, Any]
) -> int | None:
    """The first of these places whose image is answered, each sent alone; None where the service
    stays away."""
    for attempt in range(TRIES):
        place = places[attempt % len(places)]
        try:
            found = list(_answered(client, images, range(place, place + 1), asked))
        except _AwayError as away:
            time.sleep(_pause(attempt + 1, away.error.retry_after_seconds or 0.0))
            continue
        if all(one.error is None for one in found):  # a file that is not there says nothing of it
            return place
    return None


def _pause(fruitless: int, wish: float) -> float:
    """Seconds. Clients that one restart cut off do not all come back at once."""
    pause = min(FIRST_PAUSE * 2.0 ** (fruitless - 1), LONGEST_PAUSE)
    return max(pause, min(wish, LONGEST_WISH)) * random.uniform(1.0, 1.25)  # noqa: S311 — no secret


class _AwayError(Exception):
    """The service is away: the call broke off (no result), or this result says so."""

    def __init__(
        self, error: UnavailableError | OverloadedError, result: Recognition | None
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.result = result


def _answered(
    client: Client, images: Sequence[Image], places: range, asked: Mapping[str, Any]
) -> Iterator[Recognition]:
    """Results of the images at these places, until one says that the service is away: then the
    stream ends, for the results behind it would say the same. Raises _AwayError."""
    stream = client.recognize_stream(images[places.start : places.stop], **asked)
    try:
        for place, result in zip(places, stream, strict=True):
            named = replace(result, image_id=name_of(place, images[place]))
            if isinstance(result.error, _AWAY):
                raise _AwayError(result.error, named)
            yield named
    except _AWAY as error:
        raise _AwayError(error, None) from error
    finally:
        stream.close()  # the server drops what it has of it
