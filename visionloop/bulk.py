"""Many images over a service that comes and goes: results in order, and on after a break.

    for path, result in zip(paths, recognize_all(client, paths, top_k=1)):
        ...

A stream that breaks off, or a service that answers that it is not ready, costs a pause; then the
images without an answer are sent again, so those that were under way are recognised twice. An image
that ends a process of the service each time gets its error after so many tries. A service that
never answered anything is no break: its error is raised at once. Needs grpcio and protobuf alone.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Final

from visionloop.client import Client, Image, Recognition
from visionloop.errors import OverloadedError, UnavailableError

TRIES: Final = 8  # in a row that bring not one result; with their pauses about 35 s
FIRST_PAUSE: Final = 0.5  # seconds; doubled for each try after it
LONGEST_PAUSE: Final = 10.0
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
    given_up = False  # the image before, after all tries
    while done < len(images):
        try:
            for result in _answered(client, images[done:], asked):
                done, fruitless, given_up = done + 1, 0, False
                yield result
        except _AwayError as away:
            broke = away
        else:
            return
        fruitless += 1
        if broke.result is None and not done:
            raise broke.error
        if fruitless < TRIES:
            said = f"{done} of {len(images)} are answered, the others are sent again"
            tell(f"{broke.error}; {said}")
            pause = min(FIRST_PAUSE * 2 ** (fruitless - 1), LONGEST_PAUSE)
            time.sleep(max(pause, broke.error.retry_after_seconds or 0.0))
        elif broke.result is None or given_up:  # not for this image alone
            raise broke.error
        else:
            done, fruitless, given_up = done + 1, 0, True
            yield broke.result


class _AwayError(Exception):
    """The service is away: the call broke off (no result), or this result says so."""

    def __init__(
        self, error: UnavailableError | OverloadedError, result: Recognition | None
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.result = result


def _answered(
    client: Client, images: Sequence[Image], asked: Mapping[str, Any]
) -> Iterator[Recognition]:
    """Results until one says that the service is away: then the stream ends, for the results
    behind it would say the same. Raises _AwayError."""
    stream = client.recognize_stream(images, **asked)
    try:
        for result in stream:
            if isinstance(result.error, _AWAY):
                raise _AwayError(result.error, result)
            yield result
    except _AWAY as error:
        raise _AwayError(error, None) from error
    finally:
        if isinstance(stream, Generator):
            stream.close()  # the server drops what it has of it
