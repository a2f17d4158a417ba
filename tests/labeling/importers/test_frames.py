"""Points of the stored frame in the oriented one, for every EXIF orientation."""

import numpy as np
import pytest
from support.imports import exif_photo

from visionloop.images import decode
from visionloop_labeling.importers.frames import Frame


@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_turn_as_pixels_do(orientation: int) -> None:
    stored = np.zeros((24, 32, 3), np.uint8)
    stored[5, 20] = 255
    image = exif_photo(stored, orientation, "PNG")
    pixels = decode(image)
    height, width = pixels.shape[:2]
    frame = Frame(width, height, orientation)
    assert frame.stored_size == (32, 24)
    x, y = frame.from_stored((20.5, 5.5))
    assert pixels[int(y), int(x), 0] == 255
