"""Shapes, coordinates and pixels of the preprocessing steps."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from support.photographs import pixels, small

from visionloop.errors import InvalidInputError
from visionloop.preprocessing import (
    CenterCrop,
    Preprocessing,
    Resize,
    ResizeShorterSide,
    eval_preprocessing,
)

HALF = (0.5, 0.5, 0.5)
IMAGENET = eval_preprocessing(224, 0.875, "bicubic", HALF, HALF)


def preprocessing(*steps: Resize | ResizeShorterSide | CenterCrop) -> Preprocessing:
    return Preprocessing(steps=list(steps), mean=HALF, std=HALF)


sides = st.integers(1, 64)
interpolations = st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"])
any_step = st.one_of(
    st.builds(Resize, height=sides, width=sides, interpolation=interpolations),
    st.builds(ResizeShorterSide, size=sides, interpolation=interpolations),
    st.builds(CenterCrop, height=sides, width=sides),
)
last_step = st.one_of(
    st.builds(Resize, height=sides, width=sides, interpolation=interpolations),
    st.builds(CenterCrop, height=sides, width=sides),
)
pipelines = st.tuples(st.lists(any_step, max_size=3), last_step).map(
    lambda steps: preprocessing(*steps[0], steps[1])
)


@settings(deadline=None, max_examples=200)
@given(pipelines, st.integers(1, 80), st.integers(1, 80))
def test_the_output_has_the_declared_shape_whatever_the_image(
    steps: Preprocessing, height: int, width: int
) -> None:
    image = np.full((height, width, 3), 7, np.uint8)
    output = steps(image)
    assert output.shape == (*steps.output_size, 3)
    assert output.dtype == np.uint8
    assert (image == 7).all()
    placement = steps.placement(width, height)
    assert (placement.height, placement.width) == steps.output_size


@pytest.mark.parametrize("shape", [(1, 1), (1, 100), (100, 1), (2, 200), (223, 225)])
def test_thin_and_tiny_images(shape: tuple[int, int]) -> None:
    assert IMAGENET(np.zeros((*shape, 3), np.uint8)).shape == (224, 224, 3)


@settings(deadline=None, max_examples=300)
@given(
    pipelines,
    st.integers(1, 500),
    st.integers(1, 500),
    st.floats(-10, 600),
    st.floats(-10, 600),
)
def test_coordinates_go_there_and_back(
    steps: Preprocessing, width: int, height: int, x: float, y: float
) -> None:
    placement = steps.placement(width, height)
    assert placement.to_source(*placement.from_source(x, y)) == pytest.approx((x, y), abs=1e-6)
    assert steps.to_source(x, y, width, height) == placement.to_source(x, y)


@pytest.mark.parametrize(
    "steps",
    [
        preprocessing(Resize(height=64, width=96)),
        eval_preprocessing(64, 0.8, "bilinear", HALF, HALF),
        eval_preprocessing(64, 0.8, "bilinear", HALF, HALF, squash=True),
        preprocessing(CenterCrop(height=300, width=300)),
        preprocessing(CenterCrop(height=101, width=77), Resize(height=50, width=50)),
    ],
)
@pytest.mark.parametrize(("width", "height"), [(160, 120), (121, 203), (90, 90)])
def test_a_mark_is_found_again_within_a_pixel(
    steps: Preprocessing, width: int, height: int
) -> None:
    """A white square near the middle: its centre in the output, mapped back, is its centre."""
    image = np.zeros((height, width, 3), np.uint8)
    left, top, side = width // 2 - 7, height // 2 + 3, 12
    image[top : top + side, left : left + side] = 255
    output = steps(image)[..., 0].astype(float)
    rows, columns = np.indices(output.shape) + 0.5
    centre = (columns * output).sum() / output.sum(), (rows * output).sum() / output.sum()
    found = steps.to_source(*centre, width, height)
    assert found == pytest.approx((left + side / 2, top + side / 2), abs=1.0)


def test_the_same_pixels_as_pillow_and_torchvision_semantics() -> None:
    """Resize the shorter side, longer one rounded down, cut the middle: done here by hand."""
    image = pixels(small(61, 40))
    scaled = Image.fromarray(image).resize((48 * 61 // 40, 48), Image.Resampling.BICUBIC)
    left = round((scaled.width - 42) / 2)
    expected = np.asarray(scaled.crop((left, 3, left + 42, 45)))
    assert np.array_equal(eval_preprocessing(42, 0.875, "bicubic", HALF, HALF)(image), expected)


def test_torchvision_agrees_to_the_bit() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    for width, height in ((61, 40), (33, 80), (40, 40), (30, 20)):
        picture = small(width, height)
        theirs = transforms.Compose([transforms.Resize(48), transforms.CenterCrop(42)])(picture)
        ours = eval_preprocessing(42, 0.875, "bilinear", HALF, HALF)(pixels(picture))
        assert np.array_equal(ours, np.asarray(theirs)), (width, height)


def test_what_center_crop_adds_is_black() -> None:
    output = preprocessing(CenterCrop(height=6, width=5))(np.full((2, 3, 3), 255, np.uint8))
    assert output[..., 0].tolist() == [
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 255, 255, 255, 0],
        [0, 255, 255, 255, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_builder_follows_the_backbones_recipe() -> None:
    assert IMAGENET.steps == [
        ResizeShorterSide(size=256, interpolation="bicubic"),
        CenterCrop(height=224, width=224),
    ]
    whole = eval_preprocessing(240, 1.0, "bilinear", HALF, HALF, squash=True)
    assert whole.steps == [Resize(height=240, width=240, interpolation="bilinear")]
    assert whole.output_size == (240, 240)


def test_it_is_stored_and_read_as_json() -> None:
    stored = IMAGENET.model_dump_json()
    assert Preprocessing.model_validate_json(stored) == IMAGENET
    assert json.loads(stored)["steps"][0] == {
        "step": "resize_shorter_side",
        "size": 256,
        "interpolation": "bicubic",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"steps": []},
        {"steps": [{"step": "resize_shorter_side", "size": 256}]},
        {"steps": [{"step": "rotate", "degrees": 90}]},
        {"steps": [{"step": "center_crop", "height": 0, "width": 5}]},
        {"std": [0.5, 0.5, 0.0]},
        {"mean": [0.5]},
        {"unknown": 1},
    ],
)
def test_records_that_are_wrong_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Preprocessing.model_validate({**IMAGENET.model_dump(), **change})


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_only_uint8_rgb_is_taken(image: np.ndarray) -> None:
    with pytest.raises(InvalidInputError, match="uint8"):
        IMAGENET(image)


@pytest.mark.parametrize(("fraction", "mean"), [(0.0, HALF), (1.1, HALF), (0.9, (0.5,))])
def test_builder_refuses_what_makes_no_sense(fraction: float, mean: tuple[float, ...]) -> None:
    with pytest.raises(InvalidInputError):
        eval_preprocessing(224, fraction, "bicubic", mean, HALF)
