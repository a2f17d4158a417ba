"""The paired tests against textbook values, Holm's correction, and gaps between slices."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, fisher_exact, norm

from visionloop_training import significance
from visionloop_training.slices import by_slice

COUNTS = st.integers(0, 200)
P_VALUES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30)


@given(b=COUNTS, c=COUNTS)
def test_exact_mcnemar_is_the_binomial_tail(b: int, c: int):
    expected = binomtest(b, b + c, 0.5, alternative="less").pvalue if b + c else 1.0
    assert significance.mcnemar_worse(b, c) == pytest.approx(expected)


def test_the_score_test_without_a_margin_is_mcnemars():
    b, c = 30, 18
    z = (b - c - 0.25) / math.sqrt(b + c)
    assert significance.non_inferiority(b, c, 500, 0.0) == pytest.approx(norm.sf(z))


@pytest.mark.parametrize(("b", "c", "n"), [(10, 4, 200), (4, 10, 200), (0, 3, 50), (0, 0, 80)])
def test_the_bound_is_the_test_inverted(b: int, c: int, n: int):
    bound = significance.lower_bound(b, c, n, 0.05)
    assert bound <= (b - c) / n
    assert significance.non_inferiority(b, c, n, -bound) == pytest.approx(0.05, abs=1e-3)


def test_arrays_are_tested_as_their_elements():
    b, c, n = np.array([3, 40, 0]), np.array([12, 20, 0]), np.array([90, 500, 80])
    for place in range(3):
        one = b[place], c[place], n[place]
        assert significance.lower_bound(b, c, n, 0.05)[place] == significance.lower_bound(
            *one, 0.05
        )
        assert significance.mcnemar_worse(b, c)[place] == significance.mcnemar_worse(*one[:2])
        assert significance.non_inferiority(b, c, n, 0.02)[place] == significance.non_inferiority(
            *one, 0.02
        )


def test_the_smallest_visible_difference_is_seen_four_times_in_five():
    n, disagree = 4000, 0.08
    visible = float(significance.visible(n * disagree / 2, n * disagree / 2, n))
    random = np.random.default_rng(0)
    chances = [(disagree + visible) / 2, (disagree - visible) / 2, 1 - disagree]
    b, c, _ = random.multinomial(n, chances, 4000).T
    found = significance.mcnemar_worse(c, b) < 0.05  # the other one is worse
    assert found.mean() == pytest.approx(0.8, abs=0.03)


@given(P_VALUES)
def test_holm_keeps_order_and_lies_between_no_correction_and_bonferroni(p_values: list[float]):
    raw, adjusted = np.array(p_values), significance.holm(p_values)
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(1.0, raw * len(raw)) + 1e-12).all()
    order = np.argsort(raw, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


def test_holm_by_hand():
    assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_near_duplicates_that_err_together_count_once():
    random = np.random.default_rng(1)
    candidate, stable = random.uniform(size=300) < 0.85, random.uniform(size=300) < 0.9
    single = significance.pairs(candidate, stable, np.arange(300))
    copies = significance.pairs(
        np.repeat(candidate, 4), np.repeat(stable, 4), np.repeat(np.arange(300), 4)
    )
    assert single.design_effect == 1.0
    assert copies.effective == pytest.approx(single.effective)
    assert copies.smallest_visible_difference == pytest.approx(single.smallest_visible_difference)


def test_groups_that_agree_count_once():
    """100 scenes of ten frames on which both models are right are 100 observations, not 1,000."""
    right, scenes = np.ones(1000, dtype=bool), np.repeat(np.arange(100), 10)
    assert significance.pairs(right, right, scenes).effective == (0, 0, 100)
    one_gained = right.copy()
    one_gained[0] = False
    effect = significance.pairs(right, one_gained, scenes).design_effect
    assert 5 < effect < 10  # one image says little of how they come


def test_models_worse_on_whole_groups_pass_as_seldom_as_promised():
    """Worse by exactly the margin, by scenes that are lost at once; and equal ones still pass."""
    random, margin, frames = np.random.default_rng(7), 0.03, 10

    def passed(scenes: int, lost: float, gained: float, rounds: int = 2000) -> float:
        groups, found = np.repeat(np.arange(scenes), frames), 0
        for drawn in random.uniform(size=(rounds, scenes)):
            stable, candidate = drawn >= gained, drawn < 1 - lost
            table = significance.pairs(*(np.repeat(x, frames) for x in (candidate, stable)), groups)
            found += float(significance.non_inferiority(*table.effective, margin)) < 0.05
        return found / rounds

    for scenes in (40, 120):
        assert passed(scenes, lost=margin, gained=0.0) < 0.06
        assert passed(scenes, lost=margin + 0.02, gained=0.02) < 0.06
    assert passed(200, lost=0.005, gained=0.005, rounds=300) > 0.5


def test_a_gap_between_two_slices_is_one_question():
    random = np.random.default_rng(2)
    inside = random.uniform(size=400) < 0.5
    right = random.uniform(size=400) < np.where(inside, 0.95, 0.8)
    attributes = [(("camera", "new" if new else "old"),) for new in inside]
    found = by_slice(right, np.arange(400), attributes)["camera"]
    table = [[(right & s).sum(), (~right & s).sum()] for s in (inside, ~inside)]
    expected = fisher_exact(table).pvalue
    for value in found.values():
        assert value.adjusted_p_value == value.p_value == pytest.approx(expected)
    assert found["new"].gap == pytest.approx(-found["old"].gap)
    assert found["new"].adjusted_p_value < 0.01


def test_of_many_slices_without_a_gap_none_is_marked():
    random = np.random.default_rng(3)
    marked = 0
    for _ in range(40):
        right = random.uniform(size=600) < 0.9
        attributes = [
            (("camera", f"c{random.integers(6)}"), ("site", f"s{random.integers(4)}"))
            for _ in range(600)
        ]
        found = by_slice(right, np.arange(600), attributes)
        gaps = [value.adjusted_p_value for values in found.values() for value in values.values()]
        marked += min(gaps) < 0.05
    assert marked <= binom.ppf(0.999, 40, 0.05)


def test_small_slices_and_lonely_values_are_not_compared():
    attributes = [(("camera", "only"), ("rare", str(i // 5))) for i in range(40)]
    found = by_slice(np.ones(40, dtype=bool), np.arange(40), attributes)
    assert found["camera"]["only"].gap is None
    assert "rare" not in found


def test_copies_make_no_gap():
    right = np.array([True] * 12 + [False] * 2 + [True] * 9 + [False] * 5)
    attributes = [(("camera", "a" if i < 14 else "b"),) for i in range(28)]
    once = by_slice(right, np.arange(28), attributes)["camera"]["a"]
    groups = np.repeat(np.arange(28), 20)
    often = by_slice(np.repeat(right, 20), groups, [a for a in attributes for _ in range(20)])
    assert once.p_value > 0.1
    assert often["camera"]["a"].p_value > 0.1


def test_scenes_that_are_all_right_or_all_wrong_make_no_gap():
    """24 frames of three scenes are three observations, whether none, one or all are missed."""
    right = np.concatenate([np.repeat([True, False, True], 8), np.arange(200) % 10 > 0])
    groups = np.concatenate([np.repeat([0, 1, 2], 8), np.arange(3, 203)])
    for frames in (right, right | (groups == 1), right & (groups != 0) & (groups != 2)):
        attributes = [(("camera", "few" if group < 3 else "many"),) for group in groups]
        found = by_slice(frames, groups, attributes)["camera"]["few"]
        assert found.p_value > 0.001


def test_a_gap_among_copies_is_found():
    right = np.array([True] * 50 + [True] * 25 + [False] * 25)
    attributes = [(("camera", "a" if i < 50 else "b"),) for i in range(100)]
    groups = np.repeat(np.arange(100), 6)
    found = by_slice(np.repeat(right, 6), groups, [a for a in attributes for _ in range(6)])
    assert found["camera"]["a"].p_value < 1e-6
