"""A graph in onnxruntime, whatever its signature: loaded, checked against the bundle, run.

The session takes and gives arrays in the signature's order and raises nothing but this package's
errors: onnxruntime has no common base for what it raises, and a C++ exception that reaches Python
is one more kind. What it says of memory is told apart, because the cure is a smaller batch and not
another row. Graphs with bfloat16 take a way of their own (`by_value`). On a GPU, inputs are bound
to device memory that each batch size keeps, so a run allocates nothing there; price: the inputs of
every size stay.
"""

import contextlib
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from visionloop.bundle import Bundle, ClassifierBundle, Signature, TensorSpec
from visionloop.errors import (
    ConfigurationError,
    CorruptError,
    OverloadedError,
    UnavailableError,
    VisionloopError,
)
from visionloop_inference.by_value import run_by_value
from visionloop_inference.datatypes import DATATYPES, Arrays
from visionloop_inference.providers import CPU, Target, profiles, prove, session, shrinking

MOST_BOUND = 16  # shapes of inputs that keep device memory

# How onnxruntime and CUDA say that memory ran out.
_NO_MEMORY = (
    "failed to allocate",
    "bad_alloc",
    "bad allocation",
    "out of memory",
    "cudnn_status_alloc_failed",
    "device_allocation_failed",  # cuDNN 9, after CUDNN_STATUS_INTERNAL_ERROR_
    "cublas_status_alloc_failed",
)
MAX_WORDS = 300  # characters of an error that are worth a line

_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from \S+ failed: ?|Status Message: "
    r"|Name:'' |/onnxruntime_src/\S+ "
    r"|(?:\S+ )?onnxruntime::\w[\w:]*\([^()]*(?:\([^()]*\)[^()]*)*\) "
)


class GraphRunFailedError(VisionloopError):
    """The graph failed on input that passed every check."""


class OutOfMemoryError(OverloadedError):
    """A run needed more memory than there is; fewer rows may fit."""


class DeviceLostError(VisionloopError):
    """The GPU runs nothing any more for this process: another one may well use it."""


@dataclass(slots=True)
class _Bound:
    """Inputs in device memory, and the run that reads them."""

    binding: onnxruntime.IOBinding
    values: list[onnxruntime.OrtValue]
    keeps: bool = False  # its outputs, of sizes that every run has: the next one writes into them


@dataclass(frozen=True, slots=True)
class Carried:
    """The inputs of one run, in the GPU's memory."""

    bound: _Bound
    rows: int | None  # of the batch; None: the graph has none


