"""Every format and mode decodes to the right pixels, by the rules of docs/images.md."""

import io
import struct
import threading
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps
from support import photographs
from support.hostile_images import gray_tiff, jpeg_of_depth, tiff
from support.photographs import encode, encode_array, pixels, small, variants

from visionloop.errors import ImageError
from visionloop.images import Limits, Refusal, decode, decode_picture, read_header
from visionloop.preprocessing import eval_preprocessing

VARIANTS = sorted(variants())
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    "GIF": "image/gif",
}


def difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(float) - b).mean())


def refusal(data: bytes, limits: Limits | None = None) -> ImageError:
    """The one error that both functions raise for these bytes."""
    arguments = (data,) if limits is None else (data, limits)
    with pytest.raises(ImageError) as decoding:
        decode(*arguments)
    return decoding.value


def attempt(data: bytes) -> tuple[NDArray[np.uint8] | None, str]:
    """The pixels, or None and the reason of the refusal."""
    try:
        return decode(data), ""
    except ImageError as error:
        return None, error.reason


PREPARE = eval_preprocessing(32, 0.875, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_format_and_mode_gives_the_photograph(name: str) -> None:
    variant = variants()[name]
    decoded = decode(variant.data)
    assert decoded.dtype == np.uint8
    assert decoded.shape == variant.expected.shape
    assert difference(decoded, variant.expected) <= variant.tolerance
    header, picture = decode_picture(variant.data)
    assert header == read_header(variant.data)
    assert (picture.mode, picture.size) == ("RGB", (header.width, header.height))
    assert np.array_equal(np.asarray(picture), decoded)
    assert np.array_equal(PREPARE.of_file(variant.data)[1], PREPARE(decoded))
    decoded[0, 0] = 0  # the caller's own


@pytest.mark.parametrize("name", VARIANTS)
def test_the_header_tells_the_same_without_pixels(name: str) -> None:
    variant = variants()[name]
    header = read_header(variant.data)
    assert (header.format, header.frames) == (variant.format, variant.frames)
    assert (header.height, header.width) == variant.expected.shape[:2]
    assert header.media_type == MEDIA_TYPES[variant.format]


@pytest.mark.parametrize("name", ["flower", "cat", "coins", "logo", "tiny_animation", "cell"])
def test_files_of_the_wild(name: str) -> None:
    data = photographs.photograph(name)
    with Image.open(io.BytesIO(data)) as image:
        expected = image.convert("RGBA")
    page = Image.new("RGBA", expected.size, "white")
    assert difference(decode(data), pixels(Image.alpha_composite(page, expected))) < 0.01


# --- orientation

ORIENTED_FORMATS = {
    "JPEG": {"quality": 90},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "TIFF-LZW": {"compression": "tiff_lzw"},
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ORIENTED_FORMATS)
def test_orientation_is_applied_once(name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    format_name, options = name.split("-")[0], ORIENTED_FORMATS[name]
    data = encode(small(), format_name, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as image:
        expected = pixels(ImageOps.exif_transpose(image))
    decoded = decode(data)
    assert np.array_equal(decoded, expected)
    header = read_header(data)
    assert (header.height, header.width) == decoded.shape[:2]
    assert (header.width < header.height) == (orientation >= 5)


def test_orientation_6_turns_the_left_edge_to_the_top() -> None:
    picture = Image.new("RGB", (40, 20), "black")
    picture.paste("red", (0, 0, 8, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = decode(encode(picture, "PNG", exif=exif))
    assert decoded.shape == (40, 20, 3)
    assert (decoded[:8] == (255, 0, 0)).all()
    assert (decoded[8:] == 0).all()


def test_orientation_after_the_pixels_of_a_png_counts() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    early = encode(small(), "PNG", exif=exif)
    start = early.index(b"eXIf") - 4
    chunk = early[start : start + 12 + int.from_bytes(early[start : start + 4], "big")]
    late = early.replace(chunk, b"").replace(early[-12:], chunk + early[-12:])
    assert late.index(b"eXIf") > late.rindex(b"IDAT")
    assert np.array_equal(decode(late), decode(early))
    assert read_header(late) == read_header(early)


def test_the_header_is_read_without_the_pixels(png: "type[PngFile]") -> None:
    data = png(8, 0, b"", b"\0\0").data
    start = data.index(b"IDAT")
    length = int.from_bytes(data[start - 4 : start], "big")
    rubbish = b"IDAT" + b"\xff" * length
    data = data[:start] + rubbish + zlib.crc32(rubbish).to_bytes(4, "big") + data[-12:]
    assert read_header(data).width == 2
    assert refusal(data).reason == Refusal.CORRUPT


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"nonsense"])
def test_exif_that_cannot_be_read_counts_as_upright(exif: bytes) -> None:
    for format_name in ("JPEG", "WEBP", "PNG"):
        data = encode(small(), format_name, exif=exif)
        assert decode(data).shape == (32, 48, 3)


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_orientation_that_does_not_exist_counts_as_upright(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    for format_name in ("PNG", "TIFF"):
        data = encode(small(), format_name, exif=exif)
        assert np.array_equal(decode(data), pixels(small()))


def test_orientation_in_xmp_counts_where_exif_has_none() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for format_name, options in (("JPEG", {"xmp": xmp}), ("TIFF", {"tiffinfo": {700: xmp}})):
        data = encode(small(), format_name, **options)
        assert decode(data).shape == (48, 32, 3)
        assert (read_header(data).width, read_header(data).height) == (32, 48)


# --- colour, depth, transparency

RAMP = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
def test_16_bit_gray_keeps_its_upper_8_bits(format_name: str) -> None:
    decoded = decode(encode_array(RAMP, format_name))
    assert np.array_equal(decoded, np.repeat((RAMP >> 8)[..., np.newaxis], 3, axis=2))


def test_16_bit_big_endian_tiff_is_the_same_picture() -> None:
    little = encode_array(RAMP, "TIFF")
    big = encode(Image.frombytes("I;16B", (64, 64), RAMP.astype(">u2").tobytes()), "TIFF")
    assert big[:2] == b"MM"
    assert np.array_equal(decode(big), decode(little))


def white_is_zero(tiff: bytes) -> bytes:
    """The same samples, said to be of the other kind of gray (tag 262)."""
    entry = struct.pack("<HHI", 262, 3, 1)
    assert tiff.count(entry + b"\1\0") == 1
    return tiff.replace(entry + b"\1\0", entry + b"\0\0")


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_tiff_whose_zero_is_white_is_no_negative(dtype: type, compression: str | None) -> None:
    """Pillow turns 8 bits round and leaves 16 and floats as they are: X-rays came out inverted."""
    samples = np.array([[0, 50, 100, 255]], dtype) * (257 if dtype is np.uint16 else 1)
    plain = encode_array(samples, "TIFF", compression=compression)
    assert decode(plain)[0, :, 0].tolist() == [0, 50, 100, 255]
    assert decode(white_is_zero(plain))[0, :, 0].tolist() == [255, 205, 155, 0]


def test_no_number_is_black_where_zero_is_white_too() -> None:
    samples = np.array([[np.nan, 0.0, 4.0]], np.float32)
    assert decode(white_is_zero(encode_array(samples, "TIFF")))[0, :, 0].tolist() == [0, 255, 0]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bit_samples_are_stretched_from_minimum_to_maximum(dtype: type) -> None:
    values = np.linspace(-1000, 3000, 64 * 64).reshape(64, 64).astype(dtype)
    decoded = decode(encode_array(values, "TIFF"))
    expected = np.rint((values.astype(float) + 1000) / 4000 * 255)
    assert np.abs(decoded[..., 0] - expected).max() <= 1
    assert (decoded.min(), decoded.max()) == (0, 255)
    assert np.array_equal(decoded[..., 0], decoded[..., 2])


def test_a_constant_float_image_is_black_and_no_number_is_too() -> None:
    assert (decode(encode_array(np.full((4, 4), 7.5, np.float32), "TIFF")) == 0).all()
    assert (decode(encode_array(np.full((4, 4), np.nan, np.float32), "TIFF")) == 0).all()
    mixed = np.array([[np.nan, np.inf, -np.inf, 0.0], [1.0, 2.0, 3.0, 4.0]], np.float32)
    decoded = decode(encode_array(mixed, "TIFF"))[..., 0]
    assert decoded.tolist() == [[0, 0, 0, 0], [64, 128, 191, 255]]


def test_extreme_float_ranges_stretch_without_overflow() -> None:
    for low, high in ((-3.4e38, 3.4e38), (0.0, 1e-45)):
        values = np.array([[low, high]], np.float32)
        assert decode(encode_array(values, "TIFF"))[0, :, 0].tolist() == [0, 255]


def test_alpha_is_laid_over_white() -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[:, 0, 3], rgba[:, 1, 3], rgba[:, 2, 3] = 0, 128, 255
    for format_name, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}),
                                 ("TIFF", {})):  # fmt: skip
        decoded = decode(encode_array(rgba, format_name, **options))
        assert decoded[0, 0].tolist() == [255, 255, 255], format_name
        assert decoded[0, 2].tolist() == [200, 0, 0], format_name
        assert np.abs(decoded[0, 1] - np.array([227.4, 127.0, 127.0])).max() <= 1, format_name


def test_gray_with_alpha() -> None:
    data = encode(Image.merge("LA", [Image.new("L", (2, 1), 40), Image.new("L", (2, 1), 0)]), "PNG")
    assert (decode(data) == 255).all()


@pytest.mark.parametrize("format_name", ["PNG", "GIF"])
def test_a_transparent_palette_colour_becomes_white(format_name: str) -> None:
    picture = Image.new("P", (4, 2), 1)
    picture.putpalette([10, 20, 30, 200, 0, 0])
    picture.putpixel((0, 0), 0)
    decoded = decode(encode(picture, format_name, transparency=0))
    assert decoded[0, 0].tolist() == [255, 255, 255]
    assert decoded[1, 3].tolist() == [200, 0, 0]


@pytest.mark.parametrize("options", [{}, {"transparency": 0}])
def test_what_a_gifs_first_frame_leaves_empty_is_white(options: dict[str, int]) -> None:
    """A page shows through there; Pillow paints the palette's first colour."""
    frame = Image.new("P", (2, 1), 1)
    frame.putpalette([200, 0, 0, 0, 0, 200])
    frame.putpixel((0, 0), 0)
    data = bytearray(encode(frame, "GIF", **options))
    struct.pack_into("<HH", data, 6, 4, 3)  # the screen
    struct.pack_into("<HH", data, data.index(b",\0\0\0\0\2\0\1\0") + 1, 1, 2)  # the frame's corner
    decoded = decode(bytes(data))
    first = [255, 255, 255] if options else [200, 0, 0]
    assert decoded[2, 1:3].tolist() == [first, [0, 0, 200]]
    decoded[2, 1:3] = 255
    assert (decoded == 255).all()


def test_partly_transparent_palette_of_a_png() -> None:
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([0, 0, 0, 100, 100, 100])
    picture.putpixel((1, 0), 1)
    decoded = decode(encode(picture, "PNG", transparency=bytes([0, 255])))
    assert decoded[0].tolist() == [[255, 255, 255], [100, 100, 100]]


@pytest.mark.parametrize(
    ("depth", "key", "hit", "other"),
    [(1, 1, 1, 0), (2, 2, 2, 1), (4, 9, 9, 3), (8, 77, 77, 78), (16, 4660, 4660, 4661)],
)
def test_the_colour_key_of_a_gray_png_at_every_depth(
    png: "type[PngFile]", depth: int, key: int, hit: int, other: int
) -> None:
    data = png(depth, 0, key.to_bytes(2, "big"), png.packed(depth, [hit, other])).data
    decoded = decode(data)[0, :, 0].tolist()
    scale = 1 / 256 if depth == 16 else 255 / (2**depth - 1)
    assert decoded == [255, int(other * scale)]


def test_the_colour_key_of_a_16_bit_colour_png(png: "type[PngFile]") -> None:
    rows = b"".join(value.to_bytes(2, "big") for value in (4660, 22136, 39612, 1, 2, 3))
    key = b"".join(value.to_bytes(2, "big") for value in (4660, 22136, 39612))
    assert decode(png(16, 2, key, rows).data)[0].tolist() == [[255, 255, 255], [0, 0, 0]]


class PngFile:
    """A hand-made PNG of two pixels in one row, for depths that Pillow does not write."""

    def __init__(self, depth: int, colour: int, key: bytes, row: bytes) -> None:
        def chunk(kind: bytes, body: bytes) -> bytes:
            checksum = struct.pack(">I", zlib.crc32(kind + body))
            return struct.pack(">I", len(body)) + kind + body + checksum

        header = struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0)
        self.data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
        self.data += chunk(b"tRNS", key) if key else b""
        self.data += chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")

    @staticmethod
    def packed(depth: int, samples: list[int]) -> bytes:
        bits = "".join(f"{sample:0{depth}b}" for sample in samples)
        bits += "0" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big")


