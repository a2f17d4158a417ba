"""Quality flags on real photographs, as they are and spoilt."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter
from sqlalchemy import select
from support.photographs import photograph
from support.pictures import encoded, noise

from visionloop_labeling.quality import measure
from visionloop_labeling.schema import Blob, Item, QualityFlag

NAMES = ("flower", "china", "cat", "coffee", "coins")


def picture(name: str) -> Image.Image:
    return Image.open(io.BytesIO(photograph(name))).convert("RGB")


@pytest.mark.parametrize("name", NAMES)
def test_good_photographs_have_no_flags(name: str) -> None:
    found = measure(picture(name))
    assert found.flags == ()
    assert 0 < found.brightness < 1


@pytest.mark.parametrize("name", NAMES)
def test_blur_is_seen(name: str) -> None:
    sharp = picture(name)
    blurred = measure(sharp.filter(ImageFilter.GaussianBlur(4 * max(sharp.size) / 256)))
    assert blurred.sharpness < measure(sharp).sharpness / 5
    assert blurred.flags == ("blurred",)


def test_sharpness_does_not_fall_with_the_light() -> None:
    for name in NAMES:
        dimmed = ImageEnhance.Brightness(picture(name)).enhance(0.5)
        assert measure(dimmed).sharpness == pytest.approx(measure(picture(name)).sharpness, rel=0.1)


def test_each_fault_has_its_flag() -> None:
    china = picture("china")
    spoilt = {
        "dark": ImageEnhance.Brightness(china).enhance(0.1),
        "bright": Image.eval(china, lambda value: 245 + value // 26),
        "low_contrast": Image.eval(china, lambda value: 120 + value // 26),
        "tiny": china.resize((63, 63)),
        "odd_aspect": china.resize((900, 200)),
    }
    for flag, image in spoilt.items():
        assert flag in measure(image).flags, flag


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 1), (1, 300), (5000, 50)])
def test_any_size_is_measured(size: tuple[int, int]) -> None:
    flat = measure(Image.new("RGB", size, "black"))
    assert flat.sharpness == flat.contrast == 0.0
    assert {"dark", "low_contrast"} <= set(flat.flags)
    assert np.isfinite(measure(Image.effect_noise(size, 50).convert("RGB")).sharpness)


def test_flags_are_stored_and_can_be_counted(core) -> None:
    dark = encoded(ImageEnhance.Brightness(picture("china")).enhance(0.05), "PNG")
    sha256 = core.add(dark, "a").sha256
    core.add(noise(1, side=100), "a")
    with core.database.read() as session:
        blob = session.get_one(Blob, sha256)
        assert blob.quality["flags"][0] == "dark"
        assert set(blob.quality) == {"brightness", "contrast", "sharpness", "flags"}
        item = session.scalar(select(Item.id).where(Item.sha256 == sha256))
        flags = session.scalars(select(QualityFlag.flag).where(QualityFlag.item_id == item)).all()
    assert set(flags) == set(blob.quality["flags"])
