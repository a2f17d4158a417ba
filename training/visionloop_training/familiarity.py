"""Is an image like those that the model learned from? How far its embedding lies from theirs.

The nearest of a few hundred embeddings of train images, by angle (deep nearest neighbours, Sun et
al. 2022: no assumption about their shape, and no covariance to estimate from few images). They are
part of the graph, which gives the distance as one more output: one matrix product, and nothing that
a server must know. The logits cannot tell this: they say how far an image excites the directions
that separate the classes, and a photograph may do that like any solar cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from visionloop.errors import RefusedError
from visionloop.preprocessing import Preprocessing
from visionloop_training.data import BATCH, Blobs, Dataset, Item
from visionloop_training.export import Session
from visionloop_training.metrics import Floats
from visionloop_training.not_sure import distance_limit
from visionloop_training.turns import in_turns

OUTPUT = "distance"
_EMBEDDING = "embedding"
_PREFIX = "visionloop.familiarity."
_KNOWN = 512  # embeddings in the graph: 2 bytes a value, 1.3 MB at a width of 1,280
_JUDGED = 2_000  # val images that the limit is fitted on, at most
_TINY = 1e-12
_SAME = 1e-4  # of a distance, between the graph's arithmetic and numpy's


@dataclass(frozen=True, slots=True)
class Familiarity:
    """Embeddings of train images, at unit length."""

    known: Floats  # (n, width) float16

    @classmethod
    def of(cls, embeddings: Floats) -> "Familiarity":
        """From (n, width) embeddings."""
        return cls(_unit(embeddings).astype(np.float16))

    def distances(self, embeddings: Floats) -> Floats:
        """(m,): 1 less the cosine of the angle to the nearest known one; 0 … 2."""
        nearest: Floats = (_unit(embeddings) @ self.known.astype(np.float32).T).max(axis=1)
        return 1 - nearest

    def into(self, path: Path) -> None:
        """Gives the graph in the file the output `distance`, shape (batch, 1)."""
        model = onnx.load(path)
        graph = model.graph
        embedding = next(value for value in graph.output if value.name == _EMBEDDING)
        constants = {
            "known": np.ascontiguousarray(self.known.T),  # (width, n)
            "tiny": np.array(_TINY, np.float32),
            "one": np.array(1.0, np.float32),
            "axis": np.array([1], np.int64),
        }
        graph.initializer.extend(
            numpy_helper.from_array(value, _PREFIX + name) for name, value in constants.items()
        )
        steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
            ("Cast", ["known"], "wide", {"to": TensorProto.FLOAT}),
            ("ReduceL2", [_EMBEDDING, "axis"], "length", {"keepdims": 1}),
            ("Max", ["length", "tiny"], "divisor", {}),
            ("Div", [_EMBEDDING, "divisor"], "unit", {}),
            ("MatMul", ["unit", "wide"], "cosines", {}),  # (batch, n)
            ("ReduceMax", ["cosines", "axis"], "nearest", {"keepdims": 1}),
            ("Sub", ["one", "nearest"], OUTPUT, {}),
        ]
        graph.node.extend(
            helper.make_node(kind, [_named(i) for i in inputs], [_named(output)], **attributes)
            for kind, inputs, output, attributes in steps
        )
        value = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, 1])
        value.type.tensor_type.shape.dim[0].CopyFrom(embedding.type.tensor_type.shape.dim[0])
        graph.output.append(value)
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString(deterministic=True))


def add(
    path: Path,
    session: Session,
    data: Dataset,
    blobs: Blobs,
    preprocessing: Preprocessing,
    familiar: float,
) -> tuple[Session, float | None, Familiarity | None]:
    """Gives model.onnx the output `distance`; the graph with it, the limit fitted on val, and what
    was put into the file.

    None for both and the graph as it is where `familiar` is 1. Raises RefusedError where the
    graph's distances are not those of its own embeddings.
    """
    if familiar >= 1.0:
        return session, None, None

    def embedded(items: Sequence[Item], using: Session, output: str) -> Floats:
        batches = blobs.batches([item.sha256 for item in items], preprocessing)
        return np.concatenate([using(images)[output] for images in batches])

    found = Familiarity.of(embedded(known(data.train), session, _EMBEDDING))
    judged = data.val[:_JUDGED]
    distances = found.distances(embedded(judged, session, _EMBEDDING))
    found.into(path)
    grown = Session(path, torch.get_num_threads())
    told = embedded(judged[:BATCH], grown, OUTPUT)[:, 0]
    difference = float(np.abs(told - distances[:BATCH]).max())
    if not difference <= _SAME:
        raise RefusedError(
            f"the distances that model.onnx gives differ by {difference:.2g} from those of its "
            f"embeddings (limit {_SAME:g}); nothing was published"
        )
    return grown, distance_limit(distances, familiar), found


def known(items: Sequence[Item]) -> list[Item]:
    """The train images to compare with: of each class (where an image may have several: of each set
    of classes) in turn, in the order of their digests.

    So a rare class is there with as many as a common one, as long as it has them.
    """
    queues: dict[tuple[int, ...], list[Item]] = {}
    for item in items:
        queues.setdefault(item.classes, []).append(item)
    return in_turns(queues.values(), _KNOWN)


def _named(value: str) -> str:
    """Its name in the graph, where nothing else can have it."""
    return value if value in (_EMBEDDING, OUTPUT) else _PREFIX + value


def _unit(embeddings: Floats) -> Floats:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit: Floats = (embeddings / np.maximum(lengths, _TINY)).astype(np.float32)
    return unit
