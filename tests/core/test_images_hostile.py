"""Whatever the bytes: an image that matches its header, or an ImageError, in bounded memory."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.hostile_images import bombs
from support.mutated_images import mend_png
from support.photographs import variants

from visionloop.errors import ImageError
from visionloop.images import Limits, Refusal, decode, read_header

TESTS = Path(__file__).resolve().parents[1]
Answer = TypeVar("Answer")
DAMAGED = int(os.environ.get("FUZZ_CASES", "1000"))
SMALL = Limits(max_pixels=1_000_000)
BEGINNINGS = [
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"BM",
    b"RIFF\x20\0\0\0WEBPVP8X", b"RIFF\x20\0\0\0WEBPVP8L", b"RIFF\x20\0\0\0WEBPVP8 ",
]  # fmt: skip


def outcome(function: Callable[[bytes, Limits], Answer], data: bytes) -> tuple[Answer | None, str]:
    """What came of it, and the reason if it was refused; any other exception fails the test."""
    try:
        return function(data, SMALL), ""
    except ImageError as error:
        return None, error.reason


def check(data: bytes) -> None:
    """The property itself."""
    header, refused = outcome(read_header, data)
    image, refused_later = outcome(decode, data)
    assert {refused, refused_later} <= {"", *Refusal}
    if header is None:
        assert refused_later == refused
    elif image is not None:
        assert image.shape == (header.height, header.width, 3)
        assert image.dtype == np.uint8
        assert image.flags.writeable
        assert image.flags.c_contiguous


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    check(data)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(BEGINNINGS), st.binary(max_size=300))
def test_any_bytes_after_a_known_beginning(beginning: bytes, rest: bytes) -> None:
    check(beginning + rest)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A real file with some bytes changed, removed, added or repeated, checksums mended or not."""
    data = bytearray(variants()[draw(st.sampled_from(sorted(variants())))].data)
    for _ in range(draw(st.integers(1, 6))):
        # Headers are where the interesting bytes are.
        end = draw(st.sampled_from([64, 256, len(data)]))
        place = draw(st.integers(0, min(end, len(data)) - 1))
        change = draw(st.sampled_from(["set", "remove", "insert", "repeat", "extreme"]))
        if change == "set":
            data[place] = draw(st.integers(0, 255))
        elif change == "remove":
            del data[place : place + draw(st.integers(1, 16))]
        elif change == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=16))
        elif change == "repeat":
            data[place:place] = data[place : place + draw(st.integers(1, 64))]
        else:
            data[place : place + 4] = draw(
                st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"])
            )
        if not data:
            return b""
    if draw(st.booleans()):
        mend_png(data)
    return bytes(data)


@settings(max_examples=DAMAGED, deadline=None)
@given(damaged())
def test_damaged_files(data: bytes) -> None:
    check(data)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(variants())), st.sampled_from(sorted(variants())), st.floats(0.0, 1.0)
)
def test_two_files_in_one(first: str, second: str, cut: float) -> None:
    head = variants()[first].data
    check(head[: int(cut * len(head))] + variants()[second].data)


@pytest.mark.parametrize("name", sorted(bombs()))
def test_bombs_are_refused_for_what_they_are(name: str) -> None:
    data, reasons = bombs()[name]
    if not reasons:  # harmless, once nothing is done more often than needed
        assert decode(data).size
        return
    with pytest.raises(ImageError) as error:
        decode(data)
    assert error.value.reason in reasons


def test_bombs_cost_no_memory() -> None:
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "support.hostile_images"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    for name, (_, reasons) in bombs().items():
        assert answers[name] in (reasons or {"decoded"}), name
