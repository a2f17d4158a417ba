"""The frames between a front end and a runner: the whole format, both directions, in one place.

A link is a Unix stream socket and an arena (`rows`). Rows lie in the arena; frames say where. All
numbers are little-endian and unpadded but for the bytes named here. Every frame begins with its
length in bytes (u32, itself included) and its kind (u8). What follows depends on the model's
signature, which both sides have: S inputs and T outputs of known rank, so no frame repeats names,
datatypes or ranks, and a frame of another length is malformed.

    JOB (1)      front end -> runner
        u32 length, u8 1, u8 priority, u16 0, u32 rows, u64 id, f64 deadline,
        u64 offset, u64 size        of the space for the answer; 0, 0: it comes in the frame.
                                    Where the signature leaves outputs' sizes open, as large as
                                    who asks likes; what does not fit comes in the frame
        S x (u64 offset, u64 size, rank x i64 dimension)
    CANCEL (2)   front end -> runner
        u32 length, u8 2, u8 0, u16 0, u64 id
    ANSWER (3)   runner -> front end
        u32 length, u8 3, u8 1 if the outputs are in the answer's space, u16 0, u32 failures, u64 id
        T x (u64 size, rank x i64 dimension)
        the outputs one after the other, unless they are in the answer's space (there each
            begins at the next multiple of 64)
        failures x (u32 row, u32 length, UTF-8 text)
    REFUSED (4)  runner -> front end
        u32 length, u8 4, u8 reason, u16 0, u64 id, f64 retry after seconds (NaN: no hint),
        UTF-8 text to the frame's end; for IMAGE, `ImageError.reason` and a line feed first

`rows` is the size of the batch dimension, which dimensions leave out; it is 1 for a model without
one. A deadline is CLOCK_MONOTONIC in seconds, which all processes of a machine share, or infinity.
An id is never used twice on a link. Every JOB is answered by exactly one ANSWER or REFUSED, also
when it was cancelled, and only that frame gives the job's space back; a CANCEL for an id that is
answered already is no error. Tensors are raw as in `datatypes`.

A side that gets a malformed frame closes the link: a stream that lost its frames cannot be joined
again. Price of deriving the layout from the signature: a link serves one model version.
Links between front ends and decoders are the same, with the signature of `decoding_frames`.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from visionloop.bundle import Signature, TensorSpec
from visionloop.errors import (
    DeadlineExceededError,
    ImageError,
    InvalidInputError,
    OverloadedError,
    UnavailableError,
    VisionloopError,
)
from visionloop_inference.datatypes import DATATYPES
from visionloop_inference.rows import ALIGNMENT, HEADER, aligned

JOB, CANCEL, ANSWER, REFUSED = 1, 2, 3, 4

INLINE = 16 * 1024  # bytes of outputs that a frame carries rather than the arena
MOST_ROWS = 2**20  # of one job
LONGEST_FRAME = 2**32 - 1
LONGEST_TEXT = 4096  # bytes of an error's text

HEAD = struct.Struct("<IB")  # length and kind, of every frame
_CANCEL = struct.Struct("<IBBHQ")
_REFUSED = struct.Struct("<IBBHQd")
_FAILURE = struct.Struct("<II")


class Reason(IntEnum):
    """Why a job got no answer."""

    EXPIRED = 1
    CANCELLED = 2
    OVERLOADED = 3
    INVALID = 4
    UNAVAILABLE = 5
    FAILED = 6
    IMAGE = 7


class MalformedFrameError(VisionloopError):
    """The other side of a link sent what this format does not know."""


@dataclass(slots=True)
class JobFrame:
    """A JOB as it was read: checked against the signature and the arena's size."""

    id: int
    rows: int
    priority: int
    deadline: float  # time.monotonic(); infinity: none
    answer: tuple[int, int]  # offset and size of the space for the outputs; (0, 0): none
    inputs: tuple[tuple[int, int, tuple[int, ...]], ...]  # offset, size, dimensions


@dataclass(slots=True)
class AnswerFrame:
    """An ANSWER as it was read. `outputs`: size, dimensions and, unless in the arena, data."""

    id: int
    in_arena: bool
    outputs: list[tuple[int, tuple[int, ...], bytes]]
    failures: dict[int, str] = field(default_factory=dict)


