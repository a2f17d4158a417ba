"""Small ONNX graphs of every shape that a server of plain graphs meets, and their publication.

    bundle = publish_graph(ModelRepository(store), tiny())          # served as tensors, promoted

Each builder gives a checked onnx.ModelProto; the docstrings say what the graph computes, so that a
test can compute it with numpy.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from visionloop.bundle import BundleLabel, TensorsBundle
from visionloop.graph_file import publish_graph as publish_graph_file
from visionloop.repository import ModelRepository
from visionloop_inference.describe import describe

value = helper.make_tensor_value_info
node = helper.make_node


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, NDArray[Any]] | None = None,
    *,
    name: str = "graph",
    producer: str = "visionloop-tests",
    opset: int = 17,
) -> onnx.ModelProto:
    """A model of these parts, checked."""
    made = helper.make_graph(
        list(nodes),
        name,
        list(inputs),
        list(outputs),
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    proto = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9, producer_name=producer
    )
    onnx.checker.check_model(proto, full_check=True)
    return proto


def tiny(scale: float = 2.0, shift: float = 1.0) -> onnx.ModelProto:
    """y = scale · x + shift; float32 [n, 4] to [n, 4]."""
    return model(
        [node("Mul", ["x", "scale"], ["scaled"]), node("Add", ["scaled", "shift"], ["y"])],
        [value("x", TensorProto.FLOAT, ["n", 4])],
        [value("y", TensorProto.FLOAT, ["n", 4])],
        {"scale": np.float32([scale]), "shift": np.float32([shift])},
    )


def pool(side: int = 224) -> onnx.ModelProto:
    """means = the mean of each channel; uint8 NHWC [n, side, side, 3] to float32 [n, 3]."""
    return model(
        [
            node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
            node("ReduceMean", ["floats"], ["means"], axes=[1, 2], keepdims=0),
        ],
        [value("pixels", TensorProto.UINT8, ["n", side, side, 3])],
        [value("means", TensorProto.FLOAT, ["n", 3])],
    )


def two_inputs() -> onnx.ModelProto:
    """sum = a + b, difference = a - b; int32 and int32 [n, 3] to both; the names hold odd signs."""
    return model(
        [
            node("Add", ["in/a:0", "in b"], ["sum (a+b)"]),
            node("Sub", ["in/a:0", "in b"], ["différence"]),
        ],
        [
            value("in/a:0", TensorProto.INT32, ["n", 3]),
            value("in b", TensorProto.INT32, ["n", 3]),
        ],
        [
            value("sum (a+b)", TensorProto.INT32, ["n", 3]),
            value("différence", TensorProto.INT32, ["n", 3]),
        ],
    )


def no_batch() -> onnx.ModelProto:
    """y = x · factor; float32 [2, 3] and a scalar to [2, 3]: nothing to batch."""
    return model(
        [node("Mul", ["x", "factor"], ["y"])],
        [value("x", TensorProto.FLOAT, [2, 3]), value("factor", TensorProto.FLOAT, [])],
        [value("y", TensorProto.FLOAT, [2, 3])],
    )


def fixed_batch(rows: int = 4) -> onnx.ModelProto:
    """y = x + 1; float32 [rows, 2] to [rows, 2]."""
    return model(
        [node("Add", ["x", "one"], ["y"])],
        [value("x", TensorProto.FLOAT, [rows, 2])],
        [value("y", TensorProto.FLOAT, [rows, 2])],
        {"one": np.float32([1])},
    )


def free_axes() -> onnx.ModelProto:
    """total = the sum over both free axes; float32 [n, height, width] to [n], and y = 2 · x."""
    return model(
        [
            node("ReduceSum", ["x", "axes"], ["total"], keepdims=0),
            node("Add", ["x", "x"], ["y"]),
        ],
        [value("x", TensorProto.FLOAT, ["n", "height", "width"])],
        [
            value("total", TensorProto.FLOAT, ["n"]),
            value("y", TensorProto.FLOAT, ["n", "height", "width"]),
        ],
        {"axes": np.int64([1, 2])},
    )


def strings() -> onnx.ModelProto:
    """same = text; strings [n, 2] to [n, 2]."""
    return model(
        [node("Identity", ["text"], ["same"])],
        [value("text", TensorProto.STRING, ["n", 2])],
        [value("same", TensorProto.STRING, ["n", 2])],
    )


def typed(kind: int, *, width: int = 4) -> onnx.ModelProto:
    """y = x; [n, width] of any element type (a TensorProto number) to [n, width]."""
    return model(
        [node("Identity", ["x"], ["y"])],
        [value("x", kind, ["n", width])],
        [value("y", kind, ["n", width])],
    )


def fp16() -> onnx.ModelProto:
    """y = 2 · x; float16 [n, 4] to [n, 4]."""
    return model(
        [node("Add", ["x", "x"], ["y"])],
        [value("x", TensorProto.FLOAT16, ["n", 4])],
        [value("y", TensorProto.FLOAT16, ["n", 4])],
    )


def lookup(entries: int = 10) -> onnx.ModelProto:
    """y = 10 · index; int64 [n, 1] to float32 [n, 1]; the run fails for an index ≥ `entries`."""
    return model(
        [node("Gather", ["table", "index"], ["y"])],
        [value("index", TensorProto.INT64, ["n", 1])],
        [value("y", TensorProto.FLOAT, ["n", 1])],
        {"table": np.arange(entries, dtype=np.float32) * 10},
    )


def mixing() -> onnx.ModelProto:
    """share = softmax over the rows; float32 [n, 3] to [n, 3]: the rows depend on one another."""
    return model(
        [node("Softmax", ["x"], ["share"], axis=0)],
        [value("x", TensorProto.FLOAT, ["n", 3])],
        [value("share", TensorProto.FLOAT, ["n", 3])],
    )


def publish_graph(
    repository: ModelRepository,
    graph: onnx.ModelProto | bytes,
    model: str = "tiny",
    promote: bool = True,
    labels: Sequence[str] = (),
) -> TensorsBundle:
    """Publishes a graph as `visionloop models add` does, in this process; as stable by default."""
    data = graph if isinstance(graph, bytes) else graph.SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(data)
        bundle, _ = publish_graph_file(
            repository,
            path,
            describe(path),
            model=model,
            labels=[BundleLabel(id=label, name=label) for label in labels],
            who="a test",
            why="to see it served",
        )
    if promote:
        repository.promote(
            model,
            bundle.version,
            expected=repository.aliases(model),
            who="a test",
            why="to see it served",
        )
    return bundle
