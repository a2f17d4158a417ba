"""The gate's rules on hand-made answers: which images count, which check refuses, in what words."""

import json
import math

import numpy as np
import pytest
from scipy.stats import binom

from visionloop.errors import ConfigurationError
from visionloop_training import config as configuration
from visionloop_training import gate
from visionloop_training.config import GateConfig
from visionloop_training.data import Item
from visionloop_training.evaluate import Scored, evaluate
from visionloop_training.gate_checks import FIRST, Check
from visionloop_training.gate_limits import Costs
from visionloop_training.verdict import Beside, LabelChange, Verdict

CLASSES = ("cat", "dog")
SOFT = GateConfig(policy="not-significantly-worse", alpha=0.05)
HARD = GateConfig(policy="non-inferior", margin=0.02, alpha=0.05)


def scored(
    right: list[bool],
    labels: list[int] | None = None,
    columns: int = 2,
    attributes: list[tuple[tuple[str, str], ...]] | None = None,
) -> Scored:
    labels = labels or [index % 2 for index in range(len(right))]
    rows = []
    for hit, label in zip(right, labels, strict=True):
        answer = label if hit else 1 - label
        rows.append([0.9 if column == answer else 0.1 for column in range(columns)])
    items = tuple(
        Item(f"{index:064x}", label, f"group-{index}", attributes[index] if attributes else (), 1.0)
        for index, label in enumerate(labels)
    )
    return Scored(items, np.array(rows))


def pair(both: int, candidate: int, stable: int, neither: int) -> tuple[Scored, Scored]:
    mine = [True] * both + [True] * candidate + [False] * stable + [False] * neither
    theirs = [True] * both + [False] * candidate + [True] * stable + [False] * neither
    return scored(mine), scored(theirs)


def verdict(counts: tuple[int, int, int, int], config: GateConfig, **changes) -> Verdict:
    mine, theirs = pair(*counts)
    opponent = gate.Opponent(
        version=3,
        scored=theirs,
        class_ids=changes.get("class_ids", CLASSES),
        seen=changes.get("seen", frozenset()),
        tested=changes.get("tested", frozenset()),
        traced=changes.get("traced", True),
    )
    return gate.decide(
        mine,
        evaluate(mine, CLASSES),
        CLASSES,
        frozenset(),
        opponent,
        config,
        Beside(costs=changes.get("costs"), looks=changes.get("looks", ())),
    )


def check(judged: Verdict, name: str) -> Check:
    [found] = [entry for entry in judged.checks if entry.name == name]
    return found


def test_not_significantly_worse():
    passed = verdict((150, 10, 14, 26), SOFT)
    assert passed.passed
    assert passed.p_value == pytest.approx(binom.cdf(10, 24, 0.5))
    assert (passed.candidate_accuracy, passed.stable_accuracy) == (160 / 200, 164 / 200)
    refused = verdict((150, 2, 20, 28), SOFT)
    assert not refused.passed
    assert "significantly worse" in refused.reason
    assert refused.smallest_visible_difference == pytest.approx(2.4865 * math.sqrt(22 / 200 / 200))
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
    assert "snapshot is gone" in verdict((50, 1, 1, 5), SOFT, traced=False).notes[0]
    assert not verdict((50, 1, 1, 5), SOFT).notes


def test_the_first_version_must_beat_the_majority():
    good = scored([True] * 70 + [False] * 30)
    lazy = scored([label == 0 for label in [0] * 60 + [1] * 40], [0] * 60 + [1] * 40)
    for answers, expected in ((good, True), (lazy, False)):
        judged = gate.decide(answers, evaluate(answers, CLASSES), CLASSES, frozenset(), None, HARD)
        assert judged.passed is expected
        assert judged.policy == FIRST


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
    assert judged.label_change == LabelChange(["owl"], [], 20)


def test_other_column_orders_are_matched_by_class_id():
    mine, theirs = pair(30, 0, 0, 0)
    swapped = Scored(theirs.items, theirs.probabilities[:, ::-1])
    opponent = gate.Opponent(1, swapped, ("dog", "cat"), frozenset())
    judged = gate.decide(mine, evaluate(mine, CLASSES), CLASSES, frozenset(), opponent, SOFT)
    assert judged.both_right == 30


def test_without_common_classes_the_majority_rule_holds():
    judged = verdict((30, 0, 0, 0), SOFT, class_ids=("owl", "fox"))
    assert judged.policy == FIRST
    assert judged.label_change.removed == ["owl", "fox"]


def test_a_verdict_is_json_with_every_check_by_name():
    judged = verdict((150, 10, 14, 26), SOFT, costs=Costs(10, 5.0, 20, 4.0))
    told = json.loads(json.dumps(judged.as_json()))
    names = [entry["name"] for entry in told["checks"]]
    assert names == [
        *("not-significantly-worse", "recent-images", "classes", "slices"),
        *("calibration", "latency", "size", "looks"),
    ]
    assert all(entry["passed"] and entry["words"] and entry["numbers"] for entry in told["checks"])
    assert len(told["gained"]) == 10
    assert len(told["lost"]) == 14


def by_class(worse_class: int) -> tuple[Scored, Scored]:
    """The candidate loses 12 of one class's images and gains 30 of the other's."""
    labels = [0] * 200 + [1] * 200
    mine, theirs = [True] * 400, [True] * 400
    start, other = 200 * worse_class, 200 * (1 - worse_class)
    mine[start : start + 12] = [False] * 12
    theirs[other : other + 30] = [False] * 30
    return scored(mine, labels), scored(theirs, labels)


