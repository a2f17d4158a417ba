"""Random changes of training images: a pure function of (image, variant number, configuration).

Being pure is the point: variant 3 of an image is the same pixels today, tomorrow and in the next
round, so what the frozen part of the network makes of it can be cached. Variant 0 is the image as
the service will see it. With v variants an image is seen in v versions only, however many epochs
run; that is the price, and it is small where the frozen part is most of the work.
"""

import hashlib
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from visionloop_training.recipe_config import AugmentConfig
from visionloop_training.trivial_augment import trivial_augment

Pixels = NDArray[np.uint8]  # (height, width, 3)

_LEVELS = np.arange(256, dtype=np.float32)
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

    The symmetries are taken in turn (so `number` 0…s covers all s of them); everything else is
    drawn from a generator seeded by the image and the number.
    """
    if number == 0:
        return pixels
    turn = number % (len(config.symmetries) + 1)
    if turn:
        pixels = _SYMMETRIES[config.symmetries[turn - 1]](pixels)
    seed = hashlib.sha256(f"{sha256} {number}".encode()).digest()[:8]
    random = np.random.default_rng(int.from_bytes(seed, "big"))
    if config.rotate or config.scale:
        degrees = config.rotate * float(random.uniform(-1, 1))
        pixels = _turned(pixels, degrees, 1.0 + config.scale * float(random.uniform(-1, 1)))
    if config.crop_min_area < 1.0:
        pixels = _crop(pixels, float(random.uniform(config.crop_min_area, 1.0)), random)
    if config.brightness or config.contrast:
        brightness = 1.0 + config.brightness * float(random.uniform(-1, 1))
        contrast = 1.0 + config.contrast * float(random.uniform(-1, 1))
        changed = _LEVELS * brightness
        mean = float(pixels.mean()) * brightness
        changed = (changed - mean) * contrast + mean
        pixels = np.take(np.clip(np.rint(changed), 0, 255).astype(np.uint8), pixels)
    if config.saturation or config.hue:
        saturation = 1.0 + config.saturation * float(random.uniform(-1, 1))
        pixels = _coloured(pixels, saturation, config.hue * float(random.uniform(-1, 1)))
    if config.trivial:
        pixels = trivial_augment(np.ascontiguousarray(pixels), random)
    if config.erase and random.random() < config.erase:
        pixels = _erased(pixels, random)
    return np.ascontiguousarray(pixels)


def _turned(pixels: Pixels, degrees: float, zoom: float) -> Pixels:
    """Turned about the centre and zoomed; what comes in from outside is the mirrored border."""
    height, width = pixels.shape[:2]
    # Pillow fills with one colour, which a network learns to see; so the border is mirrored first,
    # as far as the corners of the turned view reach.
    reach = round(max(height, width) * (math.sqrt(0.5) / zoom - 0.5)) + 2
    margin = max(0, min(reach, min(height, width) - 1))
    pixels = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    angle = math.radians(degrees)
    a, b = math.cos(angle) / zoom, math.sin(angle) / zoom
    x, y = width / 2, height / 2  # the centre, which stays
    matrix = (a, b, x + margin - a * x - b * y, -b, a, y + margin + b * x - a * y)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    turned = image.transform(
        (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return np.asarray(turned)


def _coloured(pixels: Pixels, saturation: float, hue: float) -> Pixels:
    """Saturation times a factor; hue turned by this share of the circle."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if saturation != 1.0:
        image = ImageEnhance.Color(image).enhance(saturation)
    if hue:
        channels = np.array(image.convert("HSV"))
        channels[..., 0] += np.uint8(round(hue * 256) % 256)  # uint8 goes round as hue does
        image = Image.fromarray(channels, "HSV").convert("RGB")
    return np.asarray(image)


def _erased(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """Noise in a rectangle of 2 to 33 % of the image, aspect 1:3 to 3:1 (Zhong et al. 2020)."""
    height, width = pixels.shape[:2]
    area = float(random.uniform(0.02, 0.33))
    aspect = float(np.exp(random.uniform(-np.log(3), np.log(3))))
    h = min(height, max(1, round(height * np.sqrt(area / aspect))))
    w = min(width, max(1, round(width * np.sqrt(area * aspect))))
    top = int(random.integers(0, height - h + 1))
    left = int(random.integers(0, width - w + 1))
    erased = pixels.copy()
    erased[top : top + h, left : left + w] = random.integers(0, 256, (h, w, 3), dtype=np.uint8)
    return erased


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
