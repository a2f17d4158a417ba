"""Plans of freeze points: as written, gradual, and never below what is cached."""

import pytest
from support.tiny_network import tiny_backbone

from visionloop.errors import ConfigurationError
from visionloop_training.config import load
from visionloop_training.recipe import freezing


def frozen(epochs: int, *settings: str) -> list[int]:
    """Frozen stages in epoch 1, 2, … of the four: stem, block.0, block.1, pool."""
    config = load(overrides=(f"fit.epochs={epochs}", *settings)).fit
    plan = freezing.plan(tiny_backbone(), config)
    return [freezing.frozen_in(plan, epoch) for epoch in range(1, epochs + 1)]


def test_without_a_plan_all_above_the_freeze_point_learn():
    assert frozen(3) == [0, 0, 0]
    assert frozen(2, "fit.freeze=block.0") == [2, 2]


def test_a_plan_is_followed():
    assert frozen(5, "fit.unfreeze=[[1, 1.0], [3, stem], [4, 0.0]]") == [4, 4, 1, 0, 0]
    assert frozen(4, "fit.freeze=stem", "fit.unfreeze=[[2, block.1]]") == [1, 3, 3, 3]


@pytest.mark.parametrize("epochs", [1, 2, 3, 8, 20])
def test_gradual_goes_down_and_is_done_by_half(epochs: int):
    found = frozen(epochs, "fit.unfreeze=gradual", "fit.freeze=stem")
    assert found == sorted(found, reverse=True)
    assert found[0] == 4
    assert set(found[(epochs + 1) // 2 :]) <= {1}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("fit.freeze=block.0", "fit.unfreeze=[[1, stem]]"), "lies below fit.freeze"),
        (("fit.unfreeze=[[2, stem], [2, 0.0]]",), "epochs must rise"),
        (("fit.unfreeze=[[1, nothing]]",), "has no stage 'nothing'"),
    ],
)
def test_plans_that_cannot_be_followed_are_refused(settings: tuple[str, ...], words: str):
    with pytest.raises(ConfigurationError, match=words) as caught:
        frozen(3, *settings)
    assert caught.value.field == "fit.unfreeze"
