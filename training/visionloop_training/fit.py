"""Linear probe, then fine-tuning from its head with discriminative learning rates.

The loop is plain: an order of (image, variant) pairs per epoch that seed and epoch decide, the next
batch read by one thread while this one is computed, one optimiser step, the average updated. Same
snapshot, same configuration, same machine: same weights, bit for bit, on a CPU, however often the
run was killed and went on from a checkpoint.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

from visionloop.errors import RefusedError
from visionloop.failpoints import failpoint
from visionloop.telemetry import progress
from visionloop_training import recipe
from visionloop_training.checkpoint import Checkpoint, Checkpoints
from visionloop_training.config import FitConfig, TrainingConfig
from visionloop_training.data import Dataset, Item
from visionloop_training.distributed import Workers, tree_sum
from visionloop_training.features import Features
from visionloop_training.heads import fit_probe
from visionloop_training.network import Network
from visionloop_training.order import epoch_pairs, seed_step
from visionloop_training.stop import Stop
from visionloop_training.watch import Watch

_log = logging.getLogger(__name__)
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


@dataclass(frozen=True, slots=True)
class _Slice:
    """A part of a batch: `inputs` (n, …) and their places in train; None where it is empty."""

    number: int
    inputs: Tensor | None
    places: list[int]


@dataclass(slots=True)
class _Progress:
    """How far fine-tuning is: plain JSON, the checkpoint's facts."""

    probe_penalty: float
    history: list[Epoch]
    epoch: int = 1
    taken: int = 0  # images of this epoch
    step: int = 0  # optimiser steps in all
    average_steps: int = 0
    total: float = 0.0  # loss over this epoch's images
    best: int = 0  # epoch
    over: bool = False

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def of(cls, facts: dict[str, Any]) -> "_Progress":
        """From a checkpoint."""
        history = [Epoch(**epoch) for epoch in facts["history"]]
        return cls(**{**facts, "history": history})


def fit(
    network: Network,
    features: Features,
    data: Dataset,
    config: TrainingConfig,
    checkpoints: Checkpoints | None = None,
    stop: Stop | None = None,
    workers: Workers | None = None,
    watch: Watch | None = None,
) -> Fitted:
    """Trains `network` in place, from the last checkpoint where there is one.

    Raises RefusedError when training diverges or collapses, and PreemptedError when told to stop:
    then a checkpoint was written.
    """
    torch.manual_seed(config.seed)
    variants = features.variants or 1
    tuned = config.fit.epochs > 0 and network.frozen < len(network.backbone.stages)
    features.prepare(data.val, 1)
    features.prepare(data.train, variants if tuned else 1)
    run = _Run(
        network, features, data, config, checkpoints, stop or Stop(), workers or Workers(),
        watch or Watch(),
    )  # fmt: skip
    state = run.fine_tune() if tuned else run.probe()
    network.eval()
    logits, _ = run.outputs(data.val)
    _check_alive(logits, data.val)
    return Fitted(network.cpu(), state.history, state.best, state.probe_penalty, logits.cpu())


