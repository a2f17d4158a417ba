"""Heads on the embedding, and their first fit on cached embeddings: the probe.

Seconds instead of minutes, and the best start for fine-tuning: a head that already fits does not
push noise into the pretrained stages below it. A linear head gets logistic regression by L-BFGS
(multinomial, or one for each class where an image may have several); one with hidden layers is
trained by Adam, keeping its best epoch on val. Embeddings are standardised for the fit and the
scaling is folded into the first layer afterwards, so the result is a plain head.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visionloop_training.recipe_config import HeadConfig
from visionloop_training.targets import log_loss, score

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
_BATCH = 256
_STEPS = 600  # of Adam for each penalty; at least _EPOCHS passes
_EPOCHS = 8
_PATIENCE = 30  # epochs without a lower val loss
_RATE = 1e-3


@dataclass(frozen=True, slots=True)
class HeadFit:
    """How well a fitted head does, and the penalty that was best on val."""

    penalty: float
    train_loss: float
    val_loss: float
    val_accuracy: float  # mean average precision, where an image may have several classes


def build_head(width: int, classes: int, config: HeadConfig) -> nn.Module:
    """From the embedding (batch, width) to logits (batch, classes)."""
    if not config.hidden:
        return nn.Linear(width, classes)
    layers: list[nn.Module] = []
    for size in config.hidden:
        layers.append(nn.Linear(width, size))
        if config.batch_norm:
            layers.append(nn.BatchNorm1d(size))
        layers.append(_ACTIVATIONS[config.activation]())
        if config.dropout:
            layers.append(nn.Dropout(config.dropout))
        width = size
    return nn.Sequential(*layers, nn.Linear(width, classes))


def fit_head(
    head: nn.Module,
    train: tuple[Tensor, Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    penalties: Sequence[float],
    seed: int = 0,
    positives: Tensor | None = None,
    soft: Tensor | None = None,
    *,
    in_place: bool = False,
) -> HeadFit:
    """Fits `head` in place, with the penalty that gives the lowest val loss; leaves it in eval.

    `train` is embeddings (n, width), targets (see `targets`) and weights (n,); `val` the first two.
    `positives` is as in `targets.log_loss`. `soft` (n, classes) are the soft labels of `train`, as
    `targets.soft` gives them: what is then learned in place of its targets.
    `in_place` leaves the standardised embeddings in place of those of `train`: a second copy of a
    million would be 5 GB.
    """
    x, labels, weights = train
    mean, deviation = x.mean(0), _deviation(x)
    scaled_val = ((val[0] - mean) / deviation, val[1])
    x = x.sub_(mean).div_(deviation) if in_place else (x - mean) / deviation
    scaled = (x, labels, weights)
    best: tuple[float, float, float, nn.Module] | None = None
    for penalty in penalties:
        trial = copy.deepcopy(head)
        if isinstance(trial, nn.Linear):
            _regress(trial, scaled, penalty, positives, soft)
        else:
            _train(trial, scaled, scaled_val, penalty, seed, positives, soft)
        val_loss, accuracy = _score(trial, *scaled_val)
        if best is None or val_loss < best[1]:
            best = penalty, val_loss, accuracy, trial
    if best is None:
        raise ValueError("no penalties given")
    penalty, val_loss, accuracy, fitted = best
    head.load_state_dict(fitted.state_dict())
    head.eval()
    first = next(layer for layer in head.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        train_loss = log_loss(head(x), labels, reduction="mean").item()
        first.weight.div_(deviation)
        first.bias.sub_(first.weight @ mean)
    return HeadFit(penalty, train_loss, val_loss, accuracy)


def _deviation(x: Tensor) -> Tensor:
    """(width,) what each of x (n, width) is divided by: 1 where x only differs by rounding.

    Divided by next to nothing, such a number would get weights of millions from the random start
    of a hidden layer, and the first image in which it differs any answer at all.
    """
    spread, largest = x.std(0, correction=0), torch.maximum(x.amax(0), -x.amin(0))
    return torch.where(spread > 1e-6 * largest, spread + 1e-6, 1.0)


def _regress(
    layer: nn.Linear,
    train: tuple[Tensor, Tensor, Tensor],
    penalty: float,
    positives: Tensor | None,
    soft: Tensor | None,
) -> None:
    """Logistic regression, from zero: convex, so where it starts does not matter.

    Of several classes the loss is a mean over them, and so is the penalty: each class gets the
    regression that it would get alone.
    """
    x, labels, weights = train
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    penalty /= labels.shape[1] if labels.ndim == 2 else 1
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        each = _loss(layer(x), labels, positives, soft)
        total = (each * weights).sum() / weights.sum() + penalty * layer.weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(loss)  # type: ignore[no-untyped-call]


def _train(
    head: nn.Module,
    train: tuple[Tensor, Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    penalty: float,
    seed: int,
    positives: Tensor | None,
    soft: Tensor | None,
) -> None:
    """Adam on batches, one order an epoch; the epoch with the lowest val loss stays."""
    x, labels, weights = train
    optimiser = torch.optim.AdamW(head.parameters(), lr=_RATE, weight_decay=penalty)
    batches = -(-len(x) // _BATCH)
    best, lowest, since = _copied(head), float("inf"), 0
    for epoch in range(max(_EPOCHS, _STEPS // batches)):
        torch.manual_seed(seed + epoch)  # dropout's draws and the order
        head.train()
        for batch in torch.randperm(len(x)).to(x.device).tensor_split(batches):
            if len(batch) < 2:
                continue  # batch norm over one image is none
            shares = None if soft is None else soft[batch]
            each = _loss(head(x[batch]), labels[batch], positives, shares)
            loss = (each * weights[batch]).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        val_loss, _ = _score(head, *val)
        if val_loss < lowest:
            best, lowest, since = _copied(head), val_loss, epoch
        if epoch - since >= _PATIENCE:
            break
    head.load_state_dict(best)


def _loss(logits: Tensor, labels: Tensor, positives: Tensor | None, soft: Tensor | None) -> Tensor:
    """(n,) of the soft labels, where there are any."""
    if soft is not None:
        return F.cross_entropy(logits, soft, reduction="none")
    return log_loss(logits, labels, positives)


@torch.no_grad()
def _score(head: nn.Module, x: Tensor, labels: Tensor) -> tuple[float, float]:
    """Loss and accuracy, or mean average precision."""
    head.eval()
    logits = head(x)
    return log_loss(logits, labels, reduction="mean").item(), score(logits, labels)


def _copied(head: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in head.state_dict().items()}
