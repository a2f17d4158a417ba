"""The metrics against scikit-learn, and against hand-made cases."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

from visionloop_training import metrics

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 4, 300)
LOGITS = RANDOM.normal(size=(300, 4)) + 1.5 * np.eye(4)[LABELS]


def test_counts_and_scores_are_sklearns():
    predicted = LOGITS.argmax(1)
    matrix = metrics.confusion(LABELS, predicted, 4)
    assert (matrix == confusion_matrix(LABELS, predicted)).all()
    expected = precision_recall_fscore_support(LABELS, predicted)
    found = metrics.counts(matrix)
    ours = (found.precision, found.recall, found.f1, found.support)
    np.testing.assert_allclose(ours, expected)
    assert found.macro(found.f1) == pytest.approx(expected[2].mean())
    assert metrics.log_loss(LOGITS, LABELS) == pytest.approx(
        log_loss(LABELS, metrics.softmax(LOGITS))
    )


def test_a_class_that_is_never_answered_scores_zero_not_nan():
    found = metrics.counts(metrics.confusion(np.array([0, 1, 1]), np.array([0, 0, 0]), 3))
    assert (found.precision[1], found.f1[1]) == (0.0, 0.0)
    # class 2 has no image: it must not pull the average down
    assert found.macro(found.recall) == pytest.approx(0.5)


def test_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    labels = np.array([0, 0, 0, 1, 0])
    # four at 0.9 of which 3/4 are right, one at 0.6 which is right
    expected = 4 / 5 * abs(0.9 - 0.75) + 1 / 5 * abs(0.6 - 1.0)
    assert metrics.expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_the_bins_hold_every_image_once():
    bins = metrics.reliability(metrics.softmax(LOGITS), LABELS)
    assert sum(b.images for b in bins) == len(LABELS)
    assert all(b.low < b.confidence <= b.high + 1e-12 for b in bins)
    certain = metrics.reliability(np.array([[1.0, 0.0]]), np.array([0]))
    assert certain[0].high == 1.0