class Session:
    """One graph on one provider. Used by one thread."""

    def __init__(
        self,
        made: onnxruntime.InferenceSession,
        signature: Signature,
        target: Target = CPU,
        memory: str | None = None,
    ) -> None:
        """`memory` is onnxruntime's name of the device memory to bind inputs to; None: the GPU's,
        or none on a CPU. Raises CorruptError unless the graph takes and gives what the signature
        says."""
        check_signature(made, signature)
        self.signature = signature
        self.target = target
        self._session = made
        self._inputs = [spec.name for spec in signature.inputs]
        self._outputs = [spec.name for spec in signature.outputs]
        self._shapes = [tuple(spec.shape) for spec in signature.outputs]
        self._free = [-1 in shape for shape in self._shapes]
        self._batched = signature.batched
        specs = (*signature.inputs, *signature.outputs)
        self._by_value = any(spec.datatype == "BF16" for spec in specs)
        plain = all(spec.datatype not in ("BF16", "BYTES") for spec in specs)
        self._memory = (memory or ("cuda" if target.gpu else None)) if plain else None
        self._bound: dict[tuple[tuple[int, ...], ...], _Bound] = {}
        # Of runs that are begun, in turns: the GPU still reads what the last one was given.
        self._turns: deque[dict[tuple[tuple[int, ...], ...], _Bound]] = deque([{}, {}])
        self._going = onnxruntime.RunOptions()
        self._going.add_run_config_entry("disable_synchronize_execution_providers", "1")

    @classmethod
    def load(
        cls, graph: Path, signature: Signature, target: Target, threads: int, max_batch: int
    ) -> "Session":
        """Raises CorruptError for a graph that onnxruntime refuses or that is not the signature's,
        ConfigurationError when the provider is missing, and what may pass: OutOfMemoryError, and
        UnavailableError where a GPU runs no graph at all."""
        try:
            made = session(graph, target, threads, profiles(signature, max_batch))
        except VisionloopError:
            raise
        except Exception as error:
            if _is_of_memory(error):
                raise OutOfMemoryError(f"no memory to load {graph.name}: {error}") from error
            if target.gpu:
                _check_provider(target)
            words = runtime_words(error)
            raise CorruptError(f"onnxruntime does not load {graph.name}: {words}") from error
        return cls(made, signature, target)

    def run(self, inputs: Sequence[NDArray[Any]], *, shrink: bool = False) -> Arrays:
        """The outputs for whole inputs, the batch dimension included.

        Raises OutOfMemoryError, or GraphRunFailedError for whatever else onnxruntime raises and
        for outputs of another shape than the signature's. `shrink` gives unused memory back.
        """
        options = shrinking(self.target) if shrink else None
        rows = len(inputs[0]) if self._batched else None
        if self._memory is not None:
            with _own_errors():
                bound = self._filled(inputs, self._bound)
                self._session.run_with_iobinding(bound.binding, options)
            return self._given(bound, rows)
        feeds = dict(zip(self._inputs, inputs, strict=True))
        with _own_errors():
            if self._by_value:
                outputs = run_by_value(
                    self._session, self.signature.inputs, self.signature.outputs, feeds, options
                )
            else:
                outputs = self._session.run(self._outputs, feeds, options)
        self._check(outputs, rows)
        return outputs

    @property
    def overlaps(self) -> bool:
        """Whether `begin` leaves this thread free while the graph runs: on a GPU."""
        return self._memory is not None

    def carry(self, inputs: Sequence[NDArray[Any]]) -> Carried:
        """Carries the inputs of a run over, for `begin`; the run before may be under way.

        Any number may be `run` meanwhile. Raises as `run` does, here or in what follows.
        """
        self._turns.rotate()
        with _own_errors():
            bound = self._filled(inputs, self._turns[0])
        return Carried(bound, len(inputs[0]) if self._batched else None)

    def begin(self, carried: Carried) -> None:
        """Starts the run, once the one before is finished; `finish` waits for it."""
        with _own_errors():
            self._session.run_with_iobinding(carried.bound.binding, self._going)

    def finish(self, carried: Carried) -> Arrays:
        """The outputs, when they are there."""
        with _own_errors():
            carried.bound.binding.synchronize_outputs()
        return self._given(carried.bound, carried.rows)

    def _given(self, bound: _Bound, rows: int | None) -> Arrays:
        with _own_errors():
            outputs: Arrays = bound.binding.copy_outputs_to_cpu()
        self._check(outputs, rows)
        bound.keeps = not any(self._free)
        return outputs

    def _check(self, outputs: Arrays, rows: int | None) -> None:
        for index, array in enumerate(outputs):
            wanted = self._shapes[index] if rows is None else (rows, *self._shapes[index])
            found = array.shape
            if found == wanted:
                continue
            if (
                self._free[index]
                and len(found) == len(wanted)
                and all(size in (-1, known) for size, known in zip(wanted, found, strict=True))
            ):
                continue
            of_rows = "" if rows is None else f" for {rows} rows"
            raise GraphRunFailedError(
                f"output {self._outputs[index]!r} has the shape {list(found)}{of_rows}; "
                f"bundle.json says {list(wanted)}"
            )

    def _filled(
        self,
        inputs: Sequence[NDArray[Any]],
        known: dict[tuple[tuple[int, ...], ...], _Bound],
    ) -> _Bound:
        """The device memory for inputs of these shapes, with the inputs in it."""
        shapes = tuple([array.shape for array in inputs])
        bound = known.get(shapes)
        if bound is None:
            if len(known) == MOST_BOUND:
                known.clear()
            bound = known[shapes] = self._bind(inputs)
        elif not bound.keeps:  # the last run's outputs are of sizes that these need not have
            self._bind_outputs(bound.binding)
        for value, array in zip(bound.values, inputs, strict=True):
            value.update_inplace(array)
        return bound

    def _bind(self, inputs: Sequence[NDArray[Any]]) -> "_Bound":
        binding = self._session.io_binding()
        device = self.target.device
        values = []
        for name, array in zip(self._inputs, inputs, strict=True):
            value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                array.shape, array.dtype.type, self._memory, device
            )
            binding.bind_ortvalue_input(name, value)
            values.append(value)
        self._bind_outputs(binding)
        return _Bound(binding, values)

    def _bind_outputs(self, binding: onnxruntime.IOBinding) -> None:
        binding.clear_binding_outputs()
        for name in self._outputs:
            binding.bind_output(name, self._memory, self.target.device)


