"""One batch through the graph, in halves where it must be.

A batch on which the graph fails is split in halves until the guilty rows are alone: the others get
their answers, at the cost of at most twice the runs. One that finds no memory is split the same
way, and for how many rows it was found is noted. Halves run as they are, without padding.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionloop.bundle import TensorSpec
from visionloop_inference import bfloat16
from visionloop_inference.datatypes import DATATYPES, Arrays
from visionloop_inference.session import (
    Carried,
    GraphRunFailedError,
    OutOfMemoryError,
    Session,
)
from visionloop_inference.wire import Layout


class BatchRun:
    """Called once. What went wrong stands in it afterwards."""

    def __init__(self, session: Session, layout: Layout, rows: int) -> None:
        self.failures: dict[int, str] = {}  # row of the batch -> what the graph said
        self.no_memory: dict[int, str] = {}
        self.fits: int | None = None  # where memory ran out: rows for which it was found
        self._session = session
        self._layout = layout
        self.rows = rows

    @property
    def spoilt(self) -> bool:
        return bool(self.failures or self.no_memory) or self.fits is not None

    def __call__(self, inputs: Arrays, begun: Carried | None) -> Arrays:
        """The outputs of all rows, padding left out; NaN, 0 or "" for guilty rows."""
        rows = self.rows
        try:
            session = self._session
            outputs = session.finish(begun) if begun is not None else session.run(inputs)
        except (GraphRunFailedError, OutOfMemoryError) as error:
            parts = self._after(error, self._cut(inputs, 0, rows), 0, rows)
            return self._joined(parts)
        if self._layout.batched and len(inputs[0]) > rows:
            return [array[:rows] for array in outputs]
        return outputs

    def _halves(self, inputs: Arrays, first: int, rows: int) -> list[tuple[int, Arrays | None]]:
        """(rows, outputs or None) of consecutive parts."""
        try:
            return [(rows, self._session.run(inputs))]
        except (GraphRunFailedError, OutOfMemoryError) as error:
            return self._after(error, inputs, first, rows)

    def _after(
        self, error: Exception, inputs: Arrays, first: int, rows: int
    ) -> list[tuple[int, Arrays | None]]:
        no_memory = isinstance(error, OutOfMemoryError)
        if no_memory:
            self.fits = max(1, min(self.fits or rows, rows // 2))
        if rows == 1:
            (self.no_memory if no_memory else self.failures)[first] = str(error)
            return [(1, None)]
        middle = rows // 2
        return [
            *self._halves(self._cut(inputs, 0, middle), first, middle),
            *self._halves(self._cut(inputs, middle, rows), first + middle, rows - middle),
        ]

    def _cut(self, inputs: Arrays, start: int, stop: int) -> Arrays:
        return [array[start:stop] for array in inputs] if self._layout.batched else inputs

    def _joined(self, parts: list[tuple[int, Arrays | None]]) -> Arrays:
        known = next((outputs for _, outputs in parts if outputs is not None), None)
        joined = []
        for index, spec in enumerate(self._layout.signature.outputs):
            like = None if known is None else known[index]
            arrays = [
                _nothing(spec, rows, like, batched=self._layout.batched)
                if outputs is None
                else outputs[index]
                for rows, outputs in parts
            ]
            joined.append(np.concatenate(arrays) if len(arrays) > 1 else arrays[0])
        return joined


def _nothing(
    spec: TensorSpec, rows: int, like: NDArray[Any] | None, *, batched: bool
) -> NDArray[Any]:
    """What stands for an output that there is not: it can never be taken for an answer where the
    datatype allows it. Free sizes are those of `like`, or 0."""
    sizes = [max(size, 0) for size in spec.shape]
    if like is not None:
        sizes = list(like.shape[1:] if batched else like.shape)
    shape = (rows, *sizes) if batched else tuple(sizes)
    dtype = DATATYPES[spec.datatype].numpy
    if spec.datatype == "BF16":
        return np.full(shape, bfloat16.NAN, dtype)
    if dtype.kind == "f":
        return np.full(shape, np.nan, dtype)
    return np.full(shape, "", dtype) if dtype.hasobject else np.zeros(shape, dtype)
