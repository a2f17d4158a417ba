"""The models' ONNX files, made on the spot, so that every server gets the same ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from bench.serving.models import CLASSES, IMAGE, INPUT, MEAN, MODELS, OUTPUT, STD, Model, Rows
from visionloop_training.export import quiet_exporter

OPSET = 20
_SEED = 7


def write_model(model: Model, folder: Path) -> Path:
    """The model's ONNX file in `folder`; made when it is not there yet."""
    return _written(folder / f"{model.name}.onnx", _MAKERS[model.name])


def write_classifier(folder: Path) -> Path:
    """mobilenet_v3_small with `probabilities` (n, CLASSES) as its output: what a bundle serves."""
    return _written(
        folder / "classifier.onnx",
        lambda path: export(_Classifier(network("mobilenet_v3_small")), path, "probabilities"),
    )


def _written(path: Path, make: Callable[[Path], None]) -> Path:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        make(partial)
        onnx.checker.check_model(str(partial))
        partial.rename(path)
    return path


class PixelNetwork(nn.Module):
    """uint8 NHWC -> normalised float32 NCHW -> the network."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", 255 * torch.tensor(MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(STD).reshape(1, 3, 1, 1))

    def normalised(self, x: Tensor) -> Tensor:
        """(n, height, width, 3) uint8 -> (n, 3, height, width) float32."""
        planes = x.to(torch.float32).permute(0, 3, 1, 2)
        return (planes - self.mean) / self.std

    def forward(self, x: Tensor) -> Tensor:
        """(n, height, width, 3) uint8 -> (n, classes)."""
        answer: Tensor = self.network(self.normalised(x))
        return answer


class _Classifier(nn.Module):
    """Logits of random weights hardly differ; a factor makes one class win, as in real models."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(n, height, width, 3) uint8 -> (n, classes) probabilities."""
        return torch.softmax(400 * self.network(x), dim=1)


def network(name: str) -> PixelNetwork:
    """Random weights; its batch norms have seen images, or the numbers die out or explode on the
    way and every image gets the same answer (and denormal numbers, which are slow)."""
    torch.manual_seed(_SEED)
    made = PixelNetwork(torchvision.models.get_model(name, weights=None, num_classes=CLASSES))
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean over what it saw
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        made.train()(torch.randint(0, 256, (16, *IMAGE), dtype=torch.uint8))
    return made


def export(network: nn.Module, path: Path, output: str) -> None:
    """Writes the ONNX file of a network on pixels; any batch, all weights inside."""
    example = torch.zeros((2, *IMAGE), dtype=torch.uint8)
    batch = torch.export.Dim("n", min=1, max=4096)
    with quiet_exporter():
        torch.onnx.export(
            network.eval(),
            (example,),
            str(path),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[output],
            dynamic_shapes=({0: batch},),
            external_data=False,
            verbose=False,
        )


def _write_pool(path: Path) -> None:
    """The mean of each colour over the image."""
    nodes = [
        helper.make_node("Cast", [INPUT], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], [OUTPUT], keepdims=0),
    ]
    _write_graph(path, nodes, {"axes": np.asarray([1, 2], np.int64)}, MODELS["pool"])


def _write_tiny(path: Path) -> None:
    """Four numbers, each doubled."""
    nodes = [helper.make_node("Mul", [INPUT, "two"], [OUTPUT])]
    _write_graph(path, nodes, {"two": np.asarray([2.0], np.float32)}, MODELS["tiny"])


def _write_graph(
    path: Path, nodes: list[onnx.NodeProto], constants: dict[str, Rows], model: Model
) -> None:
    kind = {"UINT8": TensorProto.UINT8, "FP32": TensorProto.FLOAT}[model.datatype]
    graph = helper.make_graph(
        nodes,
        model.name,
        [helper.make_tensor_value_info(INPUT, kind, ["n", *model.shape])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", model.outputs])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)


_MAKERS: dict[str, Callable[[Path], None]] = {
    "resnet50": lambda path: export(network("resnet50"), path, OUTPUT),
    "mobilenet_v3_small": lambda path: export(network("mobilenet_v3_small"), path, OUTPUT),
    "pool": _write_pool,
    "tiny": _write_tiny,
}
