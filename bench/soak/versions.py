"""Versions of mobilenet_v3_small with random weights, that show which one answered.

The network is exported once. Version k has the rows of the last layer moved on by k · STEP places,
so its best class for an image is so many places further: an answer of another version than the one
it names is seen at once, and each version is a file of its own with a digest of its own.
"""

from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from bench.serving.bundles import CLASSIFIER, PROBABILITIES, add_classifier
from bench.serving.graphs import write_classifier
from bench.serving.limits import preprocessing, session
from bench.serving.models import CLASSES, INPUT
from bench.serving.pictures import write_pictures
from bench.soak.load import Call, Plan
from visionloop.images import decode
from visionloop.repository import ModelRepository

STEP = 7  # classes
PICTURE_BYTES = 20_000
TOLERANCE = 1e-3  # of a probability: rows beside others are added up in another order


class Versions:
    """The files, in `folder`: the graph, pictures, rows, and graphs of further versions."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._graph = write_classifier(folder)
        self._pictures = write_pictures(folder / "pictures", PICTURE_BYTES)

    @cached_property
    def rows(self) -> NDArray[np.uint8]:
        """(n, height, width, 3): the pictures as the graph takes them."""
        prepare = preprocessing()
        return np.stack([prepare(decode(picture.read_bytes())) for picture in self._pictures])

    @cached_property
    def _truth(self) -> NDArray[np.float32]:
        """(n, classes): what the exported graph itself says of the rows."""
        run = session(str(self._graph), 1).run
        found = [run([PROBABILITIES], {INPUT: row[None]})[0][0] for row in self.rows]
        return np.stack(found)

    def graph(self, version: int) -> Path:
        """The ONNX file of a version."""
        path = self._folder / f"version-{version}.onnx"
        if not path.exists():
            model = onnx.load(self._graph)
            last = next(node for node in reversed(model.graph.node) if node.op_type == "Gemm")
            for weights in model.graph.initializer:
                if weights.name in last.input:
                    values = numpy_helper.to_array(weights)
                    moved = np.roll(values, version * STEP, axis=values.shape.index(CLASSES))
                    weights.CopyFrom(numpy_helper.from_array(moved, weights.name))
            path.write_bytes(model.SerializeToString())
        return path

    def publish(self, repository: ModelRepository, run: str) -> int:
        """Publishes the next version and makes it stable; its number."""
        version = max(repository.versions(CLASSIFIER), default=0) + 1
        graph = self.graph(version)
        found = add_classifier(graph, self._pictures, repository, f"{run}-{version}")
        graph.unlink()
        assert found == version, "somebody else publishes here, too"
        return found

    def plan(self, target: str, **options: float) -> Plan:
        """Calls with these rows."""
        file = self._folder / "rows.npy"
        if not file.exists():
            np.save(file, self.rows)
        return Plan(target, CLASSIFIER, str(file), INPUT, PROBABILITIES, **options)  # type: ignore[arg-type]

    def is_right(self, call: Call) -> bool:
        """Whether an answer is the one that the version it names gives."""
        truth = self._truth[call.row]
        best = (int(truth.argmax()) + call.version * STEP) % CLASSES
        return call.best == best and abs(call.probability - float(truth.max())) < TOLERANCE
