"""What a graph takes and gives: named tensors of a datatype and a shape.

A signature is what the Open Inference Protocol tells of a model, and all that a server needs to
check a request before it costs anything. Names are the graph's own, whatever characters they hold.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from visionloop.record import Record

# The protocol's names. BYTES holds strings, each of its own length.
DatatypeName: TypeAlias = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BF16", "BYTES",
]  # fmt: skip
FREE = -1  # a size that each request chooses
MAX_SIZE = 2**31 - 1
MAX_DIMENSIONS = 32
MAX_TENSORS = 256
MAX_NAME_LENGTH = 1024

_Size = Annotated[int, Field(ge=FREE, le=MAX_SIZE)]


class TensorSpec(Record):
    """One named input or output. Sizes are 1 or more, or FREE; [] is a scalar."""

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
    datatype: DatatypeName
    shape: Annotated[list[_Size], Field(max_length=MAX_DIMENSIONS)]

    @model_validator(mode="after")
    def _sizes(self) -> "TensorSpec":
        if 0 in self.shape:
            raise ValueError(f"tensor {self.name!r} has a size of 0; sizes are 1 or more, or -1")
        return self


class Signature(Record):
    """All inputs and outputs of a graph, each in the graph's own order.

    When `batched`, every input and every output has the rows of a batch as its first dimension,
    which the shapes leave out, and row i of the outputs depends on row i of the inputs alone.
    Otherwise the shapes are whole and a request is one run.
    """

    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=MAX_TENSORS)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=MAX_TENSORS)]
    batched: bool

    @model_validator(mode="after")
    def _names(self) -> "Signature":
        for what, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [spec.name for spec in specs]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what} has two tensors of the name {twice[0]!r}")
        return self
