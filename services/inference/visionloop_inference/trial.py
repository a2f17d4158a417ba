"""A graph tried out on made-up inputs: does it run, and are the rows of a batch independent?

A server that batches puts rows of different callers side by side, so a free first dimension is not
enough: it may be a sequence, or the graph may compare rows with one another. Hence three proofs:
1, 2 and 3 rows give as many rows of every output, and three different rows give together what each
gives alone. Price: about ten runs of the graph, once, when it is added.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from visionloop.bundle import WarmUp
from visionloop.signature import FREE
from visionloop_inference import bfloat16
from visionloop_inference.by_value import run_by_value
from visionloop_inference.datatypes import DATATYPES, is_finite
from visionloop_inference.session import runtime_words

# What free sizes are tried as, together with 3 where pictures have their channels.
SIZES = (1, 8, 32, 64, 224, 256, 512)
CHANNELS = 3
MAX_INPUT_BYTES = 1 << 30
ROWS = 3
# Between a row alone and beside others: kernels add up in another order, but no more than that. Of
# the largest number for floats; for the others the share of elements that may differ.
TOLERANCE = 1e-2

Arrays = list[NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Declared:
    """One tensor as the graph declares it: all dimensions, FREE where they are free."""

    name: str
    datatype: str
    shape: list[int]


@dataclass(slots=True)
class Findings:
    """What the trial showed. `seen` holds every shape that each output had, whole."""

    warm_up: WarmUp | None = None
    batched: bool = False
    batching: str = ""
    seen: list[list[tuple[int, ...]]] = field(default_factory=list)


class TrialFailedError(Exception):
    """The graph did not do what was tried; the words say what it did."""


class Trial:
    """The tries on one graph."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: Sequence[Declared],
        outputs: Sequence[Declared],
    ) -> None:
        self._session = session
        self._inputs = inputs
        self._outputs = outputs
        self._seen: list[list[tuple[int, ...]]] = [[] for _ in outputs]

    def findings(self) -> Findings:
        """Tries everything."""
        rows_first, why_not = self._free_first_dimension()
        warm_up, problem = self._warm_up(rows_first)
        if rows_first and warm_up is None:
            one_row = problem
            warm_up, problem = self._warm_up(rows_first=False)
            rows_first, why_not = False, f"it does not run on one row: {one_row}"
        if warm_up is None:
            return Findings(None, False, f"not known: it runs on no made-up input: {problem}", [])
        if not rows_first:
            return Findings(warm_up, False, f"none: {why_not}", self._seen)
        try:
            self._prove_rows(warm_up)
            how = self._prove_independence(warm_up)
        except TrialFailedError as error:
            whole = warm_up.model_copy(update={"shapes": [[1, *shape] for shape in warm_up.shapes]})
            return Findings(whole, False, f"none: {error}", self._seen)
        return Findings(warm_up, True, how, self._seen)

    def _free_first_dimension(self) -> tuple[bool, str]:
        for spec in self._inputs:
            if not spec.shape:
                return False, f"input {spec.name!r} is a scalar"
            if spec.shape[0] != FREE:
                return (
                    False,
                    f"the first dimension of input {spec.name!r} is always {spec.shape[0]}",
                )
        return True, ""

    def _warm_up(self, rows_first: bool) -> tuple[WarmUp | None, str]:
        """The first inputs on which the graph runs, or why it did not run on the simplest."""
        problem = ""
        for value in (0, 1):
            for shapes in self._candidates(rows_first):
                try:
                    found = self._run(
                        [_filled(spec, shape, value) for spec, shape in self._with(shapes)]
                    )
                except TrialFailedError as error:
                    problem = problem or str(error)
                    continue
                kept = [shape[1:] for shape in shapes] if rows_first else shapes
                finite = all(map(is_finite, found))
                return WarmUp(shapes=kept, value=1 if value else 0, finite=finite), ""
        return None, problem

    def _candidates(self, rows_first: bool) -> Iterator[list[list[int]]]:
        """Whole shapes of all inputs, the simplest first; each once."""
        seen = []
        for size in SIZES:
            for channel_axis in (None, 1, -1):
                shapes = [_sized(spec.shape, size, channel_axis) for spec in self._inputs]
                if rows_first:
                    shapes = [[1, *shape[1:]] for shape in shapes]
                if shapes not in seen:
                    seen.append(shapes)
                    yield shapes

    def _prove_rows(self, warm_up: WarmUp) -> None:
        for rows in range(1, ROWS + 1):
            shapes = [[rows, *shape] for shape in warm_up.shapes]
            try:
                found = self._run(
                    [_filled(spec, shape, warm_up.value) for spec, shape in self._with(shapes)]
                )
            except TrialFailedError as error:
                raise TrialFailedError(f"it does not run on {rows} rows at once: {error}") from None
            for spec, output in zip(self._outputs, found, strict=True):
                if output.shape[:1] != (rows,):
                    raise TrialFailedError(
                        f"output {spec.name!r} has the shape {list(output.shape)} for {rows} "
                        + ("row" if rows == 1 else "rows")
                    )

    def _prove_independence(self, warm_up: WarmUp) -> str:
        """Raises TrialFailedError when a row's answer depends on the rows beside it."""
        tried = "by the first dimension; 1, 2 and 3 rows were tried"
        problem = ""
        for integers in (True, False):  # random integers may be indices that are not there
            if not integers and not any(_is_float(spec) for spec in self._inputs):
                break
            inputs = self._different_rows(warm_up, integers)
            try:
                alone = [self._run([rows[i : i + 1] for rows in inputs]) for i in range(ROWS)]
                again = self._run([rows[:1] for rows in inputs])
                together = self._run(inputs)
            except TrialFailedError as error:
                problem = problem or str(error)
                continue
            if not all(map(_agree, alone[0], again)):
                return f"{tried}; its answers are random, so rows could not be compared"
            for row, answers in enumerate(alone):
                self._compare(answers, [output[row : row + 1] for output in together])
            return f"{tried}, and different rows answer together as each does alone"
        return f"{tried}, all alike, because it does not run on random values: {problem}"

    def _different_rows(self, warm_up: WarmUp, integers: bool) -> Arrays:
        random = np.random.default_rng(0)
        return [
            _random(spec, [ROWS, *shape], random)
            if integers or _is_float(spec)
            else _filled(spec, [ROWS, *shape], warm_up.value)
            for spec, shape in self._with(warm_up.shapes)
        ]

    def _compare(self, alone: Arrays, together: Arrays) -> None:
        for spec, one, other in zip(self._outputs, alone, together, strict=True):
            if not _agree(one, other):
                raise TrialFailedError(
                    f"output {spec.name!r} of a row depends on the rows beside it"
                )

    def _with(self, shapes: list[list[int]]) -> Iterator[tuple[Declared, list[int]]]:
        return zip(self._inputs, shapes, strict=True)

    def _run(self, arrays: Arrays) -> Arrays:
        """Runs the graph once. BF16, which numpy lacks, comes back as float32."""
        fed = {spec.name: array for spec, array in zip(self._inputs, arrays, strict=True)}
        try:
            if any(spec.datatype == "BF16" for spec in (*self._inputs, *self._outputs)):
                found = run_by_value(self._session, self._inputs, self._outputs, fed)
            else:
                names = [spec.name for spec in self._outputs]
                found = [np.asarray(value) for value in self._session.run(names, fed)]
        except Exception as error:
            raise TrialFailedError(runtime_words(error)) from error
        for seen, output in zip(self._seen, found, strict=True):
            seen.append(output.shape)
        return [
            bfloat16.as_float32(output) if spec.datatype == "BF16" else output
            for spec, output in zip(self._outputs, found, strict=True)
        ]


