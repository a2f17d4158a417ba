"""ResNet-50 in 32 and in 16 bits, from pixels to probabilities, and a bundle that holds both."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bench.serving.bundles import CLASSIFIER, PROBABILITIES, classifier_bundle, write_golden
from bench.serving.graphs import PixelNetwork, export, network
from bench.serving.limits import preprocessing, session
from bench.serving.models import INPUT
from visionloop.images import decode
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository

ARCHITECTURE = "resnet50"
GRAPH, HALF = "model.onnx", "model.fp16.onnx"
_SHARPNESS = 40.0  # logits of random weights hardly differ; with it one class leads
_RUN = "bench-serving-gpu"


class _Classifier(nn.Module):
    def __init__(self, pixels: PixelNetwork, *, half: bool) -> None:
        super().__init__()
        self.pixels = pixels
        self.half_precision = half
        if half:
            self.pixels.network.half()

    def forward(self, x: Tensor) -> Tensor:
        """(n, height, width, 3) uint8 -> (n, classes) probabilities, float32."""
        planes = self.pixels.normalised(x)
        logits = self.pixels.network(planes.half() if self.half_precision else planes)
        return torch.softmax(_SHARPNESS * logits.float(), dim=1)


def write_graphs(folder: Path) -> None:
    """model.onnx and model.fp16.onnx in `folder`; what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, half in ((GRAPH, False), (HALF, True)):
        path = folder / name
        if not path.exists():
            partial = path.with_suffix(".partial")
            export(_Classifier(network(ARCHITECTURE), half=half), partial, PROBABILITIES)
            partial.rename(path)


def publish(folder: Path, pictures: Sequence[Path], store: str) -> None:
    """The bundle of both graphs, made stable, unless it is there.

    It allows the 16-bit graph twice the difference that it shows on a CPU.
    """
    repository = ModelRepository(open_store(store))
    if repository.versions(CLASSIFIER):
        return
    write_golden(folder, folder / GRAPH, list(pictures))
    prepare = preprocessing()
    rows = np.stack([prepare(decode(picture.read_bytes())) for picture in pictures])
    full, half = (
        session(str(folder / name), 0).run([PROBABILITIES], {INPUT: rows})[0]
        for name in (GRAPH, HALF)
    )
    allowed = {"default": 1e-3, "fp16/cuda": 2 * float(np.abs(full - half).max())}
    version = repository.claim(CLASSIFIER, _RUN)
    repository.publish(classifier_bundle(folder, version, _RUN, allowed), folder)
    repository.promote(
        CLASSIFIER, version, expected=repository.aliases(CLASSIFIER), who=_RUN, why="the benchmark"
    )
