"""The gate's statistics against textbook values, and its rules on hand-made answers."""

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from visionloop_training import gate
from visionloop_training.config import GateConfig
from visionloop_training.data import Item
from visionloop_training.evaluate import Scored, evaluate

CLASSES = ("cat", "dog")
SOFT = GateConfig(policy="not-significantly-worse", alpha=0.05)
HARD = GateConfig(policy="non-inferior", margin=0.02, alpha=0.05)


def scored(right: list[bool], labels: list[int] | None = None, columns: int = 2) -> Scored:
    labels = labels or [index % 2 for index in range(len(right))]
    rows = []
    for hit, label in zip(right, labels, strict=True):
        answer = label if hit else 1 - label
        rows.append([0.9 if column == answer else 0.1 for column in range(columns)])
    items = tuple(
        Item(f"{index:064x}", label, f"group-{index}", (), 1.0)
        for index, label in enumerate(labels)
    )
    return Scored(items, np.array(rows))


def pair(both: int, candidate: int, stable: int, neither: int) -> tuple[Scored, Scored]:
    mine = [True] * both + [True] * candidate + [False] * stable + [False] * neither
    theirs = [True] * both + [False] * candidate + [True] * stable + [False] * neither
    return scored(mine), scored(theirs)


def verdict(counts: tuple[int, int, int, int], config: GateConfig, **changes) -> gate.Verdict:
    mine, theirs = pair(*counts)
    opponent = gate.Opponent(
        version=3,
        scored=theirs,
        class_ids=changes.get("class_ids", CLASSES),
        seen=changes.get("seen", frozenset()),
    )
    return gate.decide(mine, evaluate(mine, CLASSES), CLASSES, frozenset(), opponent, config)


def test_exact_mcnemar_is_the_binomial_tail():
    assert gate.mcnemar_worse(3, 12) == pytest.approx(binom.cdf(3, 15, 0.5))
    assert gate.mcnemar_worse(0, 0) == 1.0


def test_the_score_test_without_a_margin_is_mcnemars():
    b, c = 30, 18
    z = (b - c) / math.sqrt(b + c)
    assert gate.non_inferiority(b, c, 500, 0.0) == pytest.approx(norm.sf(z))


@pytest.mark.parametrize(("b", "c", "n"), [(10, 4, 200), (4, 10, 200), (0, 3, 50), (0, 0, 80)])
def test_the_bound_is_the_test_inverted(b: int, c: int, n: int):
    bound = gate.lower_bound(b, c, n, 0.05)
    assert bound <= (b - c) / n
    assert gate.non_inferiority(b, c, n, -bound) == pytest.approx(0.05, abs=1e-3)


def test_not_significantly_worse():
    passed = verdict((150, 10, 14, 26), SOFT)
    assert passed.passed
    assert passed.p_value == pytest.approx(binom.cdf(10, 24, 0.5))
    assert (passed.candidate_accuracy, passed.stable_accuracy) == (160 / 200, 164 / 200)
    refused = verdict((150, 2, 20, 28), SOFT)
    assert not refused.passed
    assert "significantly worse" in refused.reason
    assert refused.smallest_visible_difference == pytest.approx(2.49 * math.sqrt(22 / 200 / 200))
    assert f"{100 * refused.smallest_visible_difference:.1f} points" in refused.reason


def test_non_inferior_needs_evidence_not_only_a_better_estimate():
    few = verdict((80, 3, 2, 15), HARD)
    assert few.difference > 0
    assert not few.passed
    many = verdict((8000, 300, 200, 1500), HARD)
    assert many.passed
    assert many.difference_lower_bound > -0.02
    assert few.difference_lower_bound < -0.02


def test_images_of_groups_that_a_model_has_seen_take_no_part():
    groups = frozenset(f"group-{index}" for index in range(150, 172))
    judged = verdict((150, 2, 20, 28), SOFT, seen=groups)
    assert judged.excluded_images == 22
    assert judged.images == 178
    assert (judged.only_candidate_right, judged.only_stable_right) == (0, 0)


def test_images_that_the_stable_version_learned_from_another_dataset_take_no_part():
    images = frozenset(f"{index:064x}" for index in range(10))
    assert verdict((150, 2, 20, 28), SOFT, seen=images).excluded_images == 10


def test_a_stable_version_whose_snapshot_is_gone_is_said():
    assert "snapshot is gone" in verdict((50, 1, 1, 5), SOFT, seen=None).notes[0]


def test_the_first_version_must_beat_the_majority():
    good = scored([True] * 70 + [False] * 30)
    lazy = scored([label == 0 for label in [0] * 60 + [1] * 40], [0] * 60 + [1] * 40)
    for answers, expected in ((good, True), (lazy, False)):
        judged = gate.decide(answers, evaluate(answers, CLASSES), CLASSES, frozenset(), None, HARD)
        assert judged.passed is expected
        assert judged.policy == gate.FIRST


def test_added_classes_are_compared_only_where_both_know_them():
    labels = [0] * 40 + [1] * 40 + [2] * 20
    probabilities = np.eye(3)[labels]
    items = tuple(Item(f"{i:064x}", y, f"g{i}", (), 1.0) for i, y in enumerate(labels))
    mine = Scored(items, probabilities)
    theirs = Scored(items, np.eye(2)[[0] * 40 + [1] * 40 + [0] * 20])
    names = ("cat", "dog", "owl")
    opponent = gate.Opponent(1, theirs, ("cat", "dog"), frozenset())
    judged = gate.decide(mine, evaluate(mine, names), names, frozenset(), opponent, SOFT)
    assert judged.images == 80
    assert judged.label_change == gate.LabelChange(["owl"], [], 20)


def test_other_column_orders_are_matched_by_class_id():
    mine, theirs = pair(30, 0, 0, 0)
    swapped = Scored(theirs.items, theirs.probabilities[:, ::-1])
    opponent = gate.Opponent(1, swapped, ("dog", "cat"), frozenset())
    judged = gate.decide(mine, evaluate(mine, CLASSES), CLASSES, frozenset(), opponent, SOFT)
    assert judged.both_right == 30


def test_without_common_classes_the_majority_rule_holds():
    judged = verdict((30, 0, 0, 0), SOFT, class_ids=("owl", "fox"))
    assert judged.policy == gate.FIRST
    assert judged.label_change.removed == ["owl", "fox"]
