"""The network in 16 bits (IEEE half precision), for GPUs: half the bytes, and arithmetic several
times as fast.

    pixels      normalised in float32, where a scale like 1/255 loses nothing, then rounded
    backbone    16 bits, weights and values
    head        16 bits
    link        float32, on the logits: a temperature may stretch them, and outputs stay as they are

So its inputs and outputs are those of model.onnx, and a server needs no other code for it. Norms
are folded into the convolutions before them while these are still float32: the exporter would fold
them too, in 16 bits. On photographs, pretrained efficientnet-lite0's embedding is then 0.8 % off
(root mean square) instead of 0.6 %, most of which is the rounding of its weights.
"""

import copy
from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from visionloop_training.links import Link
from visionloop_training.network import Network


class HalfGraph(nn.Module):
    """As `export.Graph`, of a copy of the network whose backbone and head have 16 bits."""

    def __init__(self, network: Network, link: Link, height: int, width: int) -> None:
        """Of images (height, width). The network itself stays as it is."""
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        fold_norms(self.network, torch.zeros((1, height, width, 3), dtype=torch.uint8))
        self.network.backbone.half()
        self.network.head.half()
        self.link = link

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 images -> logits, calibrated probabilities, embedding; all float32."""
        network = self.network
        embedding = network.backbone(network.normalise(images).half())
        logits = network.head(embedding).float()
        return logits, self.link(logits), embedding.float()


@torch.no_grad()
def fold_norms(network: nn.Module, images: Tensor) -> None:
    """Puts each batch norm that directly follows a convolution into its weights, in place.

    Which ones do is seen in one run on `images`. The norm stays as a module and becomes the
    identity, exactly, since some libraries' norms hold the activation as well.
    """
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # by the output's id; kept, so that ids stay
    pairs: list[tuple[nn.Conv2d, _BatchNorm]] = []
    calls: Counter[nn.Module] = Counter()

    def seen(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            made[id(result)] = module, result
        elif isinstance(module, _BatchNorm) and id(given[0]) in made:
            pairs.append((made[id(given[0])][0], module))

    watched = [m for m in network.modules() if isinstance(m, nn.Conv2d | _BatchNorm)]
    hooks = [module.register_forward_hook(seen) for module in watched]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    for convolution, norm in pairs:
        mean, variance = norm.running_mean, norm.running_var
        if calls[convolution] > 1 or calls[norm] > 1 or mean is None or variance is None:
            continue  # what runs twice has one norm here and another there
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, mean, variance, norm.eps, norm.weight, norm.bias
        )
        norm.reset_parameters()  # mean 0, variance 1, weight 1, bias 0
        norm.eps = 1e-12  # nothing beside a variance of 1; older exporters refuse 0
