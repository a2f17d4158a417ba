"""Batch norms in fine-tuning: whose statistics they use, and when they learn new ones."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def freeze_statistics(network: nn.Module) -> None:
    """Batch norms keep their pretrained statistics: small batches of few images spoil them."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@contextmanager
def statistics_kept(network: nn.Module, *, keep: bool) -> Iterator[None]:
    """Batch norms normalise by the batch and, with `keep`, remember nothing of it."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    learning = [norm for norm in norms if norm.training and norm.track_running_stats and keep]
    for norm in learning:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in learning:
            norm.track_running_stats = True
