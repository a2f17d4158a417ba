"""One optimiser step on a batch: forward, loss, backward in slices, sum, clip, update.

Everything random in a step follows from (seed, step, slice), and sums have a fixed order, so a
step gives the same weights in any number of processes (`distributed`) and after going on from a
checkpoint.
"""

import logging
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

from visionloop.errors import RefusedError
from visionloop_training import targets
from visionloop_training.batches import Slice
from visionloop_training.config import TrainingConfig
from visionloop_training.data import Dataset
from visionloop_training.distributed import Workers, tree_sum
from visionloop_training.network import Network
from visionloop_training.order import seed_step
from visionloop_training.recipe import mixing, optimisers
from visionloop_training.recipe.batch_norms import freeze_statistics, statistics_kept
from visionloop_training.recipe.losses import criterion
from visionloop_training.recipe_config import FitConfig

_log = logging.getLogger(__name__)
_HEAVIEST = 100.0  # of a class's images against the others
_COMPILES_FROM = 3000  # steps; compiling costs about a minute


class Learner:
    """Makes steps on a network of which the lowest `frozen` stages stay as they are."""

    def __init__(
        self, network: Network, data: Dataset, config: TrainingConfig, workers: Workers
    ) -> None:
        self._network = network
        self._workers = workers
        self._seed = config.seed
        self._mixing = config.mixing
        self._config = config.fit
        self.truth = targets.targets(data.train, data).to(network.device)
        # (n, classes), which may be large: it stays here, and a batch's rows go to the device.
        self.soft = targets.soft(data.train, len(data.class_ids))
        self.positives = class_weights(data, config.fit)
        if self.positives is not None:
            self.positives = self.positives.to(network.device)
        several = data.task == "multi_label"
        self._loss = criterion(config.fit, several=several, positives=self.positives)
        self.weights = torch.tensor(image_weights(data, config.fit), device=network.device)
        self._trains_statistics = config.fit.batch_norm == "train" or (
            config.fit.batch_norm == "auto" and network.backbone.weights_sha256 is None
        )
        self._frozen = network.frozen
        self._half = _uses_bfloat16(config.fit, network.device)
        self._embed: Callable[[Tensor], Tensor] = network.embed
        steps = -(-len(data.train) // config.fit.batch_size) * config.fit.epochs
        if _compiles(config.fit, network.device, steps):
            self._embed = torch.compile(network.embed)

    def freeze(self, stages: int) -> None:
        """From now on the lowest `stages` learn nothing."""
        if stages != self._frozen:
            _log.info("stages that learn: %d of %d", len(self._stages) - stages, len(self._stages))
        self._frozen = stages
        for index in range(self._network.frozen, len(self._stages)):
            self._stages[index].requires_grad_(index >= stages)

    def step(
        self, optimiser: torch.optim.Optimizer, slices: list[Slice], size: int, number: int
    ) -> Tensor:
        """Step `number`, on a batch of `size` images of which these slices are ours: its loss ().

        Nothing here waits for a GPU. A loss that is not finite spoils the weights.
        """
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        trained = [p for p in parameters if p.requires_grad]
        *gradients, loss = tree_sum([self._gradients(trained, s, size, number) for s in slices])
        self._workers.add_up([*gradients, loss])
        optimiser.zero_grad()
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(trained, self._config.clip_norm)
        optimisers.add_l1(optimiser)
        optimiser.step()
        return loss

    def _gradients(
        self, trained: list[Parameter], one: Slice, size: int, step: int
    ) -> list[Tensor]:
        """The gradients of a slice's share of the batch's mean loss; that share comes last."""
        if one.inputs is None:
            zero = torch.zeros((), device=self._network.device)
            return [*(torch.zeros_like(p) for p in trained), zero]
        self._ready(len(one.places))
        places = torch.tensor(one.places).to(self._network.device, non_blocking=True)
        if self.soft is None:
            truth = targets.rows(self.truth[places], self._network.classes)
        else:
            truth = self.soft[one.places].to(self._network.device, non_blocking=True)
        seed_step(self._seed, step, one.number)
        inputs, truth, weights = mixing.mixed(
            self._mixing,
            (self._seed, step, one.number),
            one.inputs,
            truth,
            self.weights[places],
        )
        with statistics_kept(self._network, keep=one.number > 0):
            with torch.autocast(self._network.device.type, torch.bfloat16, enabled=self._half):
                embedding = F.dropout(self._embed(inputs), self._config.dropout)
                logits = self._network.head(embedding).float()
            loss = (self._loss(logits, truth) * weights).sum() / size
            gradients = torch.autograd.grad(
                loss, trained, allow_unused=True, materialize_grads=True
            )
        return [*gradients, loss.detach()]

    def _ready(self, images: int) -> None:
        """Train mode, but not for what is frozen."""
        self._network.train()
        self._stages[: self._frozen].eval()
        # Statistics over a single image are no statistics (and torch refuses them).
        if not self._trains_statistics or images == 1:
            freeze_statistics(self._network)

    @property
    def _stages(self) -> torch.nn.ModuleList:
        return self._network.backbone.stages


def image_weights(data: Dataset, config: FitConfig) -> list[float]:
    """One weight per train image, 1 on average.

    Where an image may have several classes they are weighed one by one (`class_weights`) instead.
    """
    counts = Counter(item.label for item in data.train)
    balanced = config.class_weights == "balanced" and data.task == "classification"
    weights = [item.weight / (counts[item.label] if balanced else 1.0) for item in data.train]
    mean = sum(weights) / len(weights)
    if mean <= 0:
        raise RefusedError("every train image has weight 0; nothing can be learned")
    return [weight / mean for weight in weights]


def class_weights(data: Dataset, config: FitConfig) -> Tensor | None:
    """(classes,) what a train image that has a class counts against one that has not, so that both
    kinds count alike: their number without over that with. None: each image counts once.

    At most 100: a class of a few images among many thousands would drown all others.
    """
    if data.task == "classification" or config.class_weights == "none":
        return None
    having = targets.targets(data.train, data).sum(0)
    return ((len(data.train) - having) / having).clamp(1 / _HEAVIEST, _HEAVIEST)


def _uses_bfloat16(config: FitConfig, device: torch.device) -> bool:
    if config.amp == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return config.amp == "bf16"


def _compiles(config: FitConfig, device: torch.device, steps: int) -> bool:
    if config.compile == "auto":
        return device.type == "cuda" and steps >= _COMPILES_FROM
    return config.compile == "on"
