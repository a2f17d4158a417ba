"""Temperature, and that the thresholds are those of the configured method."""

import numpy as np
import pytest

from visionloop_training.calibrate import calibrate
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


def test_the_method_decides_what_the_threshold_promises():
    random = np.random.default_rng(3)
    logits = random.normal(size=(500, 3)) * 2
    labels = np.array([random.choice(3, p=row) for row in softmax(logits)])
    wanted = calibrate(logits, labels, NotSureConfig(target_accuracy=0.8))
    assert wanted.sets is None
    assert wanted.answered_accuracy >= 0.8
    config = NotSureConfig(method="conformal", conformal_coverage=0.9)
    conformal = calibrate(logits, labels, config)
    assert conformal.sets.coverage == 0.9
    assert conformal.not_sure == conformal.sets.not_sure
