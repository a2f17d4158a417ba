"""From the trained network to model.onnx, and onnxruntime sessions on such files.

The graph takes `images` (batch, height, width, 3) uint8 and gives `logits`, `probabilities` (with
the calibration inside, `links`) and `embedding`; the batch is dynamic and the weights are in the
file, so one digest names the model. Opset 20 is what onnxruntime, TensorRT and OpenVINO all read.
Export runs in eval mode: in train mode dropout would stay in the graph without a word.
"""

import contextlib
import importlib.metadata
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from visionloop.errors import VisionloopError
from visionloop.onnx_threads import WAITING
from visionloop_training.links import Link
from visionloop_training.network import Network

OPSET = 20
INPUT = "images"
OUTPUTS = ("logits", "probabilities", "embedding")
_MAX_BATCH = 4096
_EXPORTER = ("torch", "onnx", "onnxscript", "onnx-ir")  # onnx-ir folds and names the nodes


class Graph(nn.Module):
    """What is exported: the network with its link, from logits to probabilities."""

    def __init__(self, network: Network, link: Link) -> None:
        super().__init__()
        self.network = network
        self.link = link

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 images -> logits, calibrated probabilities, embedding."""
        logits, embedding = self.network(images)
        return logits, self.link(logits), embedding


def export(graph: nn.Module, path: Path, height: int, width: int, metadata: dict[str, str]) -> None:
    """Writes a graph of the outputs OUTPUTS, with `metadata` in its properties."""
    export_module(graph, path, height, width, OUTPUTS)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def exporter_versions() -> dict[str, str]:
    """What decides the bytes of a graph beside the module it is made of."""
    return {name: importlib.metadata.version(name) for name in _EXPORTER}


def export_module(
    module: nn.Module, path: Path, height: int, width: int, outputs: Sequence[str]
) -> None:
    """Exports a module of one uint8 NHWC input. Raises VisionloopError when torch cannot."""
    module = module.eval()
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
    example = torch.zeros((2, height, width, 3), dtype=torch.uint8)
    try:
        with quiet_exporter():
            torch.onnx.export(
                module,
                (example,),
                str(path),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(outputs),
                dynamic_shapes=({0: batch},),
                external_data=False,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        raise VisionloopError(f"the network cannot be exported to ONNX: {cause}") from error


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """torch.onnx prints its progress and logs hundreds of rewrites; neither helps users."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Session:
    """A graph in onnxruntime on the CPU, called with uint8 images (batch, height, width, 3).

    Its one input may have any name, since the stable version may be of other making.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        for key, value in WAITING.items():  # as where the graph is served
            options.add_session_config_entry(key, value)
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.shapes = {o.name: tuple(o.shape) for o in self._session.get_outputs()}
        sides = (self._session.get_inputs(), self._session.get_outputs())
        # Names, types and sizes but for the batch's; equal for graphs that can replace each other.
        self.signature = [[(v.name, v.type, tuple(v.shape[1:])) for v in side] for side in sides]

    def __call__(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """All outputs by name."""
        values = self._session.run(self._outputs, {self._input: images})
        return dict(zip(self._outputs, values, strict=True))

    def batched(
        self, images: Sequence[NDArray[np.uint8]], size: int = 32
    ) -> dict[str, NDArray[np.float32]]:
        """All outputs of any number of images, run `size` at a time."""
        parts = [self(np.stack(images[i : i + size])) for i in range(0, len(images), size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}
