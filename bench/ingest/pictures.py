"""JPEG files of a wanted size, no two alike, from the photographs that scikit-learn ships.

Each is two cuts, mirrored, turned and laid over one another with some grain: cheap to make by the
thousand, and neither its bytes nor its pixels nor its fingerprint resemble another's.
"""

import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

SIZES = {20_000: (320, 240), 200_000: (1024, 768)}  # bytes -> width, height
_QUALITIES = range(30, 99)


def write_pictures(folder: Path, target: int, count: int) -> list[Path]:
    """`count` files of about `target` bytes, the same on every machine."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index}.jpg" for index in range(count)]
    quality = _quality(target)
    for index, path in enumerate(paths):
        if not path.exists():
            path.write_bytes(_encoded(_picture(index, *SIZES[target]), quality))
    return paths


def unlike(files: list[bytes], count: int, salt: int) -> Iterator[bytes]:
    """`count` files, each with bytes of its own after the picture's end, so no digest comes twice.

    The pixels come again after len(files).
    """
    for number in range(count):
        yield files[number % len(files)] + f"{salt}.{number}".encode()


def tiny(number: int) -> bytes:
    """A picture of 64 x 64 pixels, about 1 kB, unlike all others."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((64, 64), Image.Resampling.BILINEAR)
    return _encoded(picture, 80)


@cache
def _photographs() -> list[NDArray[np.uint8]]:
    return list(load_sample_images().images)


@cache
def _quality(target: int) -> int:
    sample = _picture(0, *SIZES[target])
    sizes = {quality: len(_encoded(sample, quality)) for quality in _QUALITIES}
    return min(sizes, key=lambda quality: abs(sizes[quality] - target))


def _picture(index: int, width: int, height: int) -> Image.Image:
    random = np.random.default_rng(index)
    first, second = (_cut(random, width, height) for _ in range(2))
    grain = random.normal(0.0, 6.0, (height, width, 1))
    share = random.uniform(0.4, 0.6)
    mixed = share * first + (1.0 - share) * second + grain
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def _cut(random: np.random.Generator, width: int, height: int) -> NDArray[np.float64]:
    """(height, width, 3)"""
    photograph = Image.fromarray(_photographs()[int(random.integers(2))])
    photograph = photograph.rotate(float(random.uniform(0, 360)), expand=False)
    side = int(random.integers(160, 320))
    left = int(random.integers(0, photograph.width - side))
    top = int(random.integers(0, photograph.height - side))
    box = (left, top, left + side, top + side)
    return np.asarray(photograph.resize((width, height), box=box), dtype=np.float64)


def _encoded(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
