"""What val says of a network: after the probe, after each epoch, at the end."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from visionloop_training.data import Dataset, Item
from visionloop_training.distributed import Workers
from visionloop_training.features import Features
from visionloop_training.fit_state import Epoch, Progress
from visionloop_training.network import Network
from visionloop_training.recipe import collapse
from visionloop_training.recipe_config import FitConfig
from visionloop_training.targets import log_loss, score, targets
from visionloop_training.watch import Watch

_BATCH = 64


class Validation:
    """Asks the network about images as they are, with all processes; notes what val says."""

    def __init__(
        self,
        network: Network,
        features: Features,
        data: Dataset,
        config: FitConfig,
        workers: Workers,
        watch: Watch,
    ) -> None:
        self._network = network
        self._features = features
        self._data = data
        self._config = config
        self._workers = workers
        self._watch = watch
        self._pretrained = network.backbone.weights_sha256 is not None
        self.truth = targets(data.val, data).to(network.device)  # of val

    @torch.no_grad()
    def logits(self, items: Sequence[Item]) -> Tensor:
        """(n, classes) for the images as they are (variant 0)."""
        found: Tensor = self._network.head(self.embeddings(items))
        return found

    @torch.no_grad()
    def embeddings(self, items: Sequence[Item]) -> Tensor:
        """(n, width) of the images as they are (variant 0), of which there is at least one."""
        self._network.eval()
        parts = list(_parts(items, _BATCH))

        def embed(part: int) -> Tensor:
            return self._network.embed(self._features.batch([(i.sha256, 0) for i in parts[part]]))

        found, at = torch.empty(0), 0  # filled part by part: to join them would take as much again
        for part in self._workers.gather(len(parts), embed):
            if at == 0:
                found = part.new_empty((len(items), *part.shape[1:]))
            found[at : at + len(part)] = part
            at += len(part)
        return found

    def end_epoch(self, state: Progress, rate: float, started: float) -> None:
        """Notes in `state` how the weights that are in the network now do.

        `rate` is that of the epoch's last step, `started` the epoch's begin (`perf_counter`).
        Raises CollapsedError from half of the epochs on; a slow start is no collapse.
        """
        logits = self.logits(self._data.val)
        loss, accuracy = self._workers.leaders_numbers(
            [log_loss(logits, self.truth, reduction="mean").item(), score(logits, self.truth)]
        )
        state.history.append(
            Epoch(
                epoch=state.epoch,
                train_loss=state.total / len(self._data.train),
                val_loss=loss,
                val_accuracy=accuracy,
                learning_rate=rate,
                seconds=time.perf_counter() - started,
            )
        )
        self._watch.epoch(state.history[-1])
        if self._config.keep == "last" or loss < state.history[state.best].val_loss:
            state.best = state.epoch
        if 2 * state.epoch >= self._config.epochs and not 0 < state.best < state.epoch:
            self._check(state, logits)

    def _check(self, state: Progress, logits: Tensor) -> None:
        self.check_alive(logits)
        if self._pretrained:
            best = max(epoch.val_accuracy for epoch in state.history[1:])
            probe = state.history[0].val_accuracy
            collapse.check_against_probe(probe, best, len(self._data.val))

    def check_alive(self, logits: Tensor) -> None:
        """Raises CollapsedError where these logits of val (n, classes) say the same of all."""
        collapse.check_alive(logits, self.truth)


def _parts(items: Sequence[Any], size: int) -> Iterator[Any]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
