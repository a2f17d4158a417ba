"""What a ModelInferRequest asks of a model version, worked out once for each kind of request.

Clients send the same names, datatypes, shapes and parameters again and again, so everything about a
request but its data is checked once (`planning`) and kept as a plan, under the bytes that say it
(`raw_contents`). With a plan, the next request of the kind costs one look at its sizes. Price: a
few kB for each kind, a bounded number of them for each version; requests with typed contents carry
their data among those bytes and are planned anew each time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from visionloop.errors import InvalidInputError
from visionloop.signature import TensorSpec
from visionloop_inference.datatypes import Buffer, Tensor
from visionloop_inference.parameters import Span
from visionloop_inference.shared_memory import Regions, no_shared_memory
from visionloop_inference.tensors import check_bools, check_bytes, check_size


@dataclass(slots=True)
class InputPlan:
    """One input, in the signature's order: what it is and where its bytes come from."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: int
    size: int  # bytes; -1 for BYTES, whose elements vary
    raw: int = -1  # its place in raw_input_contents; -1: it comes from elsewhere
    span: Span | None = None
    typed: bytes | None = None

    @property
    def field(self) -> str:
        """What its bytes are called in messages to the caller."""
        if self.span is not None:
            return f"shared memory {self.span.region!r}"
        return "contents" if self.raw < 0 else f"raw_input_contents[{self.raw}]"


@dataclass(slots=True)
class OutputPlan:
    """One output to give, in the request's order."""

    spec: TensorSpec
    classes: int = 0  # above 0: the best so many elements instead of the tensor
    span: Span | None = None  # where to write it; None: into the answer


@dataclass(slots=True)
class Plan:
    """How requests of one kind are read, run and answered."""

    rows: int
    inputs: list[InputPlan]
    raws: int  # entries that raw_input_contents must have
    outputs: list[OutputPlan]
    typed: bool  # it came typed, so the answer does
    encoded: bool  # the one input holds encoded images
    timeout: float | None  # seconds
    priority: int
    regions: tuple[str, ...]  # of shared memory that it reads or writes
    shared_bytes: int  # and how much
    heads: dict[object, bytes] = field(default_factory=dict)  # of answers, by their shapes

    def buffers(self, raws: Sequence[memoryview], regions: Regions | None) -> list[Buffer]:
        """The bytes of each input, in the signature's order, checked against the shapes.

        Raises InvalidInputError, and NotFoundError for a region that is not registered.
        """
        if len(raws) != self.raws:
            raws = self._missing(raws)
        found: list[Buffer] = []
        for planned in self.inputs:
            if planned.raw >= 0:
                data: Buffer = raws[planned.raw]
            elif planned.span is not None:
                data = _read(planned.span, regions)
            else:
                data = planned.typed or b""
            if len(data) != planned.size and planned.size >= 0:
                check_size(planned.name, planned.shape, len(data), planned.size, planned.field)
            found.append(data)
        return found

    def _missing(self, raws: Sequence[memoryview]) -> Sequence[memoryview]:
        """Inputs without elements need no entries. Raises InvalidInputError for all others."""
        if not raws and not any(plan.size for plan in self.inputs if plan.raw >= 0):
            return [memoryview(b"")] * self.raws
        if self.typed:
            raise InvalidInputError(
                "inputs have contents, and raw_input_contents is given too; use one",
                field="raw_input_contents",
            )
        raise InvalidInputError(
            f"raw_input_contents has {len(raws)} entries for {self.raws} inputs; give one for each "
            "that is not in shared memory, in the order of inputs",
            field="raw_input_contents",
        )

    def tensors(self, buffers: Sequence[Buffer]) -> list[Tensor]:
        """The inputs as they run. Raises InvalidInputError for contents that their datatype has
        not. Not for encoded images, which must be decoded first."""
        tensors = []
        for planned, data in zip(self.inputs, buffers, strict=True):
            if planned.size < 0:
                check_bytes(data, planned.elements, planned.field)
            elif planned.datatype == "BOOL":
                check_bools(planned.name, data, planned.field)
            tensors.append(Tensor(planned.datatype, planned.shape, data))
        return tensors


def _read(span: Span, regions: Regions | None) -> Buffer:
    if regions is None:
        raise no_shared_memory()
    return regions.read(span.region, span.offset, span.size)
