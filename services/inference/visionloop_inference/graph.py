"""What a graph file holds: refuses ONNX external data and foreign operators before it loads, and
digests the network that it describes, weights aside.

External data would make onnxruntime open whatever path the file names; operators of unknown
domains need native libraries. This reads only the fields that matter, through a partial
description of ONNX's messages (protobuf keeps what it does not know aside), because the service
does not install the `onnx` package.

The weights of the main graph, nearly all of a file, are stepped over in a map of it and neither
read nor copied: ResNet-50 (102 MB) takes 3 ms and no memory to speak of, where parsing the whole
file took 210 ms and 190 MB.
"""

import hashlib
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from visionloop.errors import CorruptError, RefusedError

# Operators that onnxruntime itself implements; "" and "ai.onnx" are one.
BUILT_IN_DOMAINS = frozenset(
    {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview", "com.microsoft", "com.microsoft.nchwc",
     "com.microsoft.experimental", "com.microsoft.dml", "com.ms.internal.nhwc"}
)  # fmt: skip

# Of the wire format: the kinds of fields, and the numbers of those that are stepped over.
_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}
_GRAPH = 7  # in Model
_WEIGHTS = 5  # in Graph: initializer
_DATA = frozenset({4, 5, 6, 7, 9, 10, 11})  # in Tensor: float_data … raw_data … uint64_data
MAX_FIELDS = 1_000_000  # about a second here
MAX_FIELDS_OF_A_TENSOR = 1000

# The numbers are those of onnx.proto: message -> field -> (number, type, repeated).
_FIELDS: dict[str, dict[str, tuple[int, str, bool]]] = {
    "Model": {
        "producer_name": (2, "string", False),
        "producer_version": (3, "string", False),
        "graph": (7, "Graph", False),
        "functions": (25, "Function", True),
    },
    "Graph": {
        "node": (1, "Node", True),
        "initializer": (5, "Tensor", True),
        "input": (11, "Value", True),
        "output": (12, "Value", True),
        "sparse_initializer": (15, "SparseTensor", True),
    },
    "Value": {"name": (1, "string", False), "type": (2, "Type", False)},
    "Type": {"tensor_type": (1, "TensorType", False)},
    "TensorType": {"elem_type": (1, "int32", False), "shape": (2, "Shape", False)},
    "Shape": {"dim": (1, "Dimension", True)},
    "Dimension": {"dim_value": (1, "int64", False), "dim_param": (2, "string", False)},
    "Function": {
        "node": (7, "Node", True),
        "domain": (10, "string", False),
        "attribute_proto": (11, "Attribute", True),
    },
    "Node": {
        "input": (1, "string", True),
        "output": (2, "string", True),
        "op_type": (4, "string", False),
        "attribute": (5, "Attribute", True),
        "domain": (7, "string", False),
    },
    "Attribute": {
        "name": (1, "string", False),
        "f": (2, "float", False),
        "i": (3, "int64", False),
        "s": (4, "bytes", False),
        "t": (5, "Tensor", False),
        "g": (6, "Graph", False),
        "floats": (7, "float", True),
        "ints": (8, "int64", True),
        "strings": (9, "bytes", True),
        "tensors": (10, "Tensor", True),
        "graphs": (11, "Graph", True),
        "sparse_tensor": (22, "SparseTensor", False),
        "sparse_tensors": (23, "SparseTensor", True),
    },
    "SparseTensor": {"values": (1, "Tensor", False), "indices": (2, "Tensor", False)},
    "Tensor": {
        "dims": (1, "int64", True),
        "data_type": (2, "int32", False),
        "name": (8, "string", False),
        "external_data": (13, "Entry", True),
        "data_location": (14, "int32", False),
    },
    "Entry": {"key": (1, "string", False), "value": (2, "string", False)},
}


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What the file says of itself."""

    producer: str  # what exported it, as "pytorch 2.9"; may be empty
    shapeless: frozenset[str]  # inputs that declare no shape, not even how many dimensions
    # A digest of the nodes, their attributes and all sizes: the same for a network that was trained
    # again. What tensors hold is not in it, nor are names of people and programs.
    structure: str


def check_graph(path: Path) -> GraphFacts:
    """Raises RefusedError for external data and foreign operators, CorruptError for non-ONNX."""
    model = _Model()
    try:
        model.ParseFromString(_read(path))
    except DecodeError as error:
        raise CorruptError(f"{path.name} is not an ONNX file: {error}") from error
    if not model.HasField("graph"):
        raise CorruptError(f"{path.name} is not an ONNX file: it holds no graph")
    functions = {function.domain for function in model.functions}
    for part in _parts(model):
        if part.DESCRIPTOR.name == "Tensor" and (part.external_data or part.data_location):
            raise RefusedError(
                f"{path.name} keeps the tensor {part.name!r} in another file (ONNX external data); "
                "export it with all weights inside"
            )
        foreign = part.DESCRIPTOR.name == "Node" and part.domain not in functions
        if foreign and part.domain not in BUILT_IN_DOMAINS:
            raise RefusedError(
                f"{path.name} uses the operator {part.domain}:{part.op_type}, which needs a custom "
                "library; export it with standard ONNX operators only"
            )
    inputs = {
        value.name for value in model.graph.input if not value.type.tensor_type.HasField("shape")
    }
    producer = f"{model.producer_name} {model.producer_version}".strip()
    return GraphFacts(producer, frozenset(inputs), _structure(model))


def _structure(model: Any) -> str:
    model.graph.DiscardUnknownFields()
    digest = hashlib.sha256(model.graph.SerializeToString(deterministic=True))
    for function in model.functions:
        function.DiscardUnknownFields()
        digest.update(function.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _read(path: Path) -> bytes:
    """The file without the weights of the main graph. Raises DecodeError."""
    if path.stat().st_size == 0:
        return b""
    with path.open("rb") as file:
        # Closed when the last view of it goes, which an error's traceback may hold for a while.
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        return _replaced(data, _GRAPH, lambda graph: _replaced(graph, _WEIGHTS, _no_data))
    except _TooManyFieldsError:
        return bytes(data)


class _TooManyFieldsError(Exception):
    """More fields than a real file has; protobuf's own parser is quicker with those."""


