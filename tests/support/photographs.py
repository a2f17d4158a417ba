"""Real photographs for tests, from packages that bring them, and every way to encode them.

flower and china are scikit-learn's photographs of 640 x 427 pixels, most others scikit-image's,
cell is one electroluminescence photograph of a solar cell from elpv-dataset. Nothing is downloaded.
"""

import io
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_FILES = {
    "flower": ("sklearn.datasets.images", "flower.jpg"),
    "china": ("sklearn.datasets.images", "china.jpg"),
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "coins": ("skimage", "data/coins.png"),
    "logo": ("skimage", "data/logo.png"),
    "tiny_animation": ("skimage", "data/no_time_for_that_tiny.gif"),
    "pages": ("skimage", "data/multipage_rgb.tif"),
    "cell": ("elpv_dataset", "data/images/cell0001.png"),
}


def photograph_path(name: str) -> Path:
    """Where the photograph lies as a file."""
    package, path = _FILES[name]
    return Path(str(files(package).joinpath(path)))


@cache
def photograph(name: str) -> bytes:
    """The photograph as its package ships it."""
    return photograph_path(name).read_bytes()


@cache
def small(width: int = 48, height: int = 32) -> Image.Image:
    """The flower, RGB, of this size; no two of its orientations look alike."""
    picture = Image.open(io.BytesIO(photograph("flower"))).convert("RGB")
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    picture.info.clear()
    return picture


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """(height, width, 3) of an image."""
    return np.array(image.convert("RGB"))


def encode(image: Image.Image, format_name: str, **options: object) -> bytes:
    """The image as a file of Pillow's format."""
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def encode_array(array: NDArray[np.generic], format_name: str, **options: object) -> bytes:
    """The array (of any dtype that Pillow has a mode for) as a file."""
    return encode(Image.fromarray(array), format_name, **options)


@dataclass(frozen=True)
class Variant:
    """One encoding of `small()`. `tolerance` is the mean absolute difference it may cost."""

    data: bytes
    format: str
    expected: NDArray[np.uint8]
    tolerance: float = 0.0
    frames: int = 1


@cache
def variants() -> dict[str, Variant]:
    """The photograph in every format and mode that the suite takes, by a speaking name."""
    picture = small()
    return {**_lossy(picture), **_lossless(picture), **_tiffs(picture), **_several_frames(picture)}


def _lossy(picture: Image.Image) -> dict[str, Variant]:
    rgb, gray = pixels(picture), pixels(picture.convert("L"))
    cmyk = picture.convert("CMYK")
    encodings = {
        "jpeg": (encode(picture, "JPEG", quality=95, subsampling=0), "JPEG", rgb),
        "jpeg-progressive": (encode(picture, "JPEG", quality=95, progressive=True), "JPEG", rgb),
        "jpeg-restarts": (encode(picture, "JPEG", quality=95, restart_marker_rows=1), "JPEG", rgb),
        "jpeg-gray": (encode(picture.convert("L"), "JPEG", quality=95), "JPEG", gray),
        "jpeg-cmyk": (encode(cmyk, "JPEG", quality=95, subsampling=0), "JPEG", pixels(cmyk)),
        "webp": (encode(picture, "WEBP", quality=95), "WEBP", rgb),
        "tiff-jpeg": (encode(picture, "TIFF", compression="jpeg", quality=95), "TIFF", rgb),
        "tiff-lab": (encode(_lab(picture), "TIFF"), "TIFF", rgb),
    }
    return {
        name: Variant(data, format_name, expected, tolerance=6.0)
        for name, (data, format_name, expected) in encodings.items()
    }


def _lossless(picture: Image.Image) -> dict[str, Variant]:
    rgb, gray = pixels(picture), picture.convert("L")
    palette, bits = picture.quantize(64), picture.convert("1")
    encodings = {
        "png": (encode(picture, "PNG"), "PNG", rgb),
        "png-gray": (encode(gray, "PNG"), "PNG", pixels(gray)),
        "png-palette": (encode(palette, "PNG"), "PNG", pixels(palette)),
        "png-bits": (encode(bits, "PNG"), "PNG", pixels(bits)),
        "png-opaque": (encode(picture.convert("RGBA"), "PNG"), "PNG", rgb),
        "webp-lossless": (encode(picture, "WEBP", lossless=True), "WEBP", rgb),
        "bmp": (encode(picture, "BMP"), "BMP", rgb),
        "bmp-gray": (encode(gray, "BMP"), "BMP", pixels(gray)),
        "bmp-palette": (encode(palette, "BMP"), "BMP", pixels(palette)),
        "bmp-bits": (encode(bits, "BMP"), "BMP", pixels(bits)),
        "gif": (encode(palette, "GIF"), "GIF", pixels(palette)),
        "gif-gray": (encode(gray, "GIF"), "GIF", pixels(gray)),
        "gif-interlaced": (encode(palette, "GIF", interlace=1), "GIF", pixels(palette)),
    }
    return {name: Variant(*encoding) for name, encoding in encodings.items()}


def _tiffs(picture: Image.Image) -> dict[str, Variant]:
    rgb, gray, cmyk = pixels(picture), picture.convert("L"), picture.convert("CMYK")
    palette, bits = picture.quantize(64), picture.convert("1")
    encodings = {
        "tiff": (encode(picture, "TIFF"), rgb),
        "tiff-big": (encode(picture, "TIFF", big_tiff=True), rgb),
        "tiff-lzw": (encode(picture, "TIFF", compression="tiff_lzw"), rgb),
        "tiff-deflate": (encode(picture, "TIFF", compression="tiff_adobe_deflate"), rgb),
        "tiff-packbits": (encode(picture, "TIFF", compression="packbits"), rgb),
        "tiff-zstd": (encode(picture, "TIFF", compression="zstd"), rgb),
        "tiff-gray": (encode(gray, "TIFF"), pixels(gray)),
        "tiff-palette": (encode(palette, "TIFF"), pixels(palette)),
        "tiff-bits": (encode(bits, "TIFF"), pixels(bits)),
        "tiff-fax": (encode(bits, "TIFF", compression="group4"), pixels(bits)),
        "tiff-cmyk": (encode(cmyk, "TIFF"), pixels(cmyk)),
        "tiff-ycbcr": (
            encode(picture.convert("YCbCr"), "TIFF"),
            pixels(picture.convert("YCbCr")),
        ),
    }
    return {name: Variant(data, "TIFF", expected) for name, (data, expected) in encodings.items()}


def _several_frames(picture: Image.Image) -> dict[str, Variant]:
    other = picture.transpose(Image.Transpose.ROTATE_180)
    palette = picture.quantize(64)
    series = {"save_all": True, "append_images": [other]}
    return {
        "gif-animated": Variant(
            encode(palette, "GIF", save_all=True, append_images=[other.quantize(64)]),
            "GIF", pixels(palette), frames=2,
        ),
        "png-animated": Variant(encode(picture, "PNG", **series), "PNG", pixels(picture), frames=2),
        "webp-animated": Variant(
            encode(picture, "WEBP", lossless=True, **series), "WEBP", pixels(picture), frames=2
        ),
        "tiff-pages": Variant(encode(picture, "TIFF", **series), "TIFF", pixels(picture), frames=2),
    }  # fmt: skip


def _lab(picture: Image.Image) -> Image.Image:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(picture, srgb, lab, outputMode="LAB")
    assert converted is not None
    converted.info.clear()
    return converted