@pytest.fixture
def png() -> type[PngFile]:
    return PngFile


def test_12_bit_tiff_uses_its_own_range() -> None:
    # Two samples of 12 bits, 0x000 and 0xFFF, packed into three bytes.
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}
    body = b"\x00\x0f\xff\x00"
    directory = len(tags).to_bytes(2, "little")
    for tag, value in tags.items():
        directory += tag.to_bytes(2, "little") + (4).to_bytes(2, "little")
        directory += (1).to_bytes(4, "little") + value.to_bytes(4, "little")
    data = b"II*\0" + (8 + len(body)).to_bytes(4, "little") + body + directory + bytes(4)
    assert decode(data)[0, :, 0].tolist() == [0, 255]


def test_icc_profiles_are_not_applied() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert np.array_equal(decode(encode(small(), "PNG", icc_profile=profile)), pixels(small()))


# --- refusals


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", Refusal.EMPTY, "0 bytes"),
        (b"hello", Refusal.NOT_AN_IMAGE, "JPEG, PNG, WebP, BMP, TIFF and GIF"),
        (b"\n<!DOCTYPE html><p>404", Refusal.NOT_AN_IMAGE, "web page"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', Refusal.UNSUPPORTED_FORMAT, "SVG"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<svg/>', Refusal.UNSUPPORTED_FORMAT, "SVG"),
        (b"%PDF-1.7", Refusal.UNSUPPORTED_FORMAT, "PDF"),
        (b"\0\0\0\x18ftypheic\0\0", Refusal.UNSUPPORTED_FORMAT, "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0", Refusal.UNSUPPORTED_FORMAT, "AVIF"),
        (b"\0\0\0\x18ftypisom\0\0", Refusal.UNSUPPORTED_FORMAT, "video"),
        (b"8BPS\0\1", Refusal.UNSUPPORTED_FORMAT, "Photoshop"),
        (b"II*\0\x10\0\0\0CR\2\0", Refusal.UNSUPPORTED_FORMAT, "raw"),
        (b"\xff\xd8\xff", Refusal.TRUNCATED, "whole file"),
        (b"BM", Refusal.CORRUPT, "undamaged"),
        # Whole files that Pillow cannot read: samples of 64 bits, a JPEG of 12.
        (
            tiff({**gray_tiff(1, 1), 258: (3, 1, 64)}, bytes(8)),
            Refusal.UNSUPPORTED_FORMAT,
            "16-bit",
        ),
        (jpeg_of_depth(12), Refusal.UNSUPPORTED_FORMAT, "12-bit layers"),
        (b"\xff\xd8\xff\xd9", Refusal.CORRUPT, "undamaged"),
    ],
)
def test_refusals_say_what_was_wrong(data: bytes, reason: Refusal, words: str) -> None:
    error = refusal(data)
    assert error.reason == reason
    assert words in str(error)
    with pytest.raises(ImageError):
        read_header(data)


