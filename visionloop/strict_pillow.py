"""Pillow held to our rules: nothing but ImageErrors comes out, and a cut file is an error."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import PIL
from PIL import Image, ImageFile, features

from visionloop.errors import ImageError
from visionloop.image_containers import Refusal, broken

# How Pillow's complaints about a whole file begin whose pixels it cannot read.
_NOT_MADE_FOR = ("unknown pixel mode", "cannot handle")
_LIBRARIES = ("jpg", "libjpeg_turbo", "zlib", "libtiff", "webp", "littlecms2")


@cache
def decoder() -> str:
    """The versions of all that turns bytes into pixels: JPEG decoders differ in last bits."""
    found = {name: features.version(name) for name in _LIBRARIES}
    return ", ".join([f"pillow {PIL.__version__}", *(f"{n} {v}" for n, v in found.items() if v)])


@contextmanager
def only_image_errors() -> Iterator[None]:
    """Pillow's plugins let through whatever their parsing raised: OSError, ValueError,
    SyntaxError, struct.error, KeyError, AttributeError, zlib.error, OverflowError and more."""
    try:
        yield
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"the image has too many pixels: {error}", reason=Refusal.TOO_MANY_PIXELS
        ) from error
    except MemoryError as error:
        raise ImageError(
            "the image needs more memory than this process has left; scale it down",
            reason=Refusal.TOO_MANY_PIXELS,
        ) from error
    except Exception as error:
        why = str(error) or type(error).__name__
        if why.lower().startswith(_NOT_MADE_FOR):
            raise ImageError(
                f"the image is stored in a way that is not taken ({why}); save it as 8-bit RGB or "
                "gray, or as 16-bit gray",
                reason=Refusal.UNSUPPORTED_FORMAT,
            ) from error
        reason = Refusal.TRUNCATED if "truncated" in why.lower() else Refusal.CORRUPT
        raise broken(reason, f"it cannot be decoded ({why})") from error


_strict = threading.Lock()
_decoding = 0
_lenient = False


@contextmanager
def truncated_files_refused() -> Iterator[None]:
    """Pillow has one switch for the whole process that makes it fill what is missing with gray.

    Where some other library turned it on, it is off while an image is decoded here and on again
    after the last one; where nobody did, nothing is touched.
    """
    global _decoding, _lenient
    with _strict:
        _decoding += 1
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            _lenient = True
            ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        with _strict:
            _decoding -= 1
            if _lenient and not _decoding:
                _lenient = False
                ImageFile.LOAD_TRUNCATED_IMAGES = True
