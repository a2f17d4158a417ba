"""The fast lane: a new linear head on the stable version's own body, in seconds.

A bundle holds a graph and no torch weights, and none are needed: the graph gives the embedding, so
onnxruntime computes the features (five times as fast as torch on a CPU; cached by body and image,
for every later head on the same body), and the new file is the old one with another head
(`body.Body`). What the body was trained to do stays as it was: this follows new labels, new classes
and another mix of them, and cannot follow images that look otherwise. That is the full lane's.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from visionloop.errors import RefusedError
from visionloop.preprocessing import Preprocessing
from visionloop.telemetry import progress
from visionloop_training.body import Body, LinearHead
from visionloop_training.cache import ArrayCache, key_of
from visionloop_training.config import TrainingConfig
from visionloop_training.data import Dataset, Item
from visionloop_training.export import INPUT, Session
from visionloop_training.features import made_from
from visionloop_training.fit_state import Epoch
from visionloop_training.heads import HeadFit, fit_head
from visionloop_training.lanes import Learned, Origin, Surroundings
from visionloop_training.learner import class_weights, image_weights
from visionloop_training.links import Link
from visionloop_training.stable import Version
from visionloop_training.targets import soft, targets

_BATCH = 32
_EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True)
class NewHead:
    """A fitted head, as `lanes.Learned`."""

    probe: HeadFit
    seconds: float
    val_logits: Tensor  # (val images, classes)
    kept_epoch: int = 0

    @property
    def probe_penalty(self) -> float:
        """That val chose."""
        return self.probe.penalty

    def curves(self) -> list[dict[str, float]]:
        """One point: a head that is fitted in one go has no curve."""
        probe = self.probe
        point = Epoch(0, probe.train_loss, probe.val_loss, probe.val_accuracy, 0.0, self.seconds)
        return [asdict(point)]

    def recipe(self) -> dict[str, Any]:
        """Nothing was tuned."""
        return {"rates": None, "failures": []}


class FastLane:
    """A new head on the body of `stable`."""

    def __init__(
        self, data: Dataset, config: TrainingConfig, around: Surroundings, stable: Version
    ) -> None:
        self._data = data
        self._config = config
        self._around = around
        self._stable = stable
        made_of = stable.bundle.provenance
        self.preprocessing: Preprocessing = stable.bundle.preprocessing
        self.origin = Origin(
            "fast",
            made_of.backbone,
            made_of.backbone_sha256,
            made_of.body_version or stable.bundle.version,
        )
        self.computed = 0

    def load(self) -> None:
        """Cuts the body out of the stable version's graph.

        Raises RefusedError where that has no embedding, or is not of this program's making.
        """
        bundle = self._stable.bundle
        output = self._stable.output("embedding")
        if (bundle.input.name, output) != (INPUT, _EMBEDDING):
            raise RefusedError(
                f"stable version {bundle.version} of {bundle.model} was not made by this program "
                f"(its input is {bundle.input.name!r}, its embedding {output!r}), so the fast lane "
                "cannot give it a new head; train with --lane full"
            )
        self._body = Body.cut(self._stable.folder / bundle.graph, output)

    def fit(self) -> Learned:
        """Computes what the cache lacks of the embeddings, and fits the probe on them."""
        started = time.perf_counter()
        data, seed = self._data, self._config.seed
        torch.manual_seed(seed)
        train, val = self._embeddings(data.train), self._embeddings(data.val)
        truth = targets(data.train, data)
        weights = torch.tensor(image_weights(data, self._config.fit))
        self._head = nn.Linear(train.shape[1], len(data.class_ids))
        probe = fit_head(
            self._head,
            (train, truth, weights),
            (val, targets(data.val, data)),
            self._config.fit.probe_penalty,
            positives=class_weights(data, self._config.fit),
            soft=soft(data.train, len(data.class_ids)),
            in_place=True,
        )
        with torch.no_grad():
            logits = self._head(val)
        return NewHead(probe, time.perf_counter() - started, logits)

    def export(self, path: Path, link: Link, metadata: dict[str, str]) -> nn.Module:
        """The body with the new head. It must agree with the stable version's own file, whose
        embedding goes through the head in torch."""
        self._body.with_head(self._linear(link), path, metadata)
        return _Composed(self._stable.session, self._head, link)

    @property
    def on_gpu(self) -> bool:
        """Where the stable version is made for one."""
        bundle = self._stable.bundle
        return bundle.half_graph in bundle.files

    def export_half(self, path: Path, link: Link, metadata: dict[str, str]) -> None:
        """The stable version's own 16-bit body with the new head, which stays float32: it is a
        thousandth of the work. Raises RefusedError where stable has no 16-bit graph."""
        bundle = self._stable.bundle
        if not self.on_gpu:
            raise RefusedError(
                f"version {bundle.version}, whose body it has, has no {bundle.half_graph}; train "
                "with --lane full"
            )
        body = Body.cut(self._stable.folder / bundle.half_graph, self._stable.output("embedding"))
        body.with_head(self._linear(link), path, metadata)

    def finished(self) -> None:
        """Nothing was kept but the cache."""

    def _linear(self, link: Link) -> LinearHead:
        weight, bias = self._head.weight.detach().numpy(), self._head.bias.detach().numpy()
        return LinearHead(weight, bias, link)

    def _embeddings(self, items: Sequence[Item]) -> Tensor:
        """(n, width), in the order of the items."""
        key: dict[str, object] = {
            "body": self._body.digest,
            **made_from(self.preprocessing),
        }
        cache = ArrayCache(self._around.cache, "embeddings", key_of(key))
        missing = [item for item in items if not cache.has(item.sha256)]
        self.computed += len(missing)
        starts = range(0, len(missing), _BATCH)
        for start in progress(starts, description="embeddings", unit="batches"):
            self._around.stop.check("while it computed embeddings")
            batch = missing[start : start + _BATCH]
            found = self._stable.outputs(batch, self._around.blobs, [_EMBEDDING])[_EMBEDDING]
            for item, row in zip(batch, found, strict=True):
                cache.put(item.sha256, row)
        return torch.from_numpy(np.stack([cache.get(item.sha256) for item in items])).float()


class _Composed(nn.Module):
    """What the new file must answer: the old file's embedding, then the head as it was fitted."""

    def __init__(self, session: Session, head: nn.Linear, link: Link) -> None:
        super().__init__()
        self._session = session
        self._head = head
        self._link = link

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 images (batch, height, width, 3) -> logits, probabilities, embedding."""
        embedding = torch.from_numpy(self._session(images.numpy())[_EMBEDDING])
        logits = self._head(embedding)
        return logits, self._link(logits), embedding