def test_limits_hold_to_the_pixel() -> None:
    data = encode(Image.new("L", (40, 20)), "PNG")
    exact = Limits(max_bytes=len(data), max_pixels=800, max_aspect_ratio=2.0)
    assert decode(data, exact).shape == (20, 40, 3)
    for limits, reason, words in (
        (Limits(max_bytes=len(data) - 1), Refusal.TOO_MANY_BYTES, f"{len(data):,} bytes"),
        (Limits(max_pixels=799), Refusal.TOO_MANY_PIXELS, "40 x 20 = 800 pixels"),
        (Limits(max_aspect_ratio=1.9), Refusal.ASPECT_RATIO, "aspect ratio of 2.0"),
    ):
        error = refusal(data, limits)
        assert error.reason == reason
        assert words in str(error)


@pytest.mark.parametrize("name", VARIANTS)
def test_limits_come_before_the_pixels(name: str) -> None:
    """A file whose pixels are rubbish is refused for its size, which its header tells."""
    variant = variants()[name]
    assert refusal(variant.data, Limits(max_pixels=48 * 32 - 1)).reason == Refusal.TOO_MANY_PIXELS


def test_camera_raw_in_tiff_clothes_is_refused() -> None:
    for tiffinfo in ({254: 1}, {50706: b"\1\4\0\0"}):
        error = refusal(encode(small(), "TIFF", tiffinfo=tiffinfo))
        assert error.reason == Refusal.UNSUPPORTED_FORMAT
        assert "develop" in str(error)


