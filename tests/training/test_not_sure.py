"""When "not sure" is said: target accuracy, conformal sets, and images that are unlike val's."""

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionloop_training import not_sure
from visionloop_training.config import NotSureConfig
from visionloop_training.metrics import Floats, Integers, softmax


def test_the_threshold_reaches_the_target_on_what_it_answers():
    random = np.random.default_rng(2)
    confidence = random.uniform(0.5, 1.0, 400)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = (random.uniform(size=400) > confidence).astype(int)
    config = NotSureConfig(target_accuracy=0.9, min_coverage=0.1)
    threshold = not_sure.threshold(probabilities, labels, config)
    answered = confidence >= threshold
    assert (labels[answered] == 0).mean() >= 0.9
    # it is the lowest: letting in any longer tail misses the target
    for lower in np.sort(confidence[~answered])[::-1]:
        assert (labels[confidence >= lower] == 0).mean() < 0.9


def test_a_model_that_is_always_right_refuses_nothing():
    probabilities = np.array([[0.6, 0.4], [0.2, 0.8]])
    assert not_sure.threshold(probabilities, np.array([0, 1]), NotSureConfig()) == 0.0


def test_coverage_has_a_floor_when_the_target_is_out_of_reach():
    confidence = np.linspace(0.51, 0.99, 100)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.ones(100, dtype=int)  # never right
    config = NotSureConfig(target_accuracy=0.99, min_coverage=0.3)
    threshold = not_sure.threshold(probabilities, labels, config)
    assert (confidence >= threshold).mean() == pytest.approx(0.3, abs=0.011)


def test_one_confidence_for_all_is_answered_or_not_as_a_whole():
    probabilities = np.tile([0.7, 0.3], (10, 1))
    labels = np.array([0] * 5 + [1] * 5)
    threshold = not_sure.threshold(probabilities, labels, NotSureConfig())
    assert (probabilities.max(axis=1) >= threshold).all()


def drawn(random: np.random.Generator, n: int, classes: int) -> tuple[Floats, Integers]:
    """Answers of a model that is surer than it may be."""
    logits = random.normal(size=(n, classes)) * 1.5
    sums = softmax(logits).cumsum(axis=1)
    labels = (random.uniform(size=(n, 1)) > sums).sum(axis=1).clip(0, classes - 1)
    return softmax(2.5 * logits), labels


@pytest.mark.parametrize("score", ["lac", "aps"])
@pytest.mark.parametrize(("n", "classes", "coverage"), [(40, 2, 0.8), (200, 3, 0.9), (99, 8, 0.95)])
def test_conformal_sets_hold_the_class_as_often_as_promised(
    score: str, n: int, classes: int, coverage: float
):
    """Over many val splits the mean coverage of new images is at least what was asked for, even of
    a model whose probabilities are far off."""
    random = np.random.default_rng(4)
    held, wrong_and_sure = [], []
    for _ in range(150):
        sets = not_sure.fit_sets(*drawn(random, n, classes), score, coverage)
        probabilities, labels = drawn(random, 400, classes)
        inside = sets.sets(probabilities)
        held.append(inside[np.arange(400), labels].mean())
        sure = probabilities.max(axis=1) >= sets.not_sure
        wrong_and_sure.append((sure & (probabilities.argmax(axis=1) != labels)).mean())
        assert (inside[sure].sum(axis=1) == 1).all()
    error = 3 * np.std(held) / np.sqrt(len(held))
    assert np.mean(held) >= coverage - error
    if score == "lac":  # aps rounds up to whole classes
        assert np.mean(held) <= coverage + 1 / (n + 1) + error
    assert np.mean(wrong_and_sure) <= 1 - coverage + error


@given(
    quantile=st.floats(0.01, 1.0),
    score=st.sampled_from(["lac", "aps"]),
    logits=st.lists(st.floats(-6, 6), min_size=2, max_size=6),
)
def test_from_the_threshold_on_there_is_one_class(quantile: float, score: str, logits: list[float]):
    sets = not_sure.PredictionSets(score, 0.9, quantile)
    probabilities = softmax(np.array([logits]))
    if probabilities.max() >= sets.not_sure and probabilities.max() < 1.0:
        assert sets.sets(probabilities).sum() == 1


@pytest.mark.parametrize("score", ["lac", "aps"])
def test_too_few_val_images_for_the_promise_say_so_and_answer_nothing(score: str, caplog):
    with caplog.at_level(logging.WARNING):
        sets = not_sure.fit_sets(*drawn(np.random.default_rng(5), 10, 3), score, 0.95)
    assert "needs 19 val images, there are 10" in caplog.text
    assert sets.not_sure == 1.0
    assert sets.sets(drawn(np.random.default_rng(6), 50, 3)[0]).all()


def test_the_distance_limit_lets_the_familiar_share_pass():
    random = np.random.default_rng(7)
    passed = []
    for _ in range(300):
        limit = not_sure.distance_limit(random.normal(size=150), 0.95)
        passed.append((random.normal(size=500) <= limit).mean())
    assert np.mean(passed) == pytest.approx(0.95, abs=0.005)
    few = random.normal(size=20)
    assert not_sure.distance_limit(few, 0.99) == pytest.approx(few.max(), abs=1e-5)
