"""Heads: their layers, and their first fit on embeddings."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visionloop_training import heads
from visionloop_training.config import HeadConfig
from visionloop_training.heads import build_head, fit_head


def rings(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two classes that no line divides: inside and outside a circle; far from zero mean."""
    random = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 2, generator=random)
    labels = (points.norm(dim=1) > 1.18).long()
    return points * torch.tensor([3.0, 0.2]) + torch.tensor([50.0, -7.0]), labels


def fitted(config: HeadConfig) -> tuple[nn.Module, float]:
    torch.manual_seed(0)
    head = build_head(2, 2, config)
    x, y = rings(600, 0)
    found = fit_head(head, (x, y, torch.ones(600)), rings(300, 1), [1e-3])
    return head, found.val_accuracy


def test_without_hidden_layers_it_is_one_linear_layer():
    assert isinstance(build_head(5, 3, HeadConfig()), nn.Linear)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh"])
def test_layers_are_as_configured(activation: str):
    config = HeadConfig(hidden=[8, 4], activation=activation, dropout=0.5, batch_norm=True)
    head = build_head(16, 3, config)
    assert [type(layer).__name__.lower() for layer in head] == [
        *("linear", "batchnorm1d", activation, "dropout") * 2,
        "linear",
    ]
    assert head(torch.randn(5, 16)).shape == (5, 3)


def test_hidden_layers_learn_what_a_line_cannot_divide():
    assert fitted(HeadConfig())[1] < 0.75
    for config in (HeadConfig(hidden=[32]), HeadConfig(hidden=[32], batch_norm=True, dropout=0.1)):
        head, accuracy = fitted(config)
        assert accuracy > 0.92
        x, y = rings(300, 1)
        with torch.no_grad():  # the scaling is folded in: raw embeddings go in
            assert (head(x).argmax(1) == y).float().mean().item() == pytest.approx(accuracy)


def test_the_linear_fit_is_the_optimum():
    torch.manual_seed(0)
    x = torch.randn(400, 6) * torch.tensor([1.0, 5.0, 0.1, 1.0, 1.0, 9.0]) + 3
    y = (x[:, 0] + x[:, 1] > 6).long()
    weights = torch.rand(400)
    head = build_head(6, 2, HeadConfig())
    penalty = 1e-2
    fit_head(head, (x, y, weights), (x, y), [penalty])
    mean, deviation = x.mean(0), x.std(0, correction=0) + 1e-6
    scaled = (head.weight * deviation).detach().requires_grad_()
    offset = (head.bias + head.weight @ mean).detach().requires_grad_()
    each = F.cross_entropy((x - mean) / deviation @ scaled.T + offset, y, reduction="none")
    loss = (each * weights).sum() / weights.sum() + penalty * scaled.square().sum()
    loss.backward()
    assert scaled.grad.abs().max() < 1e-3
    assert offset.grad.abs().max() < 1e-3


def test_a_fit_can_be_repeated(monkeypatch: pytest.MonkeyPatch):
    config = HeadConfig(hidden=[8], dropout=0.2)
    monkeypatch.setattr(heads, "_STEPS", 30)
    first, again = fitted(config)[0], fitted(config)[0]
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert copy.deepcopy(first).state_dict().keys() == first.state_dict().keys()


def test_of_several_classes_each_gets_the_regression_it_would_get_alone():
    torch.manual_seed(0)
    x = torch.randn(300, 5)
    truth = (x[:, :2] + torch.randn(300, 2) > torch.tensor([0.0, 1.0])).float()
    weights, penalty = torch.rand(300), [1e-2]
    together, alone = build_head(5, 2, HeadConfig()), build_head(5, 2, HeadConfig())
    found = fit_head(together, (x, truth, weights), (x, truth), penalty)
    assert 0.7 < found.val_accuracy < 1.0  # mean average precision
    labels = truth[:, 1].long()
    # Two softmax logits share the weights of the sigmoid's one, so their squares are half as much.
    fit_head(alone, (x, labels, weights), (x, labels), [2 * p for p in penalty])
    difference = alone.weight[1] - alone.weight[0]
    torch.testing.assert_close(together.weight[1], difference, atol=2e-3, rtol=1e-2)


def test_a_weight_moves_the_share_of_yeses_of_its_class_alone():
    torch.manual_seed(0)
    x = torch.randn(500, 3)
    truth = (x[:, :2] + torch.randn(500, 2) > 1.5).float()
    plain, weighed = build_head(3, 2, HeadConfig()), build_head(3, 2, HeadConfig())
    for head, positives in ((plain, None), (weighed, torch.tensor([10.0, 1.0]))):
        fit_head(head, (x, truth, torch.ones(500)), (x, truth), [1e-3], positives=positives)
    with torch.no_grad():
        before, after = ((head(x) > 0).float().mean(0) for head in (plain, weighed))
    assert after[0] > 2 * before[0]
    assert after[1].item() == pytest.approx(before[1].item(), abs=0.01)


@pytest.mark.parametrize("constant", [0.0, 0.3])
def test_what_no_train_image_varies_decides_nothing(
    constant: float, monkeypatch: pytest.MonkeyPatch
):
    """A dead number of the embedding that lives in a later image must not drown all others."""
    monkeypatch.setattr(heads, "_STEPS", 30)
    torch.manual_seed(0)
    head = build_head(3, 2, HeadConfig(hidden=[8]))

    def with_constant(points: torch.Tensor, value: float) -> torch.Tensor:
        return torch.cat([points, torch.full((len(points), 1), value)], dim=1)

    (x, y), (val, val_y) = rings(600, 0), rings(300, 1)
    train = with_constant(x, constant), y, torch.ones(600)
    fit_head(head, train, (with_constant(val, constant), val_y), [1e-3])
    with torch.no_grad():
        usual = head(with_constant(val, constant))
        moved = head(with_constant(val, constant + 0.01))
    assert (moved - usual).abs().max() < 0.1


def test_in_place_it_is_the_same_head_and_the_loss_is_that_of_the_raw_embeddings():
    x, y = rings(600, 0)
    given, val, weights = x.clone(), rings(300, 1), torch.ones(600)
    twins = [build_head(2, 2, HeadConfig()) for _ in range(2)]
    kept = fit_head(twins[0], (x, y, weights), val, [1e-3, 1.0])
    assert torch.equal(x, given)
    found = fit_head(twins[1], (x, y, weights), val, [1e-3, 1.0], in_place=True)
    assert found == kept
    assert torch.equal(twins[0].weight, twins[1].weight)
    assert x.mean(0).abs().max() < 1e-4  # standardised
    with torch.no_grad():
        assert F.cross_entropy(twins[1](given), y).item() == pytest.approx(found.train_loss, 1e-4)
