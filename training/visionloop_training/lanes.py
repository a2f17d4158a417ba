"""How a candidate is made: by one of two lanes, whose results go through the same stages after it.

    full   linear probe, then fine-tuning, from the pinned backbone, on the whole snapshot; minutes
           to hours (`FullLane`, here)
    fast   a new linear head on the stable version's own body; seconds (`fast_lane.FastLane`)

A lane learns, tells its logits on val (calibration needs them), and writes model.onnx together with
a second, independent way to compute the same answers, against which the file is proven.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

import visionloop
from visionloop.errors import ConfigurationError
from visionloop.objectstore import ObjectStore
from visionloop.preprocessing import Preprocessing
from visionloop.strict_pillow import decoder
from visionloop_training import backbones
from visionloop_training.body import Body, LinearHead
from visionloop_training.checkpoint import Checkpoints, run_key
from visionloop_training.config import TrainingConfig
from visionloop_training.data import Blobs, Dataset
from visionloop_training.distributed import Workers
from visionloop_training.export import Graph, export
from visionloop_training.features import ACTIVATIONS, Features
from visionloop_training.fit import fit
from visionloop_training.half_graph import HalfGraph
from visionloop_training.links import Link
from visionloop_training.network import Network
from visionloop_training.stop import Stop
from visionloop_training.watch import Watch


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a lane works with, beside data and configuration."""

    blobs: Blobs
    cache: Path
    stop: Stop = field(default_factory=Stop)
    workers: Workers = field(default_factory=Workers)
    watch: Watch = field(default_factory=Watch)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a candidate's body comes from, for its provenance."""

    lane: Literal["full", "fast"]
    backbone: str
    backbone_sha256: str | None
    body_version: int | None  # of the full lane; None: this run makes it


class Learned(Protocol):
    """What fitting gave."""

    @property
    def kept_epoch(self) -> int: ...
    @property
    def probe_penalty(self) -> float: ...
    @property
    def val_logits(self) -> Tensor: ...  # (val images, classes)
    def curves(self) -> list[dict[str, float]]:
        """One point for each epoch; 0 is the probe."""

    def recipe(self) -> dict[str, Any]:
        """The learning rates, and what failed before them."""


class Lane(Protocol):
    """The stages that differ, in order."""

    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def origin(self) -> Origin: ...
    @property
    def computed(self) -> int:
        """Images whose features were not in the cache yet."""

    def load(self) -> None:
        """What is trained from. Errors in names, files and digests come here."""

    def fit(self) -> Learned:
        """Learns. Raises RefusedError when that fails, PreemptedError when told to stop."""

    def export(self, path: Path, link: Link, metadata: dict[str, str]) -> nn.Module:
        """Writes model.onnx; returns the module that the file must agree with."""

    @property
    def on_gpu(self) -> bool:
        """Whether the version is likely to serve on a GPU."""

    def export_half(self, path: Path, link: Link, metadata: dict[str, str]) -> None:
        """Writes the 16-bit sibling of model.onnx. Raises RefusedError where there can be none."""

    def finished(self) -> None:
        """The run is over: what was kept to go on from is not needed any more."""


