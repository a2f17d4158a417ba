"""What the training peers share: the job they are given, the backbone, and a clock.

A peer reads job.json, trains within its seconds, and writes the class it gives each test image.
It may look at val as it likes; the test labels are not in the job.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from torch import nn

BACKBONE = "tf_efficientnet_lite0"


@dataclass(frozen=True)
class Job:
    """Files and labels (numbers of classes), where the weights are, and the limits."""

    classes: int
    train: list[tuple[str, int]]
    val: list[tuple[str, int]]
    test: list[str]
    weights: str
    size: int  # side of the square that the network sees
    seed: int
    seconds: float  # for everything, reading the images included
    threads: int

    @classmethod
    def given(cls) -> "Job":
        """From the file that the command line names; seeds and threads are set."""
        job = cls(**json.loads(Path(sys.argv[1]).read_text()))
        torch.manual_seed(job.seed)
        torch.set_num_threads(job.threads)
        return job

    def pictures(self, paths: list[str]) -> list[Image.Image]:
        """Decoded once, as RGB squares of the network's size."""
        side = (self.size, self.size)
        opened = (Image.open(path).convert("RGB") for path in paths)
        return [picture.resize(side, Image.Resampling.BICUBIC) for picture in opened]

    def answer(self, predicted: list[int], **facts: Any) -> None:
        """Writes the answer."""
        Path(sys.argv[2]).write_text(json.dumps({"predicted": predicted, **facts}))


def network(weights: str, classes: int, drop_rate: float = 0.2) -> nn.Module:
    """timm's network with the ImageNet weights; the file names its layers otherwise, in order."""
    net: nn.Module = timm.create_model(BACKBONE, num_classes=1000, drop_rate=drop_rate)
    given = torch.load(weights, map_location="cpu", weights_only=True)
    net.load_state_dict(dict(zip(net.state_dict(), given.values(), strict=True)))
    net.reset_classifier(classes)  # type: ignore[operator]
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def epochs_within(seconds: float, step: Callable[[], object], steps: int) -> int:
    """How many epochs of `steps` steps fit, by the time of a few; a tenth is kept in hand."""
    step()
    started = time.perf_counter()
    for _ in range(4):
        step()
    each = (time.perf_counter() - started) / 4
    return max(1, math.floor(0.9 * seconds / (each * steps)))