def test_a_better_model_that_is_worse_on_one_class_is_refused_and_says_which():
    mine, theirs = by_class(1)
    opponent = gate.Opponent(3, theirs, CLASSES, frozenset(), frozenset())
    report = SOFT.model_copy(update={"regressions": "report"})
    for config, passed in ((SOFT, False), (report, True)):
        judged = gate.decide(mine, evaluate(mine, CLASSES), CLASSES, frozenset(), opponent, config)
        assert judged.passed is passed
        assert judged.difference > 0
        assert check(judged, "classes").numbers["worse"] == ["dog"]
        if not passed:
            assert judged.reason.startswith("significantly worse on class dog")
            assert "not significantly worse (exact McNemar" in judged.reason


def test_a_slice_on_which_it_is_worse_is_named():
    attributes = [(("camera", "old" if i % 4 == 0 else "new"),) for i in range(400)]
    mine = scored([i % 4 != 0 or i > 60 for i in range(400)], attributes=attributes)
    theirs = scored([i % 4 == 0 or i > 60 for i in range(400)], attributes=attributes)
    opponent = gate.Opponent(3, theirs, CLASSES, frozenset(), frozenset())
    judged = gate.decide(mine, evaluate(mine, CLASSES), CLASSES, frozenset(), opponent, SOFT)
    assert not judged.passed
    found = check(judged, "slices")
    assert found.numbers["worse"] == ["camera=old"]
    assert found.numbers["parts"]["camera=new"]["difference"] > 0


def test_of_many_classes_one_bad_day_is_chance():
    """5 of 5 disagreements lost is p = 0.03 alone, and nothing among 30 classes."""
    names = tuple(f"class-{index}" for index in range(30))
    labels = [index % 30 for index in range(900)]
    right = np.eye(30)[labels]
    wrong = right.copy()
    unlucky = [index for index in range(900) if labels[index] == 7][:5]
    wrong[unlucky] = np.eye(30)[8]
    items = tuple(Item(f"{i:064x}", y, f"g{i}", (), 1.0) for i, y in enumerate(labels))
    mine, theirs = Scored(items, wrong), Scored(items, right)
    opponent = gate.Opponent(1, theirs, names, frozenset(), frozenset())
    judged = gate.decide(mine, evaluate(mine, names), names, frozenset(), opponent, SOFT)
    part = check(judged, "classes").numbers["parts"]["class-7"]
    assert part["p_value"] == pytest.approx(2**-5)
    assert part["adjusted_p_value"] == pytest.approx(30 * 2**-5)
    assert check(judged, "classes").passed


def test_images_that_joined_since_are_judged_apart():
    # 400 older images on which it gained 20, 60 new ones of which it lost 8
    mine, theirs = pair(380, 20, 0, 0)
    new, newer = scored([True] * 52 + [False] * 8), scored([True] * 60)
    items = (
        *mine.items,
        *(Item(f"{i + 400:064x}", x.label, f"new-{i}", (), 1.0) for i, x in enumerate(new.items)),
    )
    mine = Scored(items, np.concatenate([mine.probabilities, new.probabilities]))
    theirs = Scored(items, np.concatenate([theirs.probabilities, newer.probabilities]))
    tested = frozenset(f"{i:064x}" for i in range(400))
    opponent = gate.Opponent(2, theirs, CLASSES, frozenset(), tested)
    judged = gate.decide(mine, evaluate(mine, CLASSES), CLASSES, frozenset(), opponent, SOFT)
    found = check(judged, "recent-images")
    assert not found.passed
    assert (found.numbers["recent"]["images"], found.numbers["older"]["images"]) == (60, 400)
    assert "significantly worse on images that joined since" in judged.reason
    none_new = gate.Opponent(2, theirs, CLASSES, frozenset(), frozenset(i.sha256 for i in items))
    judged = gate.decide(mine, evaluate(mine, CLASSES), CLASSES, frozenset(), none_new, SOFT)
    assert check(judged, "recent-images").words == "no test image joined since the stable version"


@pytest.mark.parametrize(
    ("limits", "failed"),
    [
        ({}, []),
        ({"max_ece": 0.5, "max_latency_ratio": 2.0, "max_megabytes": 3.0}, []),
        ({"max_latency_ratio": 1.2}, ["latency"]),
        ({"max_megabytes": 1.9}, ["size"]),
        ({"max_ece": 0.001}, ["calibration"]),
    ],
)
def test_budgets_refuse_what_exceeds_them(limits: dict[str, float], failed: list[str]):
    config = SOFT.model_copy(update=limits)
    judged = verdict((300, 10, 10, 80), config, costs=Costs(2_000_000, 6.0, 1_000_000, 4.0))
    assert [entry.name for entry in judged.checks if not entry.passed] == failed
    assert judged.passed is (not failed)
    for name in failed:
        assert check(judged, name).words in judged.reason


def test_looks_are_counted_and_divide_alpha_where_they_are_planned():
    counts = (900, 40, 30, 30)
    free = verdict(counts, HARD, looks=(1, 2))
    assert free.alpha == 0.05
    assert "look 3 at this test split (after versions 1, 2)" in check(free, "looks").words
    planned = verdict(counts, HARD.model_copy(update={"planned_looks": 10}), looks=(1, 2))
    assert planned.alpha == pytest.approx(0.005)
    assert planned.difference_lower_bound < free.difference_lower_bound
    spent = verdict(counts, HARD.model_copy(update={"planned_looks": 2}), looks=(1, 2))
    assert not check(spent, "looks").passed
    assert not spent.passed
    assert "no longer news" in spent.reason


def test_planned_looks_make_no_sense_for_the_mild_policy():
    with pytest.raises(ConfigurationError, match="planned_looks needs"):
        configuration.load(
            overrides=["gate.planned_looks=5", "gate.policy=not-significantly-worse"]
        )
