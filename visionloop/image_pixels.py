"""A loaded image of any of Pillow's modes as upright uint8 RGB; `images` tells the rules."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngImageFile

_WHITE = (255, 255, 255)
_ROWS_AT_ONCE = 256  # of float64 samples, so that stretching needs little memory


def rgb(image: Image.Image, sample_bits: int, *, white_is_zero: bool = False) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 of a loaded image of any mode.

    `sample_bits` are the significant ones of a 16-bit sample: 16, or 12. `white_is_zero` is the
    file's word on its gray (TIFF), which Pillow heeds up to 8 bits and not beyond.
    """
    if image.mode.startswith("I;16"):
        samples = np.asarray(image)
        gray = (samples >> (sample_bits - 8)).astype(np.uint8)
        if white_is_zero:
            gray = 255 - gray
        if isinstance(key := image.info.get("transparency"), int):
            gray[samples == key] = 255
        return _three_channels(gray)
    if image.mode in ("I", "F"):
        return _three_channels(_stretched(image, white_is_zero=white_is_zero))
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        return np.array(converted)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "RGBA":
        page = Image.new("RGB", image.size, _WHITE)
        page.paste(image, mask=image.getchannel("A"))
        image = page
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def is_rgb(image: Image.Image) -> bool:
    """Whether the pixels of a loaded image are already what `rgb` makes of them."""
    return image.mode == "RGB" and "transparency" not in image.info


def _stretched(image: Image.Image, *, white_is_zero: bool) -> NDArray[np.uint8]:
    """A 32-bit image from its own minimum (0) to its maximum (255), or with `white_is_zero` the
    other way round; all 0 when they are equal.

    Samples that are no finite number become 0.
    """
    samples = np.asarray(image)  # (height, width) int32 or float32
    finite = np.isfinite(samples)
    gray = np.zeros(samples.shape, np.uint8)
    if not finite.any():
        return gray
    any_finite = samples.flat[finite.argmax()]
    low = float(np.min(samples, where=finite, initial=any_finite))
    high = float(np.max(samples, where=finite, initial=any_finite))
    if high <= low:
        return gray
    black = high if white_is_zero else low
    for top in range(0, len(samples), _ROWS_AT_ONCE):
        rows = slice(top, top + _ROWS_AT_ONCE)
        part = np.where(finite[rows], samples[rows], black).astype(np.float64)
        gray[rows] = np.rint(np.abs(part - black) * (255 / (high - low)))
    return gray


def _three_channels(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(gray[:, :, np.newaxis], 3, axis=2)


def scale_colour_key(image: PngImageFile, bit_depth: int) -> None:
    """PNG names its transparent colour in samples of the file, Pillow compares it with pixels that
    it scaled to 8 bits."""
    key = image.info.get("transparency")
    if image.mode == "RGB" and bit_depth == 16 and isinstance(key, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in key)
    elif image.mode == "L" and bit_depth < 8 and isinstance(key, int):
        image.info["transparency"] = key * 255 // (2**bit_depth - 1)


def white_around(pixels: NDArray[np.uint8], frame: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """(height, width, 3), white outside of `frame`: a GIF's first frame may leave its screen empty,
    where a page shows through and Pillow paints whatever colour comes first in the palette."""
    left, top, right, bottom = frame
    if frame == (0, 0, pixels.shape[1], pixels.shape[0]):
        return pixels
    page = np.full_like(pixels, 255)
    page[top:bottom, left:right] = pixels[top:bottom, left:right]
    return page


def oriented(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """(height, width, 3), EXIF orientation 1..8 undone, the way a viewer does it."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
