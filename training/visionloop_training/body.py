"""A graph cut in two: the body up to the embedding, and a new linear head in place of the old one.

`cut` keeps what the embedding depends on, in the file's own order, so a body cut from a version and
from a version that was made of the same body is the same, byte for byte, and its digest names it.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from visionloop.errors import RefusedError
from visionloop_training.links import Link, Softmax

Floats = NDArray[np.float32]
_HEAD = "visionloop.head"


@dataclass(frozen=True, slots=True)
class LinearHead:
    """probabilities = link(embedding · weightᵀ + bias)."""

    weight: Floats  # (classes, width)
    bias: Floats  # (classes,)
    link: Link


class Body:
    """The part of a classifier's graph from its input to its embedding."""

    def __init__(self, model: onnx.ModelProto, embedding: str) -> None:
        self._model = model
        self.embedding = embedding
        self.digest = hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()

    @classmethod
    def cut(cls, path: Path, embedding: str) -> "Body":
        """From the graph in a file. Raises RefusedError where no value has that name."""
        model = onnx.load(path)
        graph = model.graph
        needed = _needed(graph.node, embedding)
        if needed is None:
            raise RefusedError(
                f"{path.name} has no value {embedding!r} to cut at; train with --lane full"
            )
        nodes = [node for node, wanted in zip(graph.node, needed, strict=True) if wanted]
        used = {embedding, *(name for node in nodes for name in _read(node))}
        taken = used & {"logits", "probabilities"}
        if taken:
            raise RefusedError(
                f"{path.name} computes its embedding from values named {', '.join(sorted(taken))}; "
                "train with --lane full"
            )
        output = next(value for value in graph.output if value.name == embedding)
        cut = helper.make_graph(
            nodes,
            "body",
            list(graph.input),
            [output],
            [one for one in graph.initializer if one.name in used],
        )
        made = helper.make_model(
            cut, opset_imports=list(model.opset_import), ir_version=model.ir_version
        )
        made.functions.extend(model.functions)
        return cls(made, embedding)

    def renamed(self, name: str) -> "Body":
        """With its embedding called so."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        for node in model.graph.node:
            for values in (node.input, node.output):
                values[:] = [name if value == self.embedding else value for value in values]
        model.graph.output[0].name = name
        return Body(model, name)

    def with_head(self, head: LinearHead, path: Path, metadata: dict[str, str]) -> None:
        """Writes the whole classifier: outputs `logits`, `probabilities` and the embedding."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        graph = model.graph
        graph.name = "classifier"
        [embedding] = graph.output
        batch = embedding.type.tensor_type.shape.dim[0]
        classes = len(head.bias)
        constants = {"weight": head.weight, "bias": head.bias, **_constants(head.link)}
        graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value, np.float32), f"{_HEAD}.{name}")
            for name, value in constants.items()
        )
        weight, bias = f"{_HEAD}.weight", f"{_HEAD}.bias"
        graph.node.append(
            helper.make_node("Gemm", [self.embedding, weight, bias], ["logits"], transB=1)
        )
        graph.node.extend(_link_nodes(head.link))
        del graph.output[:]
        for name in ("logits", "probabilities"):
            value = helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, classes])
            value.type.tensor_type.shape.dim[0].CopyFrom(batch)
            graph.output.append(value)
        graph.output.append(embedding)
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString(deterministic=True))


def _constants(link: Link) -> dict[str, NDArray[np.float32] | float]:
    if isinstance(link, Softmax):
        return {"temperature": link.temperature}
    parts = {"temperature": "temperatures", "shift": "biases"}
    return {name: link.get_buffer(buffer).numpy() for name, buffer in parts.items()}


def _link_nodes(link: Link) -> list[onnx.NodeProto]:
    """From `logits` to `probabilities`."""
    temperature, scaled, shift, shifted = (
        f"{_HEAD}.{name}" for name in ("temperature", "scaled", "shift", "shifted")
    )
    divided = helper.make_node("Div", ["logits", temperature], [scaled])
    if isinstance(link, Softmax):
        return [divided, helper.make_node("Softmax", [scaled], ["probabilities"], axis=-1)]
    return [
        divided,
        helper.make_node("Add", [scaled, shift], [shifted]),
        helper.make_node("Sigmoid", [shifted], ["probabilities"]),
    ]


def _needed(nodes: Sequence[onnx.NodeProto], wanted: str) -> list[bool] | None:
    """Which nodes `wanted` depends on (nodes stand in the order of computation), or None."""
    names = {wanted}
    needed = [False] * len(nodes)
    for place in reversed(range(len(nodes))):
        if not names.isdisjoint(nodes[place].output):
            needed[place] = True
            names.update(_read(nodes[place]))
    return needed if any(needed) else None


def _read(node: onnx.NodeProto) -> Iterable[str]:
    """The values a node reads, those inside its branches and loops too."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        graphs = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
        for graph in graphs:
            for inner in graph.node:
                yield from _read(inner)
