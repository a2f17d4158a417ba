"""Reading what somebody named as an image file, without trusting the name.

A mistyped path may lead to a video of many gigabytes or to a device without an end, so no more
than the largest message that a service takes is ever read. Decoding and the services' own, lower
limits are not here.
"""

import os
from pathlib import Path
from typing import Final

from visionloop.errors import ImageError, InvalidInputError, NotFoundError

MAX_FILE_BYTES: Final = 60 * 2**20  # the services' messages end at 64 MiB


def read_image_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of the file.

    Raises NotFoundError, ImageError when it is too large, and InvalidInputError when it cannot be
    read (a folder, no right).
    """
    name = os.fspath(path)
    if not name:
        raise InvalidInputError("the path of an image is empty; name a file", field="images")
    try:
        with Path(name).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {name}; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidInputError(f"cannot read {name}: {reason}", field="images") from error
    return sendable(data, name)


def sendable(data: bytes, name: str = "the image") -> bytes:
    """The bytes of an image. Raises ImageError where no message can hold them."""
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(
            f"{name} has more than {MAX_FILE_BYTES:,} bytes, which no service takes; is it an "
            "image? Scale it down",
            reason="too_many_bytes",
            field="images",
        )
    return data
