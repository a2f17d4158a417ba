"""The linear probe: multinomial logistic regression on cached embeddings.

Seconds instead of minutes, and the best start for fine-tuning: a head that already fits does not
push noise into the pretrained stages below it. Features are standardised for the fit and the
scaling is folded into the weights afterwards, so the result is a plain linear layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Probe:
    """A fitted head with how well it does on val."""

    weight: Tensor  # (classes, width)
    bias: Tensor  # (classes,)
    penalty: float
    val_loss: float
    val_accuracy: float


def fit_probe(
    train: tuple[Tensor, Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    classes: int,
    penalties: Sequence[float],
) -> Probe:
    """The probe with the lowest val loss over the penalties.

    `train` is embeddings (n, width), labels (n,) and weights (n,); `val` the first two.
    """
    x, y, weights = train
    mean, deviation = x.mean(0), x.std(0, correction=0) + 1e-6
    x = (x - mean) / deviation
    best: Probe | None = None
    for penalty in penalties:
        scaled, offset = _logistic_regression(x, y, weights, classes, penalty)
        weight = scaled / deviation
        bias = offset - weight @ mean
        logits = val[0] @ weight.T + bias
        loss = F.cross_entropy(logits, val[1]).item()
        if best is None or loss < best.val_loss:
            accuracy = (logits.argmax(1) == val[1]).float().mean().item()
            best = Probe(weight, bias, penalty, loss, accuracy)
    if best is None:
        raise ValueError("no penalties given")
    return best


def _logistic_regression(
    x: Tensor, y: Tensor, weights: Tensor, classes: int, penalty: float
) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(classes, x.shape[1], device=x.device, requires_grad=True)
    bias = torch.zeros(classes, device=x.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        each = F.cross_entropy(x @ weight.T + bias, y, reduction="none")
        total = (each * weights).sum() / weights.sum() + penalty * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