def _sized(shape: list[int], size: int, channel_axis: int | None) -> list[int]:
    filled = [size if dimension == FREE else dimension for dimension in shape]
    if channel_axis is not None and len(shape) == 4 and shape[channel_axis] == FREE:
        filled[channel_axis] = CHANNELS
    return filled


def _is_float(spec: Declared) -> bool:
    return spec.datatype in ("FP16", "FP32", "FP64", "BF16")


def _filled(spec: Declared, shape: list[int], value: int) -> NDArray[Any]:
    _check_size(spec, shape)
    if spec.datatype == "BYTES":
        return np.full(shape, "1" if value else "", object)
    element = bfloat16.ONE if spec.datatype == "BF16" and value else value
    return np.full(shape, element, DATATYPES[spec.datatype].numpy)


def _random(spec: Declared, shape: list[int], random: np.random.Generator) -> NDArray[Any]:
    """Random values that most graphs take: pixels, fractions, and 0 or 1 for other integers."""
    _check_size(spec, shape)
    kind = DATATYPES[spec.datatype].numpy
    if spec.datatype == "BYTES":
        return random.choice(["", "1", "a", "b c"], shape).astype(object)
    if spec.datatype == "BF16":
        return random.choice([0, bfloat16.ONE, bfloat16.HALF], shape).astype(kind)
    if kind.kind == "f":
        return random.random(shape).astype(kind)
    return random.integers(0, 256 if spec.datatype == "UINT8" else 2, shape).astype(kind)


def _check_size(spec: Declared, shape: list[int]) -> None:
    size = DATATYPES[spec.datatype].size or 8
    for dimension in shape:
        size *= dimension
    if size > MAX_INPUT_BYTES:
        raise TrialFailedError(f"input {spec.name!r} of {shape} takes {size / 2**30:.1f} GiB")


def _agree(one: NDArray[Any], other: NDArray[Any]) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        # Classes of pixels that are nearly as likely as one another may turn over.
        return int(np.count_nonzero(one != other)) <= TOLERANCE * one.size
    a, b = one.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(a)
    if (
        not np.array_equal(a[~finite], b[~finite], equal_nan=True)
        or not np.isfinite(b[finite]).all()
    ):
        return False
    if not finite.any():
        return True
    scale = float(np.abs(a[finite]).max())
    return float(np.abs(a - b, where=finite, out=np.zeros_like(a)).max()) <= TOLERANCE * max(
        scale, 1e-6
    )
