"""Large images are reduced where the preprocessing allows it: sizes, places, pixels stay true."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from support.photographs import encode, photograph, pixels, small

from visionloop.errors import ImageError
from visionloop.images import Refusal, decode, decode_reduced, read_header
from visionloop.preprocessing import (
    CenterCrop,
    Preprocessing,
    Resize,
    ResizeShorterSide,
    eval_preprocessing,
)

HALF = (0.5, 0.5, 0.5)
ORIENTATION = 274


def cropped(side: int, gap: float | None) -> Preprocessing:
    return eval_preprocessing(side, 0.875, "bicubic", HALF, HALF, reducing_gap=gap)


def squashed(side: int, gap: float | None) -> Preprocessing:
    return eval_preprocessing(side, 1.0, "bilinear", HALF, HALF, squash=True, reducing_gap=gap)


def away(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def turned(orientation: int, picture: Image.Image | None = None, **options: object) -> bytes:
    """The picture (by default the flower, 640 x 427), stored so that EXIF makes it upright."""
    picture = picture or Image.open(io.BytesIO(photograph("flower"))).convert("RGB")
    back = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    stored = picture if back is None else picture.transpose(back)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(stored, "JPEG", **{"quality": 95, **options}, exif=exif)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 100), st.integers(0, 100))
def test_a_jpeg_is_reduced_as_far_as_it_stays_large_enough(
    width: int, height: int, wide: int, high: int
) -> None:
    data = encode(small(width, height), "JPEG")
    header, picture, box = decode_reduced(data, lambda *_: (wide, high))
    assert (header.width, header.height) == (width, height)
    times = round(width / box[2])
    assert box == (0, 0, width / times, height / times)
    assert picture.size == (-(-width // times), -(-height // times))
    if times > 1:
        assert picture.width >= wide
        assert picture.height >= high
    larger = 2 * times
    assert times == 8 or width // larger < max(1, wide) or height // larger < max(1, high)


@pytest.mark.parametrize("times", [2, 4, 8])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_its_pixels_are_the_means_of_those_that_they_stand_for(
    times: int, options: dict[str, object]
) -> None:
    data = turned(1, **options)
    whole = Image.fromarray(decode(data))
    _, picture, _ = decode_reduced(data, lambda w, h: (w // times, h // times))
    assert away(pixels(picture), pixels(whole.reduce(times))) < 1.0


@pytest.mark.parametrize("name", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_other_formats_come_whole(name: str) -> None:
    data = encode(small(64, 48), name)
    _, picture, box = decode_reduced(data, lambda *_: (1, 1))
    assert (picture.size, box) == ((64, 48), (0, 0, 64, 48))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_undone_before_and_after(orientation: int) -> None:
    header, row = cropped(64, 2.0).of_file(turned(orientation))
    assert (header.width, header.height) == (640, 427)
    assert away(row, cropped(64, None).of_file(turned(1))[1]) < 1.5


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_gray_and_cmyk(mode: str) -> None:
    picture = Image.open(io.BytesIO(photograph("flower"))).convert(mode)
    data = encode(picture, "JPEG", quality=95)
    assert away(cropped(64, 2.0).of_file(data)[1], cropped(64, None).of_file(data)[1]) < 1.0


@pytest.mark.parametrize("make", [cropped, squashed])
@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_a_gap_of_two_is_a_fraction_of_a_grey_level_away(make: object, name: str) -> None:
    assert callable(make)
    data = encode(Image.open(io.BytesIO(photograph("china"))), name)
    reduced, whole = make(64, 2.0).of_file(data)[1], make(64, None).of_file(data)[1]
    assert 0 < away(reduced, whole) < 0.8
    nearer = make(64, 3.0).of_file(data)[1]
    assert away(nearer, whole) < away(reduced, whole)


@settings(deadline=None, max_examples=100)
@given(
    st.integers(3, 200), st.integers(3, 200), st.integers(1, 40), st.floats(1.0, 4.0),
    st.booleans(), st.sampled_from(["JPEG", "PNG"]),
)  # fmt: skip
def test_the_output_has_the_declared_shape(
    width: int, height: int, side: int, gap: float, squash: bool, name: str
) -> None:
    make = squashed if squash else cropped
    header, row = make(side, gap).of_file(encode(small(width, height), name))
    assert (header.width, header.height) == (width, height)
    assert row.shape == (side, side, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mark_in_a_reduced_jpeg_is_found_where_it_was(orientation: int) -> None:
    """Odd sizes: one outermost column and row of a reduced picture stand for less than the others,
    and which ones follows from the orientation."""
    image = np.zeros((427, 1001, 3), np.uint8)
    image[201:251, 967:997] = 255
    steps = squashed(100, 1.0)
    data = turned(orientation, Image.fromarray(image), quality=100, subsampling=0)
    _, row = steps.of_file(data)
    weight = row[..., 0].astype(float)
    rows, columns = np.indices(weight.shape) + 0.5
    centre = (columns * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum()
    assert steps.to_source(*centre, 1001, 427) == pytest.approx((982, 226), abs=1.0)


@pytest.mark.parametrize(
    "first",
    [CenterCrop(height=64, width=64), Resize(height=64, width=64, interpolation="nearest"),
     ResizeShorterSide(size=300)],
)  # fmt: skip
def test_nothing_is_reduced_where_it_would_change_what_is_meant(
    first: CenterCrop | Resize | ResizeShorterSide,
) -> None:
    last = CenterCrop(height=64, width=64)
    steps = [first] if not isinstance(first, ResizeShorterSide) else [first, last]
    with_gap = Preprocessing(steps=steps, mean=HALF, std=HALF, reducing_gap=2.0)
    without = Preprocessing(steps=steps, mean=HALF, std=HALF)
    data = photograph("flower")
    assert np.array_equal(with_gap.of_file(data)[1], without.of_file(data)[1])


def test_pixels_of_no_file_are_reduced_like_those_of_a_png() -> None:
    image = decode(photograph("flower"))
    row = cropped(64, 2.0).of_file(encode(Image.fromarray(image), "PNG"))[1]
    assert np.array_equal(cropped(64, 2.0)(image), row)


def test_half_a_file_is_refused_however_much_it_may_be_reduced() -> None:
    whole = photograph("flower")
    assert read_header(whole).format == "JPEG"
    with pytest.raises(ImageError) as refused:
        cropped(64, 2.0).of_file(whole[: len(whole) // 2])
    assert refused.value.reason == Refusal.TRUNCATED


def test_a_gap_that_is_not_set_is_not_written() -> None:
    """So that programs before it read the bundle; one that is set survives."""
    without, with_gap = cropped(64, None), cropped(64, 2.0)
    assert "reducing_gap" not in json.loads(without.model_dump_json())
    for steps in (without, with_gap):
        assert Preprocessing.model_validate_json(steps.model_dump_json()) == steps
