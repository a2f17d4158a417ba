"""Random changes of training images: a pure function of (image, variant number, configuration).

Being pure is the point: variant 3 of an image is the same pixels today, tomorrow and in the next
round, so what the frozen part of the network makes of it can be cached. Variant 0 is the image as
the service will see it. With v variants an image is seen in v versions only, however many epochs
run; that is the price, and it is small where the frozen part is most of the work.
"""

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visionloop_training.config import AugmentConfig

Pixels = NDArray[np.uint8]  # (height, width, 3)

_SYMMETRIES: dict[str, Callable[[Pixels], Pixels]] = {
    "flip_horizontal": lambda x: x[:, ::-1],
    "flip_vertical": lambda x: x[::-1],
    "rotate_180": lambda x: x[::-1, ::-1],
    "rotate_90": lambda x: np.rot90(x, 1),
    "rotate_270": lambda x: np.rot90(x, 3),
    "transpose": lambda x: np.swapaxes(x, 0, 1),
    "transverse": lambda x: np.swapaxes(x[::-1, ::-1], 0, 1),
}


def variant(pixels: Pixels, config: AugmentConfig, sha256: str, number: int) -> Pixels:
    """Version `number` of the square image with this digest; 0 is the image itself.

    The symmetries are taken in turn (so `number` 0…s covers all s of them); crop, brightness and
    contrast are drawn from a generator seeded by the image and the number.
    """
    if number == 0:
        return pixels
    turn = number % (len(config.symmetries) + 1)
    if turn:
        pixels = _SYMMETRIES[config.symmetries[turn - 1]](pixels)
    seed = hashlib.sha256(f"{sha256} {number}".encode()).digest()[:8]
    random = np.random.default_rng(int.from_bytes(seed, "big"))
    if config.crop_min_area < 1.0:
        pixels = _crop(pixels, float(random.uniform(config.crop_min_area, 1.0)), random)
    if config.brightness or config.contrast:
        brightness = 1.0 + config.brightness * float(random.uniform(-1, 1))
        contrast = 1.0 + config.contrast * float(random.uniform(-1, 1))
        changed = pixels.astype(np.float32) * brightness
        mean = changed.mean()
        changed = (changed - mean) * contrast + mean
        pixels = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def _crop(pixels: Pixels, area: float, random: np.random.Generator) -> Pixels:
    """A crop of this share of the image, aspect 3:4 … 4:3, resized back."""
    height, width = pixels.shape[:2]
    aspect = float(np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3))))
    h = min(height, max(1, round(height * np.sqrt(area / aspect))))
    w = min(width, max(1, round(width * np.sqrt(area * aspect))))
    top = int(random.integers(0, height - h + 1))
    left = int(random.integers(0, width - w + 1))
    cut = Image.fromarray(np.ascontiguousarray(pixels[top : top + h, left : left + w]))
    return np.asarray(cut.resize((width, height), Image.Resampling.BICUBIC))