class FullLane:
    """Linear probe and fine-tuning from the pinned backbone."""

    def __init__(
        self,
        data: Dataset,
        config: TrainingConfig,
        around: Surroundings,
        checkpoints: "Callable[[str], Checkpoints] | None" = None,
    ) -> None:
        """`checkpoints` opens those of a run by its key; without, nothing is saved."""
        self._data = data
        self._config = config
        self._around = around
        self._open = checkpoints
        self._checkpoints: Checkpoints | None = None
        self.computed = 0

    def load(self) -> None:
        """Builds the network from the backbone's file."""
        config = self._config
        torch.manual_seed(config.seed)  # for what is not pretrained: the head, or all of it
        backbone, pixels = backbones.build(
            config.backbone.name, config.backbone.weights, config.pixels.image_size
        )
        self.preprocessing = pixels.preprocessing(
            config.pixels.image_size, config.pixels.shape, config.pixels.reducing_gap
        )
        self.origin = Origin("full", backbone.name, backbone.weights_sha256, None)
        self._network = Network(
            backbone,
            self.preprocessing,
            classes=len(self._data.class_ids),
            frozen=backbone.freeze_point(config.fit.freeze),
            head=config.head,
        )

    def fit(self) -> Learned:
        """Trains, from the last checkpoint where there is one. Raises GpuMemoryError."""
        around = self._around
        device = "cuda" if torch.cuda.is_available() else "cpu"
        network = self._network.to(memory_format=torch.channels_last).to(device)
        features = self._features = Features(
            network, around.blobs, self.preprocessing, self._config.augment, around.cache,
            around.stop, around.workers,
        )  # fmt: skip
        self._checkpoints = self._open(self._run_key()) if self._open else None
        try:
            fitted = fit(
                network, features, self._data, self._config, self._checkpoints, around.stop,
                around.workers, around.watch,
            )  # fmt: skip
        except torch.OutOfMemoryError as error:
            raise _no_room(error, self._config) from error
        finally:
            if self._checkpoints is not None:
                self._checkpoints.close()
        self.computed = features.computed
        self._network = fitted.network
        return fitted

    def export(self, path: Path, link: Link, metadata: dict[str, str]) -> nn.Module:
        """By torch's exporter; the module is the trained network itself.

        Where only a linear head was trained the rest was exported already, for the features: that
        graph gets the head.
        """
        graph, head = Graph(self._network, link), self._network.head
        if self._network.all_frozen and isinstance(head, nn.Linear):
            self._features.write_bottom(path)
            body = Body.cut(path, ACTIVATIONS).renamed("embedding")
            weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
            body.with_head(LinearHead(weight, bias, link), path, metadata)
        else:
            export(graph, path, *self.preprocessing.output_size, metadata)
        return graph

    @property
    def on_gpu(self) -> bool:
        """Who has a GPU to train on usually has one to serve on."""
        return torch.cuda.is_available()

    def export_half(self, path: Path, link: Link, metadata: dict[str, str]) -> None:
        """From a copy of the trained network."""
        height, width = self.preprocessing.output_size
        graph = HalfGraph(self._network, link, height, width)
        export(graph, path, height, width, metadata)

    def finished(self) -> None:
        """Removes the checkpoints, also those of such a run in another process."""
        if self._open is not None:
            (self._checkpoints or self._open(self._run_key())).remove()

    def _run_key(self) -> str:
        """Names the run by all that decides its weights, so that only its like goes on from it."""
        skipped = {"gate", "parity", "export", "not_sure", "labels", "triggers", "card"}
        return run_key(
            {
                "snapshot": self._data.snapshot,
                "config": self._config.model_dump(mode="json", exclude=skipped),
                "backbone": self.origin.backbone_sha256,
                "classes": self._data.class_ids,
                "versions": [visionloop.__version__, torch.__version__, decoder()],
            }
        )


class GpuMemoryError(ConfigurationError):
    """The network, with these settings, does not fit into the GPU's memory."""


def _no_room(error: torch.OutOfMemoryError, config: TrainingConfig) -> GpuMemoryError:
    told = str(error).strip().split("\n", 1)[0].rstrip(".")
    return GpuMemoryError(
        f"the GPU's memory is full: {told}; lower fit.batch_size ({config.fit.batch_size}) or "
        "pixels.image_size, freeze more of the network (fit.freeze), or free the GPU of other "
        "programs",
        field="fit.batch_size",
    )


def open_checkpoints(
    store: ObjectStore, model: str, every_seconds: float
) -> Callable[[str], Checkpoints]:
    """Checkpoints of a model's runs."""
    return lambda key: Checkpoints(store, model, key, every_seconds)
