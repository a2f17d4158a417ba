"""Linear probe, then fine-tuning from its head with discriminative learning rates.

The loop is plain: an order of (image, variant) pairs per epoch drawn from a seeded generator, the
next batch read by one thread while this one is computed, one optimiser step, the average updated.
Same snapshot, same configuration, same machine: same weights, bit for bit, on a CPU.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from visionloop.errors import RefusedError
from visionloop.telemetry import progress
from visionloop_training import recipe
from visionloop_training.config import FitConfig, TrainingConfig
from visionloop_training.data import Dataset, Item
from visionloop_training.features import Features
from visionloop_training.heads import Probe, fit_probe
from visionloop_training.network import Network

_EVALUATION_BATCH = 64
# Val images that should have got another answer than the only one given. A model that finds but
# three in ten of them misses all ten once in 35 runs; with fewer, silence proves nothing.
_ENOUGH_MISSED = 10


@dataclass(frozen=True, slots=True)
class Epoch:
    """One point of the loss curves. Epoch 0 is the linear probe."""

    epoch: int
    train_loss: float  # with label smoothing and weights, as optimised; the probe's is without
    val_loss: float
    val_accuracy: float
    learning_rate: float  # of the head, at the epoch's end
    seconds: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """The trained network, in eval mode on the CPU, and how it got there."""

    network: Network
    history: list[Epoch]
    kept_epoch: int
    probe_penalty: float
    val_logits: Tensor  # (val images, classes)

    def curves(self) -> list[dict[str, float]]:
        """The history as plain JSON."""
        return [asdict(epoch) for epoch in self.history]


def fit(
    network: Network,
    features: Features,
    data: Dataset,
    config: TrainingConfig,
) -> Fitted:
    """Trains `network` in place. Raises RefusedError when training diverges or collapses."""
    torch.manual_seed(config.seed)
    variants = features.variants or 1
    tuned = config.fit.epochs > 0 and network.frozen < len(network.backbone.stages)
    features.prepare(data.val, 1)
    features.prepare(data.train, variants if tuned else 1)
    run = _Run(network, features, data, config.fit)
    probe, history = run.probe()
    kept = 0
    if tuned:
        order = np.random.default_rng(config.seed)
        kept = run.fine_tune(order, history)
    network.eval()
    logits, _ = run.outputs(data.val)
    _check_alive(logits, data.val)
    return Fitted(network.cpu(), history, kept, probe.penalty, logits.cpu())


class _Run:
    """One fit: what the probe and the epochs share."""

    def __init__(
        self, network: Network, features: Features, data: Dataset, config: FitConfig
    ) -> None:
        self.network = network
        self.features = features
        self.data = data
        self.config = config
        self.device = network.head.weight.device
        self.labels = torch.tensor([item.label for item in data.train], device=self.device)
        self.weights = torch.tensor(_weights(data, config), device=self.device)
        self.val_labels = torch.tensor([item.label for item in data.val], device=self.device)
        self.trains_statistics = config.batch_norm == "train" or (
            config.batch_norm == "auto" and network.backbone.weights_sha256 is None
        )

    @torch.no_grad()
    def outputs(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """Logits (n, classes) and embeddings (n, width) of the images as they are (variant 0)."""
        self.network.eval()
        embeddings = [
            self.network.embed(self.features.batch([(item.sha256, 0) for item in part]))
            for part in _parts(items, _EVALUATION_BATCH)
        ]
        embedding = torch.cat(embeddings)
        return self.network.head(embedding), embedding

    def probe(self) -> tuple[Probe, list[Epoch]]:
        """Fits the head on the pretrained embeddings and puts it into the network."""
        started = time.perf_counter()
        train = self.outputs(self.data.train)[1]
        val = self.outputs(self.data.val)[1]
        classes = self.network.head.out_features
        probe = fit_probe(
            (train, self.labels, self.weights),
            (val, self.val_labels),
            classes,
            self.config.probe_penalty,
        )
        with torch.no_grad():
            self.network.head.weight.copy_(probe.weight)
            self.network.head.bias.copy_(probe.bias)
            loss = F.cross_entropy(self.network.head(train), self.labels).item()
        seconds = time.perf_counter() - started
        return probe, [Epoch(0, loss, probe.val_loss, probe.val_accuracy, 0.0, seconds)]

    def fine_tune(self, random: np.random.Generator, history: list[Epoch]) -> int:
        """Runs the epochs, leaves the kept weights in the network; returns the kept epoch."""
        config = self.config
        optimiser = recipe.optimiser(self.network, config)
        average = recipe.MovingAverage(self.network, config.ema)
        best, best_state = 0, _copy(self.network)
        steps = -(-len(self.data.train) // config.batch_size) * config.epochs
        step = 0
        for epoch in range(1, config.epochs + 1):
            started = time.perf_counter()
            total = 0.0
            for inputs, places in self._epoch(random, epoch):
                share = recipe.rate_at(step, steps, config.warm_up)
                recipe.set_rates(optimiser, share)
                total += self._step(optimiser, inputs, places, epoch) * len(places)
                average.update(self.network)
                step += 1
            raw = _copy(self.network)
            self.network.load_state_dict(average.state())
            loss, accuracy = self._validate()
            history.append(
                Epoch(
                    epoch=epoch,
                    train_loss=total / len(self.data.train),
                    val_loss=loss,
                    val_accuracy=accuracy,
                    learning_rate=config.learning_rate * share,
                    seconds=time.perf_counter() - started,
                )
            )
            if config.keep == "last" or loss < history[best].val_loss:
                best, best_state = epoch, _copy(self.network)
            self.network.load_state_dict(raw)
            if config.patience and epoch - best >= config.patience:
                break
        self.network.load_state_dict(best_state)
        return best

    def _epoch(self, random: np.random.Generator, epoch: int) -> Iterator[tuple[Tensor, list[int]]]:
        """Batches of inputs with their places in train, the next one read ahead by a thread."""
        train = self.data.train
        order = random.permutation(len(train)).tolist()
        count = self.features.variants
        if count is None:
            numbers = [epoch] * len(train)  # a fresh variant for each epoch
        else:
            numbers = random.integers(0, count, len(train)).tolist()
        batches = list(_parts(order, self.config.batch_size))

        def read(places: list[int]) -> Tensor:
            return self.features.batch([(train[i].sha256, numbers[i]) for i in places])

        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(read, batches[0])
            for index, places in enumerate(
                progress(batches, description=f"epoch {epoch}", unit="batches")
            ):
                inputs = ahead.result()
                if index + 1 < len(batches):
                    ahead = reader.submit(read, batches[index + 1])
                yield inputs, places

    def _step(
        self, optimiser: torch.optim.Optimizer, inputs: Tensor, places: list[int], epoch: int
    ) -> float:
        self.network.train()
        self.network.backbone.stages[: self.network.frozen].eval()
        # Statistics over a single image are no statistics (and torch refuses them).
        if not self.trains_statistics or len(places) == 1:
            recipe.freeze_statistics(self.network)
        embedding = F.dropout(self.network.embed(inputs), self.config.dropout)
        each = F.cross_entropy(
            self.network.head(embedding),
            self.labels[places],
            reduction="none",
            label_smoothing=self.config.label_smoothing,
        )
        loss = (each * self.weights[places]).mean()
        if not torch.isfinite(loss):
            raise RefusedError(
                f"training diverged: the loss is {loss.item()} in epoch {epoch}; lower "
                "fit.learning_rate or fit.body_ratio"
            )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        optimiser.step()
        return loss.item()

    def _validate(self) -> tuple[float, float]:
        logits, _ = self.outputs(self.data.val)
        loss = F.cross_entropy(logits, self.val_labels).item()
        return loss, (logits.argmax(1) == self.val_labels).float().mean().item()


def _weights(data: Dataset, config: FitConfig) -> list[float]:
    """One weight per train image, 1 on average."""
    counts = Counter(item.label for item in data.train)
    balanced = config.class_weights == "balanced"
    weights = [item.weight / (counts[item.label] if balanced else 1.0) for item in data.train]
    mean = sum(weights) / len(weights)
    if mean <= 0:
        raise RefusedError("every train image has weight 0; nothing can be learned")
    return [weight / mean for weight in weights]


def _check_alive(logits: Tensor, val: Sequence[Item]) -> None:
    """Raises RefusedError for a network that is broken beyond doubt; the gate judges the rest."""
    if not bool(torch.isfinite(logits).all()):
        raise RefusedError(
            "training diverged: the network answers with NaN or infinity; lower fit.learning_rate"
        )
    answers = set(logits.argmax(1).tolist())
    missed = sum(item.label not in answers for item in val)
    if len(answers) == 1 and missed >= _ENOUGH_MISSED:
        raise RefusedError(
            f"training collapsed: all {len(val)} val images get the same class, and {missed} of "
            "them are of others. Lower fit.learning_rate, use pretrained backbone.weights, or set "
            "fit.class_weights=balanced"
        )


def _copy(network: Network) -> dict[str, Any]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _parts(items: Sequence[Any], size: int) -> Iterator[Any]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
