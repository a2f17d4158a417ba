"""The frames between front ends and runners: what goes in comes out, and nothing else is taken."""

import contextlib
import itertools
import math
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionloop.errors import (
    DeadlineExceededError,
    ImageError,
    InvalidInputError,
    OverloadedError,
    UnavailableError,
)
from visionloop.signature import Signature, TensorSpec
from visionloop_inference import wire
from visionloop_inference.datatypes import DATATYPES
from visionloop_inference.inbox import Inbox
from visionloop_inference.rows import HEADER, aligned
from visionloop_inference.wire import Layout, MalformedFrameError, Reason

ARENA = 2**30
SIZES = st.integers(1, 5)


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    def specs(prefix: str) -> tuple[TensorSpec, ...]:
        count = draw(st.integers(1, 3))
        return tuple(
            TensorSpec(
                name=f"{prefix}{i}",
                datatype=draw(st.sampled_from(sorted(DATATYPES))),
                shape=draw(st.lists(st.one_of(st.just(-1), SIZES), max_size=3)),
            )
            for i in range(count)
        )

    return Signature(inputs=specs("x"), outputs=specs("y"), batched=draw(st.booleans()))


def filled(draw: st.DrawFn, spec: TensorSpec, rows: int) -> tuple[int, tuple[int, ...]]:
    """A size in bytes and the dimensions of rows that fit a spec."""
    dimensions = tuple(draw(st.integers(0, 5)) if size < 0 else size for size in spec.shape)
    elements = rows * math.prod(dimensions)
    item = DATATYPES[spec.datatype].size
    size = elements * item if item else 4 * elements + draw(st.integers(0, 9)) * bool(elements)
    return size, dimensions


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_job_is_read_as_it_was_written(data: st.DataObject) -> None:
    signature = data.draw(signatures())
    layout = Layout(signature)
    rows = data.draw(st.integers(1, 9)) if signature.batched else 1
    inputs, places, at = [], [], HEADER
    for spec in signature.inputs:
        size, dimensions = filled(data.draw, spec, rows)
        inputs.append((at, size, dimensions))
        places += [at, size, *dimensions]
        at += aligned(size)
    space = layout.answer_space(rows)
    answer = (at, space) if space else (0, 0)
    priority = data.draw(st.integers(0, 255))
    deadline = data.draw(st.one_of(st.just(math.inf), st.floats(0, 1e9)))
    job = data.draw(st.integers(0, 2**64 - 1))
    frame = layout.job(job, rows, priority, deadline, answer, places)
    assert len(frame) <= layout.longest_to_runner
    buffer = memoryview(b"before" + frame)
    found = layout.read_job(buffer, 6, len(buffer), ARENA)
    assert found == wire.JobFrame(job, rows, priority, deadline, answer, tuple(inputs))
    if at > HEADER or space:
        with pytest.raises(MalformedFrameError):  # the arena ends before what it names
            layout.read_job(buffer, 6, len(buffer), HEADER)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_an_answer_is_read_as_it_was_written(data: st.DataObject) -> None:
    signature = data.draw(signatures())
    layout = Layout(signature)
    rows = data.draw(st.integers(1, 9)) if signature.batched else 1
    outputs = [filled(data.draw, spec, rows) for spec in signature.outputs]
    parts = [data.draw(st.binary(min_size=size, max_size=size)) for size, _ in outputs]
    failures = data.draw(st.dictionaries(st.integers(0, rows - 1), st.text(max_size=40)))
    in_arena = data.draw(st.booleans())
    places = [number for size, dimensions in outputs for number in (size, *dimensions)]
    out = bytearray(b"before")
    layout.answer(out, 7, places, [] if in_arena else parts, failures, in_arena=in_arena)
    buffer = memoryview(out)
    found = layout.read_answer(buffer, 6, len(buffer))
    assert (found.id, found.in_arena) == (7, in_arena)
    assert [(size, dimensions) for size, dimensions, _ in found.outputs] == outputs
    if not in_arena:
        assert [part for _, _, part in found.outputs] == parts
    assert found.failures == {
        row: text.encode(errors="replace").decode() for row, text in failures.items()
    }
    for cut in data.draw(st.lists(st.integers(0, len(out) - 7), max_size=4)):
        with pytest.raises(MalformedFrameError):
            layout.read_answer(buffer, 6, 6 + cut)


@given(st.binary(max_size=200), signatures())
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_frame_or_malformed(noise: bytes, signature: Signature) -> None:
    layout = Layout(signature)
    buffer = memoryview(noise)
    readers = (
        lambda: layout.read_job(buffer, 0, len(noise), HEADER + 4096),
        lambda: layout.read_answer(buffer, 0, len(noise)),
        lambda: wire.read_refused(buffer, 0, len(noise)),
        lambda: wire.read_cancel(buffer, 0, len(noise)),
    )
    for read in readers:
        try:
            read()
        except MalformedFrameError:
            pass


