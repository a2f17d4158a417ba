"""Our training loop, and the plainest one of the same network on tensors that are there already."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from visionloop.objectstore import ObjectStore
from visionloop_training import backbones
from visionloop_training.config import TrainingConfig
from visionloop_training.data import Blobs, Dataset
from visionloop_training.features import Features
from visionloop_training.fit import fit
from visionloop_training.network import Network
from visionloop_training.watch import Watch

_WARM_UP = 3  # steps


@dataclass
class Recorder(Watch):
    """Keeps what each epoch was like."""

    speeds: list[float] = field(default_factory=list)  # images/s
    waits: list[float] = field(default_factory=list)  # share of the time

    def __post_init__(self) -> None:
        super().__init__()

    def steps_done(self) -> None:
        super().steps_done()
        self.speeds.append(self.images_per_second)
        self.waits.append(self.wait_ratio)


@dataclass(frozen=True)
class Subject:
    """A network with the data that it is trained on."""

    data: Dataset
    config: TrainingConfig
    store: ObjectStore
    cache: Path

    def network(self) -> Network:
        """Freshly built."""
        config = self.config
        torch.manual_seed(config.seed)
        backbone, pixels = backbones.build(
            config.backbone.name, config.backbone.weights, config.pixels.image_size
        )
        network = Network(
            backbone,
            pixels.preprocessing(
                config.pixels.image_size, config.pixels.shape, config.pixels.reducing_gap
            ),
            classes=len(self.data.class_ids),
            frozen=backbone.freeze_point(config.fit.freeze),
        )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return network.to(memory_format=torch.channels_last).to(device)

    def features(self, network: Network) -> Features:
        """What enters the trained stages."""
        config = self.config
        _, pixels = backbones.build(config.backbone.name, "none", config.pixels.image_size)
        preprocessing = pixels.preprocessing(
            config.pixels.image_size, config.pixels.shape, config.pixels.reducing_gap
        )
        blobs = Blobs(self.store, self.cache / "blobs")
        return Features(network, blobs, preprocessing, config.augment, self.cache)

    def prepare(self) -> float:
        """Seconds of the first pass: every image from the store into the cache."""
        began = time.perf_counter()
        features = self.features(self.network())
        features.prepare(self.data.val, 1)
        features.prepare(self.data.train, features.variants or 1)
        return time.perf_counter() - began

    def ours(self) -> Recorder:
        """The product's loop, linear probe and val included, timed over its steps."""
        network = self.network()
        recorder = Recorder()
        fit(network, self.features(network), self.data, self.config, watch=recorder)
        return recorder

    def synthetic(self) -> float:
        """Images/s of forward, loss, backward, clipping and AdamW on one batch of noise.

        No loader, no augmentation, no moving average, no look at the loss: the limit.
        """
        network, config = self.network(), self.config.fit
        size = config.batch_size
        with torch.no_grad():
            height, width = (
                self.config.pixels.image_size or 224,
                self.config.pixels.image_size or 224,
            )
            device = network.device
            images = torch.randint(
                0, 256, (size, height, width, 3), dtype=torch.uint8, device=device
            )
            inputs = network.bottom(images).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(0, len(self.data.class_ids), (size,), device=device)
        stages = network.backbone.stages[network.frozen :]
        trained = [*stages.parameters(), *network.head.parameters()]
        optimiser = torch.optim.AdamW(trained, lr=1e-6, fused=True)
        network.train()
        if network.backbone.weights_sha256 is not None:  # as `fit.batch_norm=auto` does
            for module in network.modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                    module.eval()
        steps = -(-len(self.data.train) // size)
        for number in range(_WARM_UP + steps):
            if number == _WARM_UP:
                _finish(device)
                began = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = cross_entropy(network.head(network.embed(inputs)), labels)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
            optimiser.step()
        _finish(device)
        return steps * size / (time.perf_counter() - began)


def _finish(device: torch.device) -> None:
    """A GPU works after it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize()