class _Tensor:
    """What the format needs to know of one input or output."""

    __slots__ = ("datatype", "dimensions", "fixed", "item", "name", "rank", "row_bytes", "variable")

    def __init__(self, spec: TensorSpec) -> None:
        self.name = spec.name
        self.datatype = spec.datatype
        self.dimensions = tuple(spec.shape)  # without the batch dimension; -1: free
        self.rank = len(self.dimensions)
        self.item = DATATYPES[spec.datatype].size  # bytes of an element; 0: they vary (BYTES)
        self.variable = self.item == 0
        self.fixed = not self.variable and -1 not in self.dimensions
        self.row_bytes = self.item * math.prod(self.dimensions) if self.fixed else 0

    def fits(self, dimensions: tuple[int, ...], rows: int, size: int) -> bool:
        """Whether `rows` of these dimensions may take `size` bytes."""
        if self.fixed:
            return dimensions == self.dimensions and size == rows * self.row_bytes
        for found, declared in zip(dimensions, self.dimensions, strict=True):
            if found < 0 or declared not in (-1, found):
                return False
        elements = rows * math.prod(dimensions)
        return size >= 4 * elements if self.variable else size == elements * self.item


class Layout:
    """The frames of one signature. Immutable, cheap to keep, safe to share."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.batched = signature.batched
        self.inputs = tuple(_Tensor(spec) for spec in signature.inputs)
        self.outputs = tuple(_Tensor(spec) for spec in signature.outputs)
        self._job = struct.Struct("<IBBHIQdQQ" + _places(self.inputs, "QQ"))
        self._answer = struct.Struct("<IBBHIQ" + _places(self.outputs, "Q"))
        self.longest_to_runner = max(self._job.size, _CANCEL.size)
        self._places_known = all(output.fixed for output in self.outputs)
        self._variable = any(output.variable for output in self.outputs)

    def answer_space(self, rows: int) -> int:
        """Bytes that a front end must reserve for the outputs of so many rows.

        0 when they come in the frame: they are small, or nobody knows their size beforehand.
        """
        if not self._places_known:
            return 0
        total = sum(aligned(rows * output.row_bytes) for output in self.outputs)
        return total if total > INLINE else 0

    def _may_have(self, space: int, rows: int) -> bool:
        """Whether a job may come with so much space for its outputs."""
        return space == self.answer_space(rows) if self._places_known else not self._variable

    # JOB

    def job(
        self,
        job: int,
        rows: int,
        priority: int,
        deadline: float,
        answer: tuple[int, int],
        places: Sequence[int],
    ) -> bytes:
        """A JOB frame. `places`: offset, size and dimensions of each input, one after the other."""
        return self._job.pack(
            self._job.size, JOB, priority, 0, rows, job, deadline, *answer, *places
        )

    def read_job(self, buffer: memoryview, start: int, end: int, arena: int) -> JobFrame:
        """The JOB in buffer[start:end] for an arena of so many bytes.

        Raises MalformedFrameError.
        """
        if end - start != self._job.size:
            raise MalformedFrameError(
                f"a job of {end - start} bytes; this signature's have {self._job.size}"
            )
        fields = self._job.unpack_from(buffer, start)
        _, _, priority, _, rows, job, deadline, offset, size = fields[:9]
        if not 1 <= rows <= MOST_ROWS or (rows != 1 and not self.batched):
            raise MalformedFrameError(f"a job of {rows} rows")
        if math.isnan(deadline):
            raise MalformedFrameError("a job whose deadline is not a number")
        if size:
            _check_place(offset, size, arena)
            if not self._may_have(size, rows):
                raise MalformedFrameError(f"{size} bytes for the answer of {rows} rows")
        inputs = []
        at = 9
        for spec in self.inputs:
            place, length = fields[at : at + 2]
            dimensions = fields[at + 2 : at + 2 + spec.rank]
            at += 2 + spec.rank
            if not spec.fits(dimensions, rows, length):
                raise MalformedFrameError(
                    f"{length} bytes of {rows} rows of {list(dimensions)} for input {spec.name!r}"
                )
            if length:
                _check_place(place, length, arena)
            inputs.append((place, length, dimensions))
        return JobFrame(job, rows, priority, deadline, (offset, size), tuple(inputs))

    # ANSWER

    def answer(
        self,
        out: bytearray,
        job: int,
        places: Sequence[int],
        data: Sequence[memoryview | bytes],
        failures: dict[int, str],
        *,
        in_arena: bool,
    ) -> None:
        """Appends an ANSWER frame to `out`. `places`: size and dimensions of every output, one
        after the other; `data`: the outputs, nothing when they are in the arena."""
        texts = [(row, _clipped(text)) for row, text in failures.items()]
        length = self._answer.size + sum(map(len, data))
        length += sum(_FAILURE.size + len(text) for _, text in texts)
        out += self._answer.pack(length, ANSWER, in_arena, 0, len(texts), job, *places)
        for part in data:
            out += part
        for row, text in texts:
            out += _FAILURE.pack(row, len(text))
            out += text

    def read_answer(self, buffer: memoryview, start: int, end: int) -> AnswerFrame:
        """The ANSWER in buffer[start:end]. Raises MalformedFrameError.

        Whether shapes and rows are those of the job is for the caller to check (`fits`).
        """
        if end - start < self._answer.size:
            raise MalformedFrameError(f"an answer of {end - start} bytes")
        fields = self._answer.unpack_from(buffer, start)
        _, _, in_arena, _, failures, job = fields[:6]
        at, place = 6, start + self._answer.size
        outputs = []
        for spec in self.outputs:
            size, dimensions = fields[at], fields[at + 1 : at + 1 + spec.rank]
            at += 1 + spec.rank
            if in_arena:
                outputs.append((size, dimensions, b""))
                continue
            if size > end - place:
                raise MalformedFrameError(f"an answer that ends before its output {spec.name!r}")
            outputs.append((size, dimensions, bytes(buffer[place : place + size])))
            place += size
        return AnswerFrame(
            job, bool(in_arena), outputs, _read_failures(buffer, place, end, failures)
        )


def cancel(job: int) -> bytes:
    """A CANCEL frame."""
    return _CANCEL.pack(_CANCEL.size, CANCEL, 0, 0, job)


def read_cancel(buffer: memoryview, start: int, end: int) -> int:
    """The id in a CANCEL frame. Raises MalformedFrameError."""
    if end - start != _CANCEL.size:
        raise MalformedFrameError(f"a cancel frame of {end - start} bytes")
    job: int = _CANCEL.unpack_from(buffer, start)[4]
    return job


def refused(job: int, reason: Reason, text: str, retry_after: float = math.nan) -> bytes:
    """A REFUSED frame."""
    data = _clipped(text)
    return _REFUSED.pack(_REFUSED.size + len(data), REFUSED, reason, 0, job, retry_after) + data


def read_refused(buffer: memoryview, start: int, end: int) -> tuple[int, Reason, VisionloopError]:
    """The id in a REFUSED frame, and what to raise for it. Raises MalformedFrameError."""
    if end - start < _REFUSED.size:
        raise MalformedFrameError(f"a refusal of {end - start} bytes")
    _, _, code, _, job, seconds = _REFUSED.unpack_from(buffer, start)
    text = bytes(buffer[start + _REFUSED.size : end]).decode(errors="replace")
    try:
        reason = Reason(code)
    except ValueError as error:
        raise MalformedFrameError(f"a refusal for the reason {code}") from error
    return job, reason, _error(reason, text, None if math.isnan(seconds) else seconds)


def _places(tensors: Sequence[_Tensor], place: str) -> str:
    return "".join(f"{place}{tensor.rank}q" for tensor in tensors)


def _check_place(offset: int, size: int, arena: int) -> None:
    if offset < HEADER or offset % ALIGNMENT or offset + size > arena:
        raise MalformedFrameError(f"bytes {offset} to {offset + size} of an arena of {arena}")


def _read_failures(buffer: memoryview, at: int, end: int, count: int) -> dict[int, str]:
    found = {}
    for _ in range(count):
        if end - at < _FAILURE.size:
            raise MalformedFrameError("an answer that ends before its failures")
        row, length = _FAILURE.unpack_from(buffer, at)
        at += _FAILURE.size
        if length > end - at:
            raise MalformedFrameError("an answer that ends before a failure's text")
        found[row] = bytes(buffer[at : at + length]).decode(errors="replace")
        at += length
    if at != end:
        raise MalformedFrameError(f"an answer with {end - at} bytes too many")
    return found


def _clipped(text: str) -> bytes:
    return text.encode(errors="replace")[:LONGEST_TEXT]


def _error(reason: Reason, text: str, retry_after: float | None) -> VisionloopError:
    match reason:
        case Reason.EXPIRED:
            return DeadlineExceededError(text)
        case Reason.OVERLOADED:
            return OverloadedError(text, retry_after_seconds=retry_after)
        case Reason.INVALID:
            return InvalidInputError(text)
        case Reason.UNAVAILABLE:
            return UnavailableError(text, retry_after_seconds=retry_after)
        case Reason.IMAGE:
            word, _, text = text.partition("\n")
            return ImageError(text, reason=word)
        case _:
            return VisionloopError(text)