def _check_provider(target: Target) -> None:
    """Raises UnavailableError where not even a probe runs, so that the graph is not to blame.

    It did run when the service began. A card may come back, and may find room: where it is full,
    the handles of cuDNN and cuBLAS are what fails, without a word of memory.
    """
    try:
        prove(target.provider, target.device)
    except ConfigurationError as error:
        raise UnavailableError(str(error)) from error


@contextlib.contextmanager
def _own_errors() -> Iterator[None]:
    """What onnxruntime raises, as this package's errors."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemoryError(f"no memory to run the graph: {error}") from error
    except Exception as error:
        if _is_of_memory(error):
            raise OutOfMemoryError(f"no memory to run the graph: {error}") from error
        raise GraphRunFailedError(runtime_words(error)) from error


def _is_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return any(words in text for words in _NO_MEMORY)


def runtime_words(error: Exception) -> str:
    """What onnxruntime says, on one line, without its codes and the places in its source."""
    text = _NOISE.sub("", " ".join(str(error).split()))
    return text if len(text) <= MAX_WORDS else f"{text[: MAX_WORDS - 1]}…"


def choose_graph(bundle: Bundle, provider: str) -> tuple[str, str]:
    """The bundle's file to run, and its precision: "fp32" (as the bundle was made) or "fp16".

    The latter is its 16-bit sibling, on a GPU, where it has one that passed its gate there, which
    is to say that the bundle states how far its answers may be off.
    """
    sibling = bundle.half_graph
    passed = (
        sibling in bundle.files
        and isinstance(bundle, ClassifierBundle)
        and f"fp16/{provider}" in bundle.golden.max_probability_difference
    )
    return (sibling, "fp16") if passed and provider != "cpu" else (bundle.graph, "fp32")


def check_signature(made: onnxruntime.InferenceSession, signature: Signature) -> None:
    """Raises CorruptError unless the graph takes exactly the inputs, and gives the outputs."""
    taken = {found.name: found for found in made.get_inputs()}
    given = {found.name: found for found in made.get_outputs()}
    for spec in signature.inputs:
        _check_tensor("input", spec, taken.pop(spec.name, None), signature.batched)
    if taken:
        names = ", ".join(map(repr, taken))
        raise CorruptError(f"the graph takes {names} as well, which bundle.json does not say")
    for spec in signature.outputs:
        _check_tensor("output", spec, given.get(spec.name), signature.batched)


def _check_tensor(kind: str, spec: TensorSpec, found: Any, batched: bool) -> None:
    wanted = f"tensor({DATATYPES[spec.datatype].onnx})"
    says = f"bundle.json says {kind} {spec.name!r} of {spec.datatype} {spec.shape}"
    if found is None:
        raise CorruptError(f"the graph has no {kind} {spec.name!r}; {says}")
    if found.type != wanted:
        raise CorruptError(f"{kind} {spec.name!r} of the graph is {found.type}; {says}")
    shape = list(found.shape)
    if not shape and kind == "output":  # a graph need not say the shapes of its outputs
        return
    if batched and kind == "input" and shape and isinstance(shape[0], int):
        raise CorruptError(
            f"the graph takes batches of exactly {shape[0]} rows ({kind} {spec.name!r}); export it "
            "with a dynamic batch dimension, or add it without one"
        )
    sizes = shape[1:] if batched else shape
    # A size without a number is free in the graph; a number must be the declared one.
    fits = len(sizes) == len(spec.shape) and all(
        not isinstance(a, int) or a == b for a, b in zip(sizes, spec.shape, strict=True)
    )
    if not fits or (batched and not shape):
        raise CorruptError(f"{kind} {spec.name!r} of the graph has the shape {shape}; {says}")