PIXELS = Signature(
    inputs=(TensorSpec(name="x", datatype="UINT8", shape=[4, 4]),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=[-1]),),
    batched=True,
)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rows": 0}, "0 rows"),
        ({"rows": 2**21}, "rows"),
        ({"rows": 2}, "16 bytes of 2 rows"),
        ({"deadline": math.nan}, "deadline"),
        ({"answer": (HEADER, 2**20)}, "of an arena"),
        ({"places": [HEADER, 16, 4, 5]}, r"\[4, 5\]"),
        ({"places": [HEADER, 16, -4, -4]}, "-4"),
        ({"places": [HEADER, 2**40, 4, 4]}, "bytes of 1 rows"),
        ({"places": [HEADER + 8, 16, 4, 4]}, "of an arena"),
        ({"places": [0, 16, 4, 4]}, "of an arena"),
        ({"places": [2**63, 16, 4, 4]}, "of an arena"),
    ],
)
def test_a_job_that_does_not_fit_is_malformed(changed: dict[str, object], words: str) -> None:
    layout = Layout(PIXELS)
    values: dict[str, object] = {
        "rows": 1, "deadline": math.inf, "answer": (0, 0), "places": [HEADER, 16, 4, 4],
    }  # fmt: skip
    values |= changed
    frame = memoryview(
        layout.job(1, values["rows"], 0, values["deadline"], values["answer"], values["places"])
    )
    with pytest.raises(MalformedFrameError, match=words):
        layout.read_job(frame, 0, len(frame), HEADER + 4096)


@pytest.mark.parametrize(
    ("datatype", "shape", "allowed"),
    [
        ("FP32", [-1], True),  # who asks may know how large it will be
        ("FP32", [16], False),  # 64 bytes, which come in the frame
        ("BYTES", [-1], False),  # a runner's pointers, which nobody else may write
    ],
)
def test_space_for_outputs_is_for_sizes_that_the_signature_leaves_open(
    datatype: str, shape: list[int], allowed: bool
) -> None:
    outputs = (TensorSpec(name="y", datatype=datatype, shape=shape),)
    layout = Layout(PIXELS.model_copy(update={"outputs": outputs}))
    frame = memoryview(layout.job(1, 1, 0, math.inf, (HEADER + 64, 64), [HEADER, 16, 4, 4]))
    if allowed:
        read = layout.read_job(frame, 0, len(frame), HEADER + 4096)
        assert read.answer == (HEADER + 64, 64)
    else:
        with pytest.raises(MalformedFrameError, match="for the answer"):
            layout.read_job(frame, 0, len(frame), HEADER + 4096)


def test_a_refused_image_comes_back_as_it_was_refused() -> None:
    frame = wire.refused(7, Reason.IMAGE, "corrupt\nit cannot be decoded\nat all")
    job, reason, error = wire.read_refused(memoryview(frame), 0, len(frame))
    assert (job, reason) == (7, Reason.IMAGE)
    assert isinstance(error, ImageError)
    assert (error.reason, str(error)) == ("corrupt", "it cannot be decoded\nat all")


@pytest.mark.parametrize(
    ("reason", "kind", "seconds"),
    [
        (Reason.EXPIRED, DeadlineExceededError, math.nan),
        (Reason.OVERLOADED, OverloadedError, 0.5),
        (Reason.INVALID, InvalidInputError, math.nan),
        (Reason.UNAVAILABLE, UnavailableError, 2.0),
    ],
)
def test_a_refusal_becomes_the_error_that_it_says(
    reason: Reason, kind: type[Exception], seconds: float
) -> None:
    frame = memoryview(wire.refused(3, reason, "vous êtes trop", seconds))
    job, found, error = wire.read_refused(frame, 0, len(frame))
    assert (job, found, type(error), str(error)) == (3, reason, kind, "vous êtes trop")
    if not math.isnan(seconds):
        assert error.retry_after_seconds == seconds


@given(
    st.lists(st.integers(5, 400_000), max_size=6),
    st.lists(st.integers(1, 300_000), min_size=1, max_size=30),
)
@settings(max_examples=60, deadline=None)
def test_frames_come_out_whole_however_the_stream_is_cut(
    lengths: list[int], cuts: list[int]
) -> None:
    stream = bytearray()
    for kind, length in enumerate(lengths):
        stream += length.to_bytes(4, "little") + bytes([kind]) + bytes([kind]) * (length - 5)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        inbox = Inbox(theirs)
        found = []
        at, steps = 0, itertools.cycle([*cuts, 300_000])
        while len(found) < len(lengths):
            cut = next(steps)
            with contextlib.suppress(BlockingIOError):
                at += ours.send(stream[at : at + cut])
            assert inbox.receive()
            for kind, start, end in inbox.frames():
                assert bytes(inbox.buffer[start + 5 : end]) == bytes([kind]) * (end - start - 5)
                found.append((kind, end - start))
    assert found == list(enumerate(lengths))


@pytest.mark.parametrize("length", [0, 4, 41, 2**32 - 1])
def test_a_length_that_can_not_be_is_malformed(length: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inbox = Inbox(theirs, longest=40)
        ours.send(length.to_bytes(4, "little") + b"\1")
        assert inbox.receive()
        with pytest.raises(MalformedFrameError, match="a frame of"):
            list(inbox.frames())


def test_the_end_of_the_other_side_is_the_end() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        inbox = Inbox(theirs)
        ours.send(b"\x05\0\0\0")  # a torn frame
        ours.close()
        assert inbox.receive()
        assert list(inbox.frames()) == []
        assert not inbox.receive()
