"""The one decoder: encoded bytes from anywhere in, oriented uint8 RGB or a typed refusal out.

Ingest, training and serving all call `decode`, so the three never disagree about a picture. The
rules (docs/images.md says why, for people) are:

- JPEG, PNG, WebP, BMP, TIFF and GIF, told by their first bytes, never by a name; the first frame or
  page counts. Camera raw files that only look like TIFF are refused.
- The header is read first. Bytes, pixels and aspect ratio are checked against `Limits` before any
  pixel is decoded; Pillow's own bomb warning plays no part.
- A file must be whole: it must have the first frame's last row and reach its format's end (JPEG
  EOI, PNG IEND with good CRCs, GIF trailer, the length in the RIFF header, the last TIFF
  directory). Bytes after the end are ignored.
- EXIF (and XMP) orientation is applied; sizes and boxes are always those of the oriented image. An
  orientation that cannot be read counts as upright.
- Colour: gray becomes three equal channels; CMYK, YCbCr and LAB become RGB; ICC profiles are not
  applied. 16-bit samples keep their upper 8 bits (12-bit ones theirs). 32-bit integers and floats
  have no agreed range and are stretched from their own minimum to their own maximum.
- Transparency is laid over white, as a page shows it.

Whatever the bytes, the answer is an array or an ImageError. The price of one strict decoder is
speed: the pixels of a JPEG are all decoded (about 7 ms per megapixel). Who wants a smaller picture
anyway says so to `decode_reduced`, which takes down to 0.4 of that. At the default limits one image
takes at most about 1.1 GB while it decodes.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from visionloop.errors import ImageError
from visionloop.image_containers import (
    Refusal,
    broken,
    count_frames,
    foreign,
    png_exif,
    sniff,
)
from visionloop.image_pixels import is_rgb, oriented, rgb, scale_colour_key, white_around
from visionloop.strict_pillow import only_image_errors, truncated_files_refused

__all__ = [
    "DEFAULT_LIMITS",
    "Box",
    "Header",
    "Limits",
    "Refusal",
    "colour_profile",
    "decode",
    "decode_picture",
    "decode_reduced",
    "read_header",
]

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
TAKEN = "JPEG, PNG, WebP, BMP, TIFF and GIF are taken"


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused before any pixel is decoded.

    `max_aspect_ratio` is the longer side over the shorter one.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000
    max_aspect_ratio: float = 100.0


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Header:
    """What the file says of itself. Sizes are in pixels, after EXIF orientation."""

    format: str  # Pillow's name: JPEG, PNG, WEBP, BMP, TIFF or GIF
    width: int
    height: int
    mode: str  # Pillow's name of how the pixels are stored: RGB, L, CMYK, P, I;16 …
    frames: int  # frames or pages; only the first one is decoded. Counted to 10,000
    media_type: str
    orientation: int = 1  # 1..8 as in EXIF: what was done to get from the stored size to this one


def read_header(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Header:
    """Format, oriented size, mode and frames of an encoded image; decodes no pixels.

    Raises ImageError for everything that shows without decoding: limits, formats that are not
    taken, files that are cut.
    """
    with only_image_errors(), _open(data, limits) as opened:
        return opened.header


def decode(data: bytes, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """The first frame as (height, width, 3) uint8 RGB, oriented; the caller's own, writable.

    Raises ImageError, and nothing else, whatever the bytes.
    """
    with only_image_errors(), _open(data, limits) as opened:
        return opened.pixels()


def decode_picture(data: bytes, limits: Limits = DEFAULT_LIMITS) -> tuple[Header, Image.Image]:
    """What `read_header` and `decode` give, for one opening of the file; the pixels as a picture.

    For who goes on with Pillow: most photographs are RGB and upright once they are loaded, and
    making an array of one and a picture of that again costs as much as a sixth of decoding it.
    """
    with only_image_errors(), _open(data, limits) as opened:
        return opened.header, opened.picture()


def decode_reduced(
    data: bytes, enough: Callable[[int, int], tuple[int, int]], limits: Limits = DEFAULT_LIMITS
) -> tuple[Header, Image.Image, Box]:
    """Like `decode_picture`, but a JPEG may be reduced while it is decoded.

    For who makes the picture smaller anyway: at a half, a quarter or an eighth libjpeg reads the
    same bytes, but computes and keeps a fraction of the pixels. The picture stays at least as large
    as `enough(width, height)` says, given the oriented size of the file. All other formats come
    whole. The box is what the file's pixels cover of the picture: the outermost pixels of a reduced
    one may stand for fewer than the others.
    """
    with only_image_errors(), _open(data, limits) as opened:
        reduced = opened.reduced(*enough(opened.header.width, opened.header.height))
        return reduced.header, reduced.picture(), reduced.covered


def colour_profile(data: bytes, limits: Limits = DEFAULT_LIMITS) -> bytes | None:
    """The ICC profile that the pixels of `decode` are in, for who shows them; decodes no pixels.

    None without one, and where the file's colours are not RGB: a profile of CMYK or gray says
    nothing about what `decode` made of them. The bytes are as untrusted as the image. Raises
    ImageError.
    """
    with only_image_errors(), _open(data, limits) as opened:
        image = opened.image
        if image.mode not in ("RGB", "RGBA", "RGBX", "P"):
            return None
        found = image.info.get("icc_profile")
        if found is None and isinstance(image, TiffImageFile):
            found = image.tag_v2.get(_ICC_PROFILE)
        return found if isinstance(found, bytes) and found else None


# --- opening

_PLUGINS: dict[str, tuple[type[ImageFile.ImageFile], str]] = {
    "JPEG": (JpegImageFile, "image/jpeg"),
    "PNG": (PngImageFile, "image/png"),
    "WEBP": (WebPImageFile, "image/webp"),
    "BMP": (BmpImageFile, "image/bmp"),
    "TIFF": (TiffImageFile, "image/tiff"),
    "GIF": (GifImageFile, "image/gif"),
}


@dataclass(frozen=True, slots=True)
class _Opened:
    header: Header
    image: ImageFile.ImageFile
    orientation: int  # what is still to be done after loading, 1..8 as in EXIF
    sample_bits: int  # significant bits of a 16-bit sample
    white_is_zero: bool
    frame: tuple[int, int, int, int] | None  # left, top, right, bottom of a GIF's first one
    times: int = 1  # that the pixels come smaller than the header says, on each side

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the oriented pixels."""
        return -(-self.header.width // self.times), -(-self.header.height // self.times)

    @property
    def covered(self) -> Box:
        """Of the oriented pixels. What fills them up lies right of and below the stored ones."""
        width, height = self.header.width / self.times, self.header.height / self.times
        left = self.size[0] - width if self.orientation in (2, 3, 6, 7) else 0.0
        top = self.size[1] - height if self.orientation in (3, 4, 7, 8) else 0.0
        return left, top, left + width, top + height

    def reduced(self, width: int, height: int) -> "_Opened":
        """Itself where it is no JPEG, or would become smaller than this (oriented)."""
        if not isinstance(self.image, JpegImageFile):
            return self
        most = min(self.header.width // max(1, width), self.header.height // max(1, height))
        times = next((times for times in (8, 4, 2) if times <= most), 1)
        stored_width, stored_height = self.image.size
        smaller = max(1, stored_width // times), max(1, stored_height // times)
        if times == 1 or self.image.draft(None, smaller) is None:
            return self
        return replace(self, times=times)

    def pixels(self) -> NDArray[np.uint8]:
        self.image.load()
        stored = rgb(self.image, self.sample_bits, white_is_zero=self.white_is_zero)
        if self.frame is not None:
            stored = white_around(stored, self.frame)
        pixels = oriented(stored, self.orientation)
        if pixels.shape[1::-1] != self.size:
            raise broken(Refusal.CORRUPT, "its pixels are not of the size that its header says")
        return pixels

    def picture(self) -> Image.Image:
        self.image.load()
        as_wanted = is_rgb(self.image) and self.orientation == 1
        if as_wanted and self.image.size == self.size:
            return self.image
        return Image.fromarray(self.pixels())


@contextmanager
def _open(data: bytes, limits: Limits) -> Iterator[_Opened]:
    """One opened file, its limits checked. The plugin classes are called directly: `Image.open`
    adds a warning about big images (which a process may have turned into an error) and reads the
    index of multi-picture JPEGs, both of no use here."""
    if not data:
        raise ImageError("the image is empty (0 bytes)", reason=Refusal.EMPTY)
    if len(data) > limits.max_bytes:
        raise ImageError(
            f"the image has {len(data):,} bytes, the limit is {limits.max_bytes:,}; "
            "send a smaller or more compressed one",
            reason=Refusal.TOO_MANY_BYTES,
        )
    format_name = sniff(data)
    if format_name is None:
        raise _not_taken(data)
    frames = count_frames(data, format_name, partial(_check_size, limits))
    plugin, media_type = _PLUGINS[format_name]
    with truncated_files_refused(), plugin(io.BytesIO(data)) as image:
        width, height = image.size
        sample_bits, white_is_zero = 16, False
        if isinstance(image, TiffImageFile):
            width, height = _check_tiff(image, limits)
            white_is_zero = image.tag_v2.get(_PHOTOMETRIC) == 0
            sample_bits = 12 if image.tag_v2.get(_BITS_PER_SAMPLE) in (12, (12,)) else 16
        elif isinstance(image, PngImageFile):
            scale_colour_key(image, bit_depth=data[24])
            if "exif" not in image.info and (exif := png_exif(data)):
                image.info["exif"] = exif
        _check_size(limits, width, height)
        orientation = _orientation(image)
        if orientation >= 5:
            width, height = height, width
        header = Header(
            format=format_name,
            width=width,
            height=height,
            mode=image.mode,
            frames=getattr(image, "n_frames", 1) if format_name == "WEBP" else frames,
            media_type=media_type,
            orientation=orientation,
        )
        # Pillow orients a TIFF itself while it loads it, and no other format.
        remaining = 1 if format_name == "TIFF" else orientation
        frame = image.tile[0].extents if isinstance(image, GifImageFile) and image.tile else None
        yield _Opened(header, image, remaining, sample_bits, white_is_zero, frame)


def _check_size(limits: Limits, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise broken(Refusal.CORRUPT, f"its header says {width} x {height} pixels")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"the image has {width:,} x {height:,} = {width * height:,} pixels, "
            f"the limit is {limits.max_pixels:,}; scale it down",
            reason=Refusal.TOO_MANY_PIXELS,
        )
    ratio = max(width, height) / min(width, height)
    if ratio > limits.max_aspect_ratio:
        raise ImageError(
            f"the image is {width:,} x {height:,} pixels, an aspect ratio of {ratio:.1f}; "
            f"the limit is {limits.max_aspect_ratio:g}; crop it",
            reason=Refusal.ASPECT_RATIO,
        )


_NEW_SUBFILE_TYPE, _BITS_PER_SAMPLE, _PHOTOMETRIC = 254, 258, 262
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_DNG_VERSION, _ICC_PROFILE = 50706, 34675
# Pillow's names. Left out: lzma, because xz lets a few bytes claim 4 GB of dictionary.
_TIFF_COMPRESSIONS = frozenset(
    ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "tiff_ccitt", "group3",
     "group4", "jpeg", "tiff_jpeg", "zstd", "webp", "tiff_raw_16")
)  # fmt: skip


def _check_tiff(image: TiffImageFile, limits: Limits) -> tuple[int, int]:
    """Returns (width, height) as stored, before orientation."""
    tags = image.tag_v2
    preview = tags.get(_NEW_SUBFILE_TYPE)
    if _DNG_VERSION in tags or (isinstance(preview, int) and preview & 1):
        raise ImageError(
            f"the image is a camera raw file; {TAKEN}, so develop it first",
            reason=Refusal.UNSUPPORTED_FORMAT,
        )
    compression = image.info.get("compression")
    if compression not in _TIFF_COMPRESSIONS:
        raise ImageError(
            f"the TIFF is compressed by {compression}, which is not taken; "
            "save it with LZW or deflate",
            reason=Refusal.UNSUPPORTED_FORMAT,
        )
    # libtiff decodes whole tiles, so a tile may ask for more memory than the image does.
    tile = int(tags.get(_TILE_WIDTH, 1)) * int(tags.get(_TILE_LENGTH, 1))
    if tile > limits.max_pixels:
        raise ImageError(
            f"the TIFF has tiles of {tile:,} pixels, the limit is {limits.max_pixels:,}",
            reason=Refusal.TOO_MANY_PIXELS,
        )
    return int(tags[256]), int(tags[257])


def _orientation(image: ImageFile.ImageFile) -> int:
    """1..8; metadata that cannot be read counts as upright, as in every viewer."""
    try:
        # The base class's method: PNG's own one decodes the pixels first.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    except Exception:  # noqa: BLE001 - EXIF is parsed by many hands, and none of it matters more
        return 1


# --- refusing


def _not_taken(data: bytes) -> ImageError:
    if name := foreign(data):
        return ImageError(
            f"the image is {name}, which is not taken; {TAKEN}",
            reason=Refusal.UNSUPPORTED_FORMAT,
        )
    if data[:512].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        what = "these bytes are a web page, perhaps the error page of the server they came from"
    else:
        what = "these bytes are not an image"
    return ImageError(f"{what}; {TAKEN}", reason=Refusal.NOT_AN_IMAGE)
