"""Proof that model.onnx answers as the trained network does, on real images.

Exporters and runtimes have had silent faults in every year; this compares the two on encoded
images end to end: bytes → decode → preprocess → graph in onnxruntime, against the torch network,
at batch 1, 2 and many, and twice, since a graph may also differ from itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from visionloop.errors import RefusedError
from visionloop_training.data import Pixels
from visionloop_training.export import Session
from visionloop_training.metrics import Floats

BATCHES = (1, 2, 32)


@dataclass(frozen=True, slots=True)
class Parity:
    """What was compared and the largest differences found."""

    images: int
    batches: tuple[int, ...]
    runs: int
    max_probability_difference: float
    max_logit_difference: float
    max_difference_between_runs: float
    top1_disagreements: int
    limit: float


def prove(graph: nn.Module, session: Session, images: Sequence[Pixels], limit: float) -> Parity:
    """Compares the two. Raises RefusedError when they differ by more than `limit`."""
    expected = _torch_outputs(graph, images)
    first: dict[int, Floats] = {}
    probability = logit = between = 0.0
    others = 0
    for size in BATCHES * 2:
        outputs = session.batched(images, size)
        found = outputs["probabilities"]
        probability = max(probability, difference(found, expected["probabilities"]))
        logit = max(logit, difference(outputs["logits"], expected["logits"]))
        between = max(between, difference(found, first.setdefault(size, found)))
        others += disagreements(found, expected["probabilities"], limit)
    result = Parity(
        images=len(images),
        batches=BATCHES,
        runs=2,
        max_probability_difference=probability,
        max_logit_difference=logit,
        max_difference_between_runs=between,
        top1_disagreements=others,
        limit=limit,
    )
    # "not <=" so that NaN is a difference too
    if others or not probability <= limit or not between <= limit:
        raise RefusedError(
            f"parity: model.onnx differs from the trained network by {probability:.2g} in "
            f"probability on {len(images)} real images (limit {limit:g}), {between:.2g} between "
            f"two runs, with {others} other top answers; nothing was published"
        )
    return result


def _torch_outputs(graph: nn.Module, images: Sequence[Pixels]) -> dict[str, Floats]:
    graph = graph.eval()
    with torch.no_grad():
        parts = [
            graph(torch.from_numpy(np.stack(images[start : start + 32])))
            for start in range(0, len(images), 32)
        ]
    logits, probabilities, _ = (torch.cat(tensors).numpy() for tensors in zip(*parts, strict=True))
    return {"logits": logits, "probabilities": probabilities}


def difference(found: Floats, expected: Floats) -> float:
    """The largest absolute one."""
    return float(np.abs(found - expected).max())


def disagreements(found: Floats, expected: Floats, limit: float) -> int:
    """Images with another top answer; a tie within the limit may fall either way."""
    ranked = np.sort(expected, axis=1)
    clear = ranked[:, -1] - ranked[:, -2] > 2 * limit
    return int((clear & (found.argmax(axis=1) != expected.argmax(axis=1))).sum())
