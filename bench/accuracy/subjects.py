"""What is learned: real photographs of solar cells, and handwritten digits for a quick look.

Both come from packages, nothing is downloaded. A subject's settings say what its owner knows of the
pictures and no recipe can: which turns and which cuts leave a label as it is.
"""

import csv
import hashlib
import importlib.util
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sklearn.datasets
from PIL import Image

from visionloop.errors import NotFoundError

DIGIT_SIDE = 32  # the 8 x 8 scans, enlarged


@dataclass(frozen=True, slots=True)
class Picture:
    """One labelled image file. `certainty` is how sure its label is, 0 … 1."""

    sha256: str
    data: bytes
    label: str
    certainty: float
    attributes: dict[str, str]


@dataclass(frozen=True, slots=True)
class Subject:
    """A data set: distinct pictures, classes in order, facts as settings of the trainer."""

    name: str
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    settings: tuple[str, ...]
    published: float | None = None  # accuracy to beat


def solar_cells() -> Subject:
    """The 2,624 photographs of ELPV; defective means a defect probability of 0.5 or more.

    Experts gave 0, 1/3, 2/3 or 1. Published: 88.42 %, a fine-tuned VGG-19 (Deitsch et al. 2019,
    doi:10.1016/j.solener.2019.02.067). A cell has no upside: all eight symmetries keep its label.
    What is cut off could hold the crack, and how bright a part is is what is measured.
    """
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise NotFoundError("the photographs are missing; pip install 'visionloop[demo]'")
    folder = Path(spec.origin).parent / "data"
    pictures = []
    for name, text, module in csv.reader(
        (folder / "labels.csv").read_text().splitlines(), delimiter=" ", skipinitialspace=True
    ):
        probability = float(text)
        pictures.append(
            _picture(
                (folder / name).read_bytes(),
                "defective" if probability >= 0.5 else "functional",
                abs(2.0 * probability - 1.0),
                {"module": module},
            )
        )
    turns = "flip_horizontal,flip_vertical,rotate_180,rotate_90,rotate_270,transpose,transverse"
    return Subject(
        name="solar-cells",
        classes=("functional", "defective"),
        pictures=_distinct(pictures),
        settings=(
            "pixels.shape=squash",
            f"augment.symmetries=[{turns}]",
            "augment.crop_min_area=1",
            "augment.brightness=0",
            "augment.contrast=0",
        ),
        published=0.8842,
    )


def digits() -> Subject:
    """scikit-learn's 1,797 digits. A mirrored digit is none, so no symmetry keeps its label."""
    found = sklearn.datasets.load_digits()
    pictures = []
    for scan, label in zip(found.images, found.target, strict=True):
        pixels = np.rint(scan * (255 / 16)).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize((DIGIT_SIDE,) * 2, Image.Resampling.BICUBIC).save(
            file, "PNG"
        )
        pictures.append(_picture(file.getvalue(), str(label), 1.0, {}))
    return Subject(
        name="digits",
        classes=tuple(map(str, range(10))),
        pictures=_distinct(pictures),
        settings=("pixels.image_size=64", "pixels.shape=squash", "augment.symmetries=[]"),
    )


SUBJECTS = {"solar-cells": solar_cells, "digits": digits}


def _picture(data: bytes, label: str, certainty: float, attributes: dict[str, str]) -> Picture:
    return Picture(hashlib.sha256(data).hexdigest(), data, label, certainty, attributes)


def _distinct(pictures: Iterable[Picture]) -> tuple[Picture, ...]:
    """Every file once, in order: the same bytes in train and test would be no test."""
    return tuple({picture.sha256: picture for picture in reversed(list(pictures))}.values())[::-1]
