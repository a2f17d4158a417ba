"""Cheap pictures that are all different, and the real solar cells of the demo."""

import io
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image


@cache
def noise(seed: int, side: int = 40) -> bytes:
    """A PNG of smooth noise; another seed looks entirely different."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    return png(image)


def png(image: Image.Image, **options: object) -> bytes:
    """The image as PNG bytes."""
    return encoded(image, "PNG", **options)


def encoded(image: Image.Image, format_name: str, **options: object) -> bytes:
    """The image as bytes of this format."""
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    """The image of these bytes."""
    return Image.open(io.BytesIO(data))


@cache
def solar_cells() -> list[tuple[Path, float, str]]:
    """(file, probability of a defect, module type) of all 2,624 cells, in the data set's order."""
    folder = Path(str(files("elpv_dataset").joinpath("data")))
    lines = [line.split() for line in (folder / "labels.csv").read_text().splitlines()]
    return [(folder / name, float(defect), kind) for name, defect, kind in lines]
