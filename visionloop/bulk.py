"""Many images over a service that comes and goes: results in order, and on after a break.

    for path, result in zip(paths, recognize_all(client, paths, top_k=1), strict=True):
        ...

A stream that breaks off, or a service that answers that it is not ready, costs a pause; then the
images without an answer are sent again, so those that were under way are recognised twice. The
first of them go one by one, for the images of a request fail together: an image that ends a process
of the service each time gets its error after so many tries, once another one was answered, and the
others get their results. A service that never answered anything is no break: its error is raised at
once. Needs grpcio and protobuf alone.
"""

import logging
import random
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from visionloop.client import Client, Image, Recognition
from visionloop.errors import OverloadedError, UnavailableError
from visionloop.recognition_messages import name_of
from visionloop.recognition_stream import IMAGES

TRIES: Final = 8  # in a row that bring not one result; with their pauses about 40 s
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
) -> Iterator[Recognition]:
    """One result for each image, in their order. `asked` is what `Client.recognize_stream` takes;
    `tell` is told of each break.

    Raises UnavailableError or OverloadedError when a service stays away, and what
    `Client.recognize_stream` raises otherwise. What was yielded until then is good.
    """
    done = fruitless = 0
    suspects = 0  # images behind `done`, one of which may have ended a process: each goes alone
    blamed: Recognition | None = None  # of image `done`, after all tries
    while done < len(images):
        first = done + (blamed is not None)
        places = range(first, min(first + 1, len(images)) if suspects else len(images))
        if blamed is not None and not places:
            yield blamed
            return
        try:
            for result in _answered(client, images, places, asked):
                if blamed is not None:  # the service is there: it was the image
                    held, blamed, done = blamed, None, done + 1
                    yield held
                done, fruitless, suspects = done + 1, 0, max(0, suspects - 1)
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
        elif broke.result is None or blamed is not None:  # not for this image alone
            raise broke.error
        else:
            blamed, fruitless = broke.result, 1


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
        if isinstance(stream, Generator):
            stream.close()  # the server drops what it has of it
