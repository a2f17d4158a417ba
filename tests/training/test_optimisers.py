"""Optimisers and rates: who learns how fast, and what no penalty touches."""

import pytest
import timm
import torch
import torchvision
from support.tiny_network import tiny_network
from torch import nn

from visionloop_training import backbones
from visionloop_training.config import load
from visionloop_training.network import Network
from visionloop_training.recipe import optimisers
from visionloop_training.recipe.rates import Rates, kind_of, rates_for


def test_rates_fall_from_stage_to_stage_and_norms_do_not_decay():
    config = load().fit
    backbone, pixels = backbones.build("resnet18", "none", None)
    network = Network(backbone, pixels.preprocessing(64, "squash"), 2, frozen=7)
    groups = optimisers.optimiser(network, config, Rates(1e-3, 0.5, 0.8)).param_groups
    rates = sorted({group["peak"] for group in groups}, reverse=True)
    assert rates == pytest.approx([1e-3, 5e-4, 4e-4])
    trained = sum(p.numel() for g in groups for p in g["params"])
    stages = backbone.stages[7:]
    assert trained == sum(p.numel() for m in (stages, network.head) for p in m.parameters())
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop"])
def test_an_optimiser_goes_on_from_its_tensors(name: str):
    """Also in channels-last memory, which the weights have in training."""
    config = load(overrides=(f"fit.optimiser={name}",))
    networks = [
        tiny_network(config, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for _ in range(2)
    ]
    rates = rates_for(networks[0].backbone, config.fit)
    made = [optimisers.optimiser(network, config.fit, rates) for network in networks]

    def step(which: int, seed: int) -> None:
        torch.manual_seed(seed)
        for parameter in networks[which].parameters():
            parameter.grad = torch.randn_like(parameter)
        made[which].step()

    for seed in range(3):
        step(0, seed)
    networks[1].load_state_dict(networks[0].state_dict())
    optimisers.put_back(made[1], optimisers.tensors_of(made[0]))
    for which in (0, 1):
        step(which, 7)
    for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_l1_penalty_pulls_weights_to_zero_and_leaves_biases():
    config = load(overrides=("fit.l1=0.5", "fit.optimiser=sgd", "fit.weight_decay=0"))
    network = tiny_network(config, 3)
    optimiser = optimisers.optimiser(network, config.fit, Rates(1.0, 1.0, 1.0))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimisers.add_l1(optimiser)
    head = network.head
    assert isinstance(head, nn.Linear)
    assert torch.equal(head.weight.grad, 0.5 * head.weight.sign())
    assert not head.bias.grad.any()
    assert not network.backbone.stages[0][1].weight.grad.any()  # a norm


@pytest.mark.parametrize(
    ("network", "kind"),
    [
        (lambda: torchvision.models.resnet18(), "batch norm"),
        (lambda: torchvision.models.vgg11(), "no norm"),
        (lambda: torchvision.models.vgg11_bn(), "batch norm"),
        (lambda: torchvision.models.vit_b_32(), "layer norm"),
        (lambda: torchvision.models.convnext_tiny(), "layer norm"),
        (lambda: timm.create_model("convnext_atto"), "layer norm"),
        (lambda: timm.create_model("vit_tiny_patch16_224"), "layer norm"),
        (lambda: timm.create_model("tf_efficientnet_lite0"), "batch norm"),
    ],
)
def test_networks_are_told_apart_by_their_norms(network, kind: str):
    with torch.device("meta"):  # no weights are made
        assert kind_of(network()) == kind


def test_what_is_given_by_hand_wins_and_the_rest_is_chosen(caplog: pytest.LogCaptureFixture):
    config = load(overrides=("fit.body_ratio=0.3",)).fit
    with caplog.at_level("INFO"):
        chosen = rates_for(torchvision.models.vgg11(init_weights=False), config)
    assert chosen == Rates(5e-4, 0.3, 0.8)
    assert "no norm" in caplog.text
    assert "5e-04" in caplog.text or "0.0005" in caplog.text
