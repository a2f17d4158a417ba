"""What an image is, once it has been decoded. Runs where untrusted bytes are looked at.

Nothing here touches the database or the store: a worker process (see `inspector`) imports this
module, `renditions` and what they stand on, and no more.
"""

import hashlib
from dataclasses import dataclass

from visionloop.images import Limits, decode_picture
from visionloop_labeling.duplicates import Fingerprint, fingerprint_of
from visionloop_labeling.quality import Quality, measure


@dataclass(frozen=True, slots=True, eq=False)
class Inspection:
    """What an image is. Sizes are in pixels after EXIF orientation."""

    pixel_sha256: str  # of the size and the oriented RGB pixels
    media_type: str
    width: int
    height: int
    quality: Quality | None  # None for an image that was looked at before
    fingerprint: Fingerprint | None


def inspect(image: bytes, limits: Limits) -> Inspection:
    """Decodes an image fully and says what it is. Raises ImageError."""
    header, picture = decode_picture(image, limits)
    content = hashlib.sha256(f"{header.width}x{header.height}\0".encode())
    content.update(picture.tobytes())
    return Inspection(
        pixel_sha256=content.hexdigest(),
        media_type=header.media_type,
        width=header.width,
        height=header.height,
        quality=measure(picture),
        fingerprint=fingerprint_of(picture),
    )
