"""The models of the benchmark; bench.serving.graphs makes their files.

Two real architectures with random weights (a server does not care what they say) and two graphs
that cost next to nothing, which show what a server itself costs: `pool` carries an image and reads
it once, `tiny` carries 16 bytes. Images are uint8 NHWC; cast and normalisation are in the graph, as
in every bundle, so one image is 147 KiB on the wire and not the 588 KiB of float32.
"""

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE = 224  # pixels
CLASSES = 1000
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
INPUT = "x"
OUTPUT = "y"
_DTYPES: dict[str, type[np.generic]] = {"UINT8": np.uint8, "FP32": np.float32}

Rows = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Model:
    """One graph: x (n, *shape) -> y (n, outputs) float32. Shapes leave out the batch dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    outputs: int
    one_thread: bool  # a graph this small only loses by a second thread

    @property
    def dtype(self) -> type[np.generic]:
        """numpy's type of the input."""
        return _DTYPES[self.datatype]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the input."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def rows(self, count: int, seed: int = 0) -> Rows:
        """(count, *shape): random pixels, or floats between -1 and 1; never NaN."""
        random = np.random.default_rng(seed)
        if self.datatype == "UINT8":
            return random.integers(0, 256, (count, *self.shape), np.uint8)
        return random.uniform(-1.0, 1.0, (count, *self.shape)).astype(np.float32)

    def threads(self, cores: int) -> int:
        """Threads for one run of the graph, the same for every server that does not choose."""
        return 1 if self.one_thread else cores

    def as_json(self) -> str:
        """What a peer's server file needs to know."""
        return json.dumps(
            {
                "name": self.name,
                "datatype": self.datatype,
                "shape": self.shape,
                "outputs": self.outputs,
            }
        )


IMAGE = (SIDE, SIDE, 3)
MODELS = {
    model.name: model
    for model in (
        Model("resnet50", "UINT8", IMAGE, CLASSES, one_thread=False),
        Model("mobilenet_v3_small", "UINT8", IMAGE, CLASSES, one_thread=False),
        Model("pool", "UINT8", IMAGE, 3, one_thread=True),
        Model("tiny", "FP32", (4,), 4, one_thread=True),
    )
}
