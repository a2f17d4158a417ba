"""Collapse is said where there is evidence, and only there."""

import pytest
import torch

from visionloop.errors import RefusedError
from visionloop_training.recipe.collapse import (
    CollapsedError,
    DivergedError,
    check_against_probe,
    check_alive,
)


def answers(of_class_0: int, of_class_1: int) -> torch.Tensor:
    return torch.cat([torch.tensor([[1.0, 0.0]] * of_class_0), torch.eye(2)[[1] * of_class_1]])


def test_one_answer_for_everything_is_a_collapse_from_ten_missed_on():
    labels = torch.tensor([0] * 30 + [1] * 10)
    with pytest.raises(CollapsedError, match="all 40 val images get the same class, and 10"):
        check_alive(answers(40, 0), labels)
    check_alive(answers(39, 1), labels)
    check_alive(answers(39, 0), labels[:39])  # nine missed prove nothing


def test_numbers_that_are_none_are_divergence():
    logits = answers(5, 5)
    logits[3, 1] = torch.nan
    with pytest.raises(DivergedError, match=r"lower fit\.learning_rate"):
        check_alive(logits, torch.zeros(10))
    assert issubclass(DivergedError, RefusedError)


def test_far_below_the_probe_is_a_collapse_and_a_little_is_not():
    with pytest.raises(CollapsedError, match=r"reaches 60\.0% on val, the linear probe 95\.0%"):
        check_against_probe(0.95, 0.60, 200)
    check_against_probe(0.95, 0.88, 200)
    check_against_probe(0.95, 0.60, 4)  # four images cannot tell
    check_against_probe(0.5, 0.9, 200)


def test_of_several_classes_no_to_all_is_an_answer_and_the_same_logits_are_none():
    truth = torch.zeros(40, 3)
    truth[:2] = 1.0
    logits = torch.full((40, 3), -5.0)
    with pytest.raises(CollapsedError, match="all 40 val images get the same answer"):
        check_alive(logits, truth)
    logits[7, 2] -= 0.1
    check_alive(logits, truth)