def _replaced(data: memoryview, number: int, change: Callable[[memoryview], bytes]) -> bytes:
    """The message with the sub-messages of field `number` changed."""
    kept = bytearray()
    for count, (field, start, body, end) in enumerate(_fields(data)):
        if count > MAX_FIELDS:
            raise _TooManyFieldsError
        if field == number and body is not None:
            changed = change(data[body:end])
            kept += _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(changed)) + changed
        else:
            kept += data[start:end]
    return bytes(kept)


def _no_data(tensor: memoryview) -> bytes:
    """A TensorProto's name, sizes and where its data lies, without the data."""
    kept = bytearray()
    for count, (field, start, _, end) in enumerate(_fields(tensor)):
        if count > MAX_FIELDS_OF_A_TENSOR:
            raise _TooManyFieldsError
        if field not in _DATA:
            kept += tensor[start:end]
    return bytes(kept)


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | None, int]]:
    """Number, start, start of the body (None unless it has a length) and end of every field.

    Raises DecodeError where protobuf would.
    """
    at = 0
    while at < len(data):
        start = at
        tag, at = _read_varint(data, at)
        body = None
        if tag & 7 == _LENGTH_DELIMITED:
            length, body = _read_varint(data, at)
            at = body + length
        elif tag & 7 == 0:
            _, at = _read_varint(data, at)
        elif tag & 7 in _FIXED:
            at += _FIXED[tag & 7]
        else:
            raise DecodeError(f"wire type {tag & 7}")
        if at > len(data):
            raise DecodeError("it ends within a field")
        yield tag >> 3, start, body, at


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise DecodeError("a number has no end")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _parts(message: Any) -> Iterator[Any]:
    """The message and every message below it, without recursion (a hostile file may nest deep)."""
    waiting = [message]
    while waiting:
        part = waiting.pop()
        yield part
        for field, value in part.ListFields():
            if field.message_type is not None:
                waiting.extend(value if field.is_repeated else [value])


def _model_class() -> Any:
    types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="partial_onnx.proto", package="partial_onnx")
    scalars = {
        "string": types.TYPE_STRING,
        "bytes": types.TYPE_BYTES,
        "int32": types.TYPE_INT32,
        "int64": types.TYPE_INT64,
        "float": types.TYPE_FLOAT,
    }
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for name, (number, kind, repeated) in fields.items():
            field = described.field.add(name=name, number=number)
            field.label = types.LABEL_REPEATED if repeated else types.LABEL_OPTIONAL
            field.type = scalars.get(kind, types.TYPE_MESSAGE)
            if kind not in scalars:
                field.type_name = f".partial_onnx.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())  # type: ignore[no-untyped-call]
    found = pool.FindMessageTypeByName("partial_onnx.Model")  # type: ignore[no-untyped-call]
    return message_factory.GetMessageClass(found)


_Model = _model_class()