def test_bytes_after_the_end_are_ignored() -> None:
    for name in VARIANTS:
        variant = variants()[name]
        assert np.array_equal(decode(variant.data + b"<script>\xff\xd8"), decode(variant.data)), (
            name
        )


# --- cut files


# What may be missing: the padding after a bitmap's last row, and the pixels of later pages.
FIRST_FRAME_IS_ENOUGH = {"bmp-bits", "tiff-pages"}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_file_cut_anywhere_is_refused(name: str) -> None:
    data = variants()[name].data
    step = max(1, len(data) // 400)
    lengths = {*range(0, len(data), step), *range(max(0, len(data) - 40), len(data))}
    reasons = {Refusal.TRUNCATED, Refusal.CORRUPT, Refusal.EMPTY, Refusal.NOT_AN_IMAGE}
    for length in sorted(lengths):
        decoded, reason = attempt(data[:length])
        if decoded is None:
            assert reason in reasons, length
        else:
            assert name in FIRST_FRAME_IS_ENOUGH, length
            assert np.array_equal(decoded, variants()[name].expected)


def test_half_a_photograph_is_truncated() -> None:
    for name in ("flower", "cat", "tiny_animation", "pages"):
        data = photographs.photograph(name)
        assert refusal(data[: len(data) // 2]).reason == Refusal.TRUNCATED


def test_pillows_lenient_switch_is_treated_as_off_and_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for name in VARIANTS:
        data = variants()[name].data
        assert decode(data).shape == (32, 48, 3)
        refusal(data[: len(data) * 3 // 8])
        assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_the_lenient_switch_stays_off_for_threads_that_overlap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    # Pixel data broken in the middle: only the switch, not the container, tells.
    data = bytearray(variants()["bmp"].data)
    broken, whole = bytes(data[:-40]), bytes(data)
    outcomes: list[str] = []

    def work() -> None:
        for _ in range(50):
            decode(whole)
            outcomes.append(attempt(broken)[1])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes) == {"truncated"}
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_other_users_of_pillow_see_nothing_changed() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    decode(variants()["jpeg"].data)
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
