"""Augmentation: pure, on uint8, and TrivialAugment's operations are torchvision's."""

import numpy as np
import pytest
import skimage.data
from PIL import Image
from torchvision.transforms.autoaugment import _apply_op
from torchvision.transforms.functional import InterpolationMode

from visionloop_training import augment, trivial_augment
from visionloop_training.config import AugmentConfig

PHOTO = np.ascontiguousarray(skimage.data.astronaut()[100:228, 100:228])  # (128, 128, 3)

# Ours against torchvision's: name and what strength s and a positive sign make of the magnitude.
TWINS = {
    "identity": ("Identity", lambda s: 0.0),
    "rotate": ("Rotate", lambda s: 135 * s),
    "brightness": ("Brightness", lambda s: 0.99 * s),
    "colour": ("Color", lambda s: 0.99 * s),
    "contrast": ("Contrast", lambda s: 0.99 * s),
    "sharpness": ("Sharpness", lambda s: 0.99 * s),
    "posterise": ("Posterize", lambda s: 8 - round(6 * s)),
    "solarise": ("Solarize", lambda s: 255 * (1 - s)),
    "autocontrast": ("AutoContrast", lambda s: 0.0),
    "equalise": ("Equalize", lambda s: 0.0),
    "shear_x": ("ShearX", lambda s: 0.99 * s),
    "shear_y": ("ShearY", lambda s: 0.99 * s),
    # Pillow's matrix says where a pixel comes from, torchvision's numbers where it goes.
    "translate_x": ("TranslateX", lambda s: -32 * s),
    "translate_y": ("TranslateY", lambda s: -32 * s),
}


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
def test_trivial_augments_operations_are_torchvisions(name: str, strength: float):
    twin, magnitude = TWINS[name]
    image = Image.fromarray(PHOTO)
    expected = _apply_op(image, twin, magnitude(strength), InterpolationMode.NEAREST, None)
    found = np.asarray(trivial_augment.OPERATIONS[name](image, strength, 1.0))
    same = np.mean(np.all(found == np.asarray(expected), axis=-1))
    assert same > 0.99  # where a matrix rounds, a border pixel may differ


def test_all_operations_are_drawn_and_the_generator_decides():
    draws = [
        trivial_augment.trivial_augment(PHOTO, np.random.default_rng(seed)) for seed in range(40)
    ]
    again = trivial_augment.trivial_augment(PHOTO, np.random.default_rng(7))
    assert np.array_equal(draws[7], again)
    assert len({draw.tobytes() for draw in draws}) > 25
    assert set(trivial_augment.OPERATIONS) == set(TWINS)


EVERYTHING = AugmentConfig(
    symmetries=["flip_horizontal"],
    rotate=20,
    scale=0.2,
    crop_min_area=0.6,
    brightness=0.2,
    contrast=0.2,
    saturation=0.3,
    hue=0.1,
    trivial=True,
    erase=0.5,
)


def test_everything_at_once_is_a_pure_function():
    first, again = (augment.variant(PHOTO, EVERYTHING, "a", 3) for _ in range(2))
    assert np.array_equal(first, again)
    assert (first.shape, first.dtype) == (PHOTO.shape, np.uint8)
    assert not np.array_equal(first, augment.variant(PHOTO, EVERYTHING, "a", 4))
    assert augment.variant(PHOTO, EVERYTHING, "a", 0) is PHOTO


def test_turning_keeps_the_centre_and_mirrors_the_border():
    assert np.array_equal(augment._turned(PHOTO, 0.0, 1.0), PHOTO)
    quarter = augment._turned(PHOTO, 90.0, 1.0)
    np.testing.assert_allclose(quarter.astype(int), np.rot90(PHOTO, -1), atol=3)
    there = augment._turned(augment._turned(PHOTO, 25.0, 1.0), -25.0, 1.0)
    middle = slice(40, 88)
    difference = np.abs(there[middle, middle].astype(int) - PHOTO[middle, middle])
    assert difference.mean() < 8
    white = np.full((64, 64, 3), 255, np.uint8)
    for degrees, zoom in ((45.0, 1.0), (30.0, 0.6), (0.0, 1.7)):
        assert augment._turned(white, degrees, zoom).min() == 255  # no corner is black


def test_zooming_in_shows_the_middle_larger():
    dot = np.zeros((65, 65, 3), np.uint8)
    dot[28:37, 28:37] = 255
    large = augment._turned(dot, 0.0, 2.0)
    assert large[32, 32].min() == 255
    assert 3.5 < (large > 127).sum() / (dot > 127).sum() < 4.5


def test_colours_change_as_told():
    grey = augment._coloured(PHOTO, 0.0, 0.0)
    assert np.ptp(grey.astype(int), axis=-1).max() == 0
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 200
    assert augment._coloured(red, 1.0, 1 / 3)[0, 0].argmax() == 1  # a third of the circle: green
    assert augment._coloured(red, 1.0, -1 / 3)[0, 0].argmax() == 2


def test_erasing_takes_a_part():
    for seed in range(20):
        erased = augment._erased(PHOTO, np.random.default_rng(seed))
        share = np.mean(np.any(erased != PHOTO, axis=-1))
        assert 0.005 < share < 0.4
    kept = AugmentConfig(symmetries=[], erase=0.3)
    same = [np.array_equal(augment.variant(PHOTO, kept, "a", n), PHOTO) for n in range(1, 101)]
    assert 0.55 < np.mean(same) < 0.85


PINNED = 4693092  # the sum of the pixels


def test_settings_that_are_off_draw_nothing():
    """So that a configuration without them keeps its pixels when new ones are added."""
    config = AugmentConfig(symmetries=[], crop_min_area=0.5, brightness=0.3)
    found = augment.variant(PHOTO, config, "ab" * 32, 3)
    assert int(found.astype(np.int64).sum()) == PINNED