class _Run:
    """One fit: what the probe and the epochs share."""

    def __init__(
        self,
        network: Network,
        features: Features,
        data: Dataset,
        config: TrainingConfig,
        checkpoints: Checkpoints | None,
        stop: Stop,
        workers: Workers,
        watch: Watch,
    ) -> None:
        workers.check_slices(config.fit.slices)
        self.workers = workers
        self.watch = watch
        self.network = network
        self.features = features
        self.data = data
        self.seed = config.seed
        self.config = config.fit
        self.checkpoints = checkpoints
        self.stop = stop
        self.device = network.head.weight.device
        self.labels = torch.tensor([item.label for item in data.train], device=self.device)
        self.weights = torch.tensor(image_weights(data, self.config), device=self.device)
        self.val_labels = torch.tensor([item.label for item in data.val], device=self.device)
        self.trains_statistics = self.config.batch_norm == "train" or (
            self.config.batch_norm == "auto" and network.backbone.weights_sha256 is None
        )

    @torch.no_grad()
    def outputs(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """Logits (n, classes) and embeddings (n, width) of the images as they are (variant 0)."""
        self.network.eval()
        parts = list(_parts(items, _EVALUATION_BATCH))

        def embed(part: int) -> Tensor:
            return self.network.embed(self.features.batch([(i.sha256, 0) for i in parts[part]]))

        embedding = torch.cat(self.workers.gather(len(parts), embed))
        return self.network.head(embedding), embedding

    def probe(self) -> _Progress:
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
            self.workers.agree(self.network.head)
            loss = F.cross_entropy(self.network.head(train), self.labels).item()
        seconds = time.perf_counter() - started
        first = Epoch(0, loss, probe.val_loss, probe.val_accuracy, 0.0, seconds)
        self.watch.epoch(first)
        return _Progress(probe.penalty, [first])

    def fine_tune(self) -> _Progress:
        """Runs what is left of the epochs; leaves the kept weights in the network."""
        optimiser = recipe.optimiser(self.network, self.config)
        found = self.checkpoints.latest() if self.checkpoints else None
        state = self.probe() if found is None else _Progress.of(found.facts)
        average = recipe.MovingAverage(self.network, self.config.ema)
        best = _copy(self.network)
        if found is not None:
            _log.info("going on from the checkpoint of step %d", found.step)
            best = recipe.restore(found.tensors, self.network, optimiser, average)
            average.steps = state.average_steps
        while not state.over:
            started = time.perf_counter()
            self.watch.begin(state.epoch)
            for size, slices in self._batches(state):
                self._learn(state, optimiser, slices, size)
                average.update(self.network)
                state.average_steps = average.steps
                self._keep(state, optimiser, average, best)
            self.watch.steps_done()
            self.workers.agree(self.network)  # on the statistics of batch norms
            raw = _copy(self.network)
            self.network.load_state_dict(average.state())
            self.workers.agree(self.network)
            self._close_epoch(state, started)
            if state.best == state.epoch:
                best = _copy(self.network)
            self.network.load_state_dict(raw)
            self._next_epoch(state)
        self.network.load_state_dict(best)
        return state

    def _learn(
        self,
        state: _Progress,
        optimiser: torch.optim.Optimizer,
        slices: list[_Slice],
        size: int,
    ) -> None:
        """One step on a batch of `size` images, of which these slices are ours."""
        recipe.set_rates(optimiser, self._share(state.step))
        trained = [p for group in optimiser.param_groups for p in group["params"]]
        terms = [self._gradients(trained, one, size, state.step) for one in slices]
        *gradients, loss = tree_sum(terms)
        self.workers.add_up([*gradients, loss])
        if not torch.isfinite(loss):
            raise RefusedError(
                f"training diverged: the loss is {loss.item()} in epoch {state.epoch}; lower "
                "fit.learning_rate or fit.body_ratio"
            )
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(trained, self.config.clip_norm)
        optimiser.step()
        state.total += loss.item() * size
        state.taken += size
        state.step += 1
        self.watch.step(state.step, size)
        failpoint("fit.step")

    def _share(self, step: int) -> float:
        """Of the peak rate."""
        steps = -(-len(self.data.train) // self.config.batch_size) * self.config.epochs
        return recipe.rate_at(step, steps, self.config.warm_up)

    def _keep(
        self,
        state: _Progress,
        optimiser: torch.optim.Optimizer,
        average: recipe.MovingAverage,
        best: dict[str, Tensor],
    ) -> None:
        """Saves a checkpoint when it is time, and stops when told to."""
        if self.workers.any(self.stop.told):
            self.stop.tell()
        saves = self.checkpoints if self.workers.leads else None
        if saves and (self.stop.told or saves.due):
            tensors = recipe.copied(self.network, optimiser, average, best)
            saves.save(Checkpoint(state.step, tensors, state.facts()))
            if self.stop.told:
                saves.flush()
        self.stop.check(f"after step {state.step} of epoch {state.epoch}")

    def _close_epoch(self, state: _Progress, started: float) -> None:
        """Judges the averaged weights, which are in the network now."""
        loss, accuracy = self._validate()
        state.history.append(
            Epoch(
                epoch=state.epoch,
                train_loss=state.total / len(self.data.train),
                val_loss=loss,
                val_accuracy=accuracy,
                learning_rate=self.config.learning_rate * self._share(state.step - 1),
                seconds=time.perf_counter() - started,
            )
        )
        self.watch.epoch(state.history[-1])
        if self.config.keep == "last" or loss < state.history[state.best].val_loss:
            state.best = state.epoch

    def _next_epoch(self, state: _Progress) -> None:
        patience = self.config.patience
        tired = bool(patience) and state.epoch - state.best >= patience
        state.over = tired or state.epoch == self.config.epochs
        state.epoch, state.taken, state.total = state.epoch + 1, 0, 0.0

    def _batches(self, state: _Progress) -> Iterator[tuple[int, list[_Slice]]]:
        """What is left of the epoch: each batch's size and our slices of it, read one ahead."""
        train = self.data.train
        digests = [item.sha256 for item in train]
        order = epoch_pairs(self.seed, state.epoch, digests, self.features.variants)
        batches = list(_parts(order[state.taken :], self.config.batch_size))
        if not batches:
            return  # the checkpoint is of the epoch's last step

        def read(pairs: list[tuple[int, int]]) -> list[_Slice]:
            return [self._read(number, _cut(pairs, number, self.config.slices)) for number in own]

        own = self.workers.own(self.config.slices)
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(read, batches[0])
            for index, pairs in enumerate(
                progress(batches, description=f"epoch {state.epoch}", unit="batches")
            ):
                with self.watch.waiting():
                    slices = ahead.result()
                if index + 1 < len(batches):
                    ahead = reader.submit(read, batches[index + 1])
                yield len(pairs), slices

    def _read(self, number: int, pairs: list[tuple[int, int]]) -> _Slice:
        wanted = [(self.data.train[place].sha256, variant) for place, variant in pairs]
        inputs = self.features.batch(wanted) if wanted else None
        return _Slice(number, inputs, [place for place, _ in pairs])

    def _gradients(
        self, trained: list[Parameter], one: _Slice, size: int, step: int
    ) -> list[Tensor]:
        """The gradients of a slice's share of the batch's mean loss; that share comes last."""
        if one.inputs is None:
            return [*(torch.zeros_like(p) for p in trained), torch.zeros((), device=self.device)]
        self.network.train()
        self.network.backbone.stages[: self.network.frozen].eval()
        # Statistics over a single image are no statistics (and torch refuses them).
        if not self.trains_statistics or len(one.places) == 1:
            recipe.freeze_statistics(self.network)
        seed_step(self.seed, step, one.number)
        with recipe.statistics_kept(self.network, keep=one.number > 0):
            embedding = F.dropout(self.network.embed(one.inputs), self.config.dropout)
            each = F.cross_entropy(
                self.network.head(embedding),
                self.labels[one.places],
                reduction="none",
                label_smoothing=self.config.label_smoothing,
            )
            loss = (each * self.weights[one.places]).sum() / size
            gradients = torch.autograd.grad(
                loss, trained, allow_unused=True, materialize_grads=True
            )
        return [*gradients, loss.detach()]

    def _validate(self) -> tuple[float, float]:
        logits, _ = self.outputs(self.data.val)
        loss = F.cross_entropy(logits, self.val_labels).item()
        return loss, (logits.argmax(1) == self.val_labels).float().mean().item()


def image_weights(data: Dataset, config: FitConfig) -> list[float]:
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


def _cut(pairs: list[tuple[int, int]], number: int, slices: int) -> list[tuple[int, int]]:
    """The slice `number` of so many, as equal as they can be; the first ones are the larger."""
    each = -(-len(pairs) // slices)
    return pairs[number * each : (number + 1) * each]


def _copy(network: Network) -> dict[str, Any]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _parts(items: Sequence[Any], size: int) -> Iterator[Any]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
