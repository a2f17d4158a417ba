"""Pictures for people: an image scaled to fit, upright, in sRGB, as WebP without any metadata.

Originals are never shown by a browser: a file may be a picture and a page with a script at once, a
TIFF is not shown at all, and a photograph's metadata tells where it was taken. A rendition holds
nothing but pixels that were decoded here.

What people see is what `visionloop.images` decodes, but for one thing: an RGB image with a colour
profile is converted to sRGB, because a browser would do the same with the original. Images smaller
than the edge keep their size. The price: 2 ms for an edge of 256, 40 ms for 1600 (of a photograph
of 12 megapixels, beside 120 ms for its decoding).
"""

import io
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageCms

from visionloop.errors import InvalidInputError
from visionloop.images import Limits, colour_profile, decode

MEDIA_TYPE: Final = "image/webp"
MAX_BYTES: Final = 16 * 2**20  # of a rendition; one of 1600 pixels of noise has 3 million


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a rendition is made. A change of what comes out needs a new name."""

    name: str
    edge: int  # pixels, of the longer side at most
    quality: int  # of WebP, to 100
    method: int  # of WebP: 0 is fast, 6 is small


RECIPES: Final = (
    Recipe("thumb256-v1", edge=256, quality=80, method=2),
    Recipe("view1600-v1", edge=1600, quality=88, method=1),
)


def recipe_for(edge: int) -> Recipe:
    """The recipe of this edge. Raises InvalidInputError for any other."""
    for recipe in RECIPES:
        if recipe.edge == edge:
            return recipe
    edges = " or ".join(str(recipe.edge) for recipe in RECIPES)
    raise InvalidInputError(f"edge {edge} is not offered; use {edges}", field="edge")


def render(image: bytes, recipe: Recipe, limits: Limits) -> bytes:
    """The rendition of an encoded image as WebP. Raises ImageError."""
    profile = colour_profile(image, limits)
    picture = Image.fromarray(decode(image, limits))  # RGB
    longest = max(picture.size)
    if longest > recipe.edge:
        width, height = (max(1, round(side * recipe.edge / longest)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    if profile is not None:
        picture = _in_srgb(picture, profile)
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", quality=recipe.quality, method=recipe.method)
    return encoded.getvalue()


def _in_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    try:
        converted = ImageCms.profileToProfile(
            picture, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture  # a profile that cannot be read: as if there were none, as browsers do
    return picture if converted is None else converted
