"""A network of three small convolutions with batch norm, and what it needs to be fitted.

Its weights follow from the seed; a step on 32 x 32 pixels takes a millisecond or two.
"""

import torch
from support.training_site import Site
from torch import nn

from visionloop.snapshot import SnapshotRepository
from visionloop_training.backbones.stages import Backbone, PixelSpec, pool
from visionloop_training.checkpoint import Checkpoints
from visionloop_training.config import TrainingConfig, load
from visionloop_training.data import Blobs, dataset
from visionloop_training.distributed import Workers
from visionloop_training.features import Features
from visionloop_training.fit import fit
from visionloop_training.fitted import Fitted
from visionloop_training.network import Network
from visionloop_training.stop import Stop

PIXELS = PixelSpec(32, 32, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BASE = (
    "fit.epochs=2",
    "fit.batch_size=16",
    "fit.keep=last",
    "augment.symmetries=[]",
    "augment.variants=2",
    "augment.brightness=0.2",
    "threads=1",
)


def tiny_backbone(seed: int = 11) -> Backbone:
    """Stages stem, block.0, block.1 and pool; width 16."""
    torch.manual_seed(seed)
    names = ("stem", "block.0", "block.1")
    stages = [
        (name, nn.Sequential(nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()))
        for name, i, o in zip(names, (3, 8, 8), (8, 8, 16), strict=True)
    ]
    return Backbone("tiny", [*stages, ("pool", pool())], 16)


def tiny_network(config: TrainingConfig, classes: int) -> Network:
    """As `config` freezes it and gives it a head, in front of 32 x 32 pixels."""
    backbone = tiny_backbone()
    frozen = backbone.freeze_point(config.fit.freeze)
    return Network(backbone, PIXELS.preprocessing(32, "squash"), classes, frozen, config.head)


def fitted(
    site: Site,
    *settings: str,
    checkpoints: Checkpoints | None = None,
    stop: Stop | None = None,
    workers: Workers | None = None,
) -> Fitted:
    """The tiny network, trained on the site's digits."""
    config = load(overrides=(*BASE, *settings))
    data = dataset(SnapshotRepository(site.store).read("digits", "latest"))
    network = tiny_network(config, len(data.class_ids))
    blobs = Blobs(site.store, site.cache / "blobs")
    preprocessing = PIXELS.preprocessing(32, "squash")
    features = Features(network, blobs, preprocessing, config.augment, site.cache)
    return fit(network, features, data, config, checkpoints, stop, workers)
