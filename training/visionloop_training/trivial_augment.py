"""TrivialAugment, wide: one random operation at a random strength, nothing to tune.

Müller and Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation" (2021),
with the operations and the 31 strengths of torchvision's TrivialAugmentWide; on Pillow images, so
that a variant of an image is the same pixels wherever it is made. What a shift or a turn uncovers
is black.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

Pixels = NDArray[np.uint8]  # (height, width, 3)
_BINS = 31


def trivial_augment(pixels: Pixels, random: np.random.Generator) -> Pixels:
    """The image under one operation, drawn with its strength and its direction."""
    name = list(OPERATIONS)[int(random.integers(len(OPERATIONS)))]
    strength = int(random.integers(_BINS)) / (_BINS - 1)
    sign = 1.0 if random.random() < 0.5 else -1.0
    return np.asarray(OPERATIONS[name](Image.fromarray(pixels), strength, sign))


_Operation = Callable[[Image.Image, float, float], Image.Image]


def _affine(
    image: Image.Image, a: float = 1, b: float = 0, c: float = 0, d: float = 0, e: float = 1,
    f: float = 0,
) -> Image.Image:  # fmt: skip
    """The pixel at (x, y) is taken from (a x + b y + c, d x + e y + f)."""
    return image.transform(image.size, Image.Transform.AFFINE, (a, b, c, d, e, f))


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> _Operation:
    return lambda image, strength, sign: kind(image).enhance(1.0 + sign * 0.99 * strength)


# Each takes a strength from 0 to 1, and a sign.
OPERATIONS: dict[str, _Operation] = {
    "identity": lambda image, _strength, _sign: image,
    "shear_x": lambda image, strength, sign: _affine(image, b=sign * 0.99 * strength),
    "shear_y": lambda image, strength, sign: _affine(image, d=sign * 0.99 * strength),
    "translate_x": lambda image, strength, sign: _affine(image, c=int(sign * 32 * strength)),
    "translate_y": lambda image, strength, sign: _affine(image, f=int(sign * 32 * strength)),
    "rotate": lambda image, strength, sign: image.rotate(sign * 135.0 * strength),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "colour": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "posterise": lambda image, strength, _sign: ImageOps.posterize(image, 8 - round(6 * strength)),
    "solarise": lambda image, strength, _sign: ImageOps.solarize(image, int(255 * (1 - strength))),
    "autocontrast": lambda image, _strength, _sign: ImageOps.autocontrast(image),
    "equalise": lambda image, _strength, _sign: ImageOps.equalize(image),
}
