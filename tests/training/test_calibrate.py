"""Temperature and the "not sure" threshold."""

import numpy as np
import pytest

from visionloop_training.calibrate import calibrate, not_sure_threshold
from visionloop_training.config import NotSureConfig
from visionloop_training.metrics import softmax


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(true_temperature: float):
    random = np.random.default_rng(1)
    logits = random.normal(size=(6000, 3)) * 3
    chances = softmax(logits / true_temperature)
    labels = np.array([random.choice(3, p=row) for row in chances])
    found = calibrate(logits, labels, NotSureConfig())
    assert found.temperature == pytest.approx(true_temperature, rel=0.1)
    assert found.loss_after <= found.loss_before + 1e-9
    assert found.ece_after < 0.03
    if true_temperature == 3.0:
        assert found.ece_after < found.ece_before / 3


@pytest.mark.parametrize("n", [4, 20, 300])
@pytest.mark.parametrize("gap", [0.5, 4.0, 20.0])
def test_a_val_split_without_a_mistake_is_no_proof_that_there_are_none(n: int, gap: float):
    labels = np.arange(n) % 2
    logits = np.where(np.arange(2) == labels[:, None], gap, 0.0)
    found = calibrate(logits, labels, NotSureConfig())
    confidence = softmax(logits / found.temperature).max(axis=1)
    assert confidence.mean() == pytest.approx((n + 1) / (n + 2), abs=1e-3)
    assert found.not_sure == 0.0


def test_the_threshold_reaches_the_target_on_what_it_answers():
    random = np.random.default_rng(2)
    confidence = random.uniform(0.5, 1.0, 400)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = (random.uniform(size=400) > confidence).astype(int)
    config = NotSureConfig(target_accuracy=0.9, min_coverage=0.1)
    threshold = not_sure_threshold(probabilities, labels, config)
    answered = confidence >= threshold
    assert (labels[answered] == 0).mean() >= 0.9
    # it is the lowest: letting in any longer tail misses the target
    for lower in np.sort(confidence[~answered])[::-1]:
        assert (labels[confidence >= lower] == 0).mean() < 0.9


def test_a_model_that_is_always_right_refuses_nothing():
    probabilities = np.array([[0.6, 0.4], [0.2, 0.8]])
    assert not_sure_threshold(probabilities, np.array([0, 1]), NotSureConfig()) == 0.0


def test_coverage_has_a_floor_when_the_target_is_out_of_reach():
    confidence = np.linspace(0.51, 0.99, 100)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.ones(100, dtype=int)  # never right
    config = NotSureConfig(target_accuracy=0.99, min_coverage=0.3)
    threshold = not_sure_threshold(probabilities, labels, config)
    assert (confidence >= threshold).mean() == pytest.approx(0.3, abs=0.011)


def test_one_confidence_for_all_is_answered_or_not_as_a_whole():
    probabilities = np.tile([0.7, 0.3], (10, 1))
    labels = np.array([0] * 5 + [1] * 5)
    threshold = not_sure_threshold(probabilities, labels, NotSureConfig())
    assert (probabilities.max(axis=1) >= threshold).all()
