"""The rows of a batch side by side: where they lie already, or in a buffer that is used again."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionloop_inference.batching import Piece
from visionloop_inference.datatypes import DATATYPES
from visionloop_inference.wire import Layout


class BatchBuffer:
    """Where the rows of a batch come together, when they do not lie side by side already."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._dtypes = [DATATYPES[spec.datatype].numpy for spec in layout.signature.inputs]
        self._buffers = [bytearray() for _ in layout.inputs]

    def gather(self, pieces: Sequence[Piece], size: int) -> list[NDArray[Any]]:
        """The inputs of a batch: one array (size, *dimensions) each, in the signature's order.

        Rows that lie side by side in an arena are used where they lie. `size` above the pieces'
        rows repeats the first row, which is as good or bad as the batch was without it.
        """
        return [self._input(index, pieces, size) for index in range(len(self._dtypes))]

    def _input(self, index: int, pieces: Sequence[Piece], size: int) -> NDArray[Any]:
        first = pieces[0].job
        dimensions = first.frame.inputs[index][2]
        shape = (size, *dimensions) if self._layout.batched else dimensions
        dtype = self._dtypes[index]
        if dtype.hasobject:
            return self._strings(index, pieces, shape)
        rows = sum([piece.size for piece in pieces])
        row = first.frame.inputs[index][1] // first.rows  # bytes
        if row == 0:
            return np.zeros(shape, dtype)
        place = _side_by_side(index, pieces, row) if rows == size else None
        if place is not None:
            array = np.ndarray(shape, dtype, first.source.arena.memory, place)
        else:
            array = np.ndarray(shape, dtype, self._copied(index, pieces, row, size - rows))
        # Any byte but 0 is true to a caller; to onnxruntime only 1 is.
        return array.view(np.uint8) != 0 if dtype.kind == "b" else array

    def _copied(self, index: int, pieces: Sequence[Piece], row: int, padding: int) -> memoryview:
        needed = row * (sum([piece.size for piece in pieces]) + padding)
        buffer = self._buffers[index]
        if len(buffer) < needed:
            buffer = self._buffers[index] = bytearray(needed)
        target, at = memoryview(buffer), 0
        for piece in pieces:
            length = piece.size * row
            place = piece.job.frame.inputs[index][0] + piece.start * row
            target[at : at + length] = piece.job.source.arena.memory[place : place + length]
            at += length
        for _ in range(padding):
            target[at : at + row] = target[:row]
            at += row
        return target

    def _strings(self, index: int, pieces: Sequence[Piece], shape: tuple[int, ...]) -> NDArray[Any]:
        elements: list[str] = []
        for piece in pieces:
            found = piece.job.strings[index]
            each = len(found) // piece.job.rows
            elements += found[piece.start * each : piece.stop * each]
        array = np.empty(shape, object)
        if array.size:
            each = array.size // shape[0] if self._layout.batched else array.size
            while len(elements) < array.size:  # padding
                elements += elements[:each]
            array.reshape(-1)[:] = elements
        return array


def _side_by_side(index: int, pieces: Sequence[Piece], row: int) -> int | None:
    """Where the pieces' rows begin in the arena that holds them all without a gap, if one does."""
    first = pieces[0]
    begin = end = first.job.frame.inputs[index][0] + first.start * row
    arena = first.job.source.arena
    for piece in pieces:
        place = piece.job.frame.inputs[index][0] + piece.start * row
        if place != end or piece.job.source.arena is not arena:
            return None
        end += piece.size * row
    return begin
