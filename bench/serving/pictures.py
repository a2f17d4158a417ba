"""JPEG files of a wanted size, cut from the two photographs that scikit-learn ships."""

import io
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

VARIETY = 16  # different pictures of each size
_QUALITIES = range(30, 99, 2)


def write_pictures(folder: Path, target: int) -> list[Path]:
    """VARIETY photographs as JPEG files of about `target` bytes each, the same on every machine.

    Up to 40 kB they are 320 x 240 pixels, above 640 x 426: what phones' previews and web pages use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    width, height = (320, 240) if target <= 40_000 else (640, 426)
    paths = []
    for index in range(VARIETY):
        path = folder / f"{index}.jpg"
        if not path.exists():
            path.write_bytes(_encoded(_cut(index, width, height), target))
        paths.append(path)
    return paths


def truncated(picture: bytes) -> bytes:
    """A JPEG that breaks off in the middle, as a broken upload does."""
    return picture[: len(picture) // 2]


@cache
def _photographs() -> list[NDArray[np.uint8]]:
    return list(load_sample_images().images)


def _cut(index: int, width: int, height: int) -> Image.Image:
    """(height, width) pixels at a random place, sometimes mirrored."""
    random = np.random.default_rng(index)
    photograph = _photographs()[index % 2]
    top = int(random.integers(0, photograph.shape[0] - height + 1))
    left = int(random.integers(0, photograph.shape[1] - width + 1))
    pixels = photograph[top : top + height, left : left + width]
    return Image.fromarray(pixels[:, :: int(random.choice([-1, 1]))])


def _encoded(picture: Image.Image, target: int) -> bytes:
    """At the quality whose size comes nearest."""
    files = []
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        files.append(buffer.getvalue())
    return min(files, key=lambda file: abs(len(file) - target))
