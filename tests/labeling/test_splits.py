"""The split rule by itself."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from visionloop_labeling.splits import SPLITS, SplitRatios, choose_split

ratios = st.tuples(st.integers(1, 20), st.integers(0, 10), st.integers(0, 10)).map(
    lambda parts: SplitRatios(
        train=parts[0] / sum(parts), val=parts[1] / sum(parts), test=parts[2] / sum(parts)
    )
)


def fill(groups: list[int], wanted: SplitRatios) -> Counter[str]:
    """Gives groups of these sizes, all of one class, their splits one after the other."""
    counts: Counter[str] = Counter()
    for number, size in enumerate(groups):
        split = choose_split(counts, size, wanted, salt="ds", group=f"g{number}")
        counts[split] += size
    return counts


@settings(deadline=None)
@given(ratios, st.lists(st.integers(1, 5), min_size=1, max_size=200))
def test_counts_stay_within_the_seeds_and_one_group_of_their_share(
    wanted: SplitRatios, groups: list[int]
) -> None:
    counts = fill(groups, wanted)
    total = sum(groups)
    assert sum(counts.values()) == total
    for split in SPLITS:
        # The first group of a split comes whatever the share; a group cannot be divided.
        assert counts[split] <= wanted.shares()[split] * total + 3 * max(groups)


@settings(deadline=None, max_examples=25)  # of 2,000 groups each
@given(ratios)
def test_ratios_are_met_in_the_long_run(wanted: SplitRatios) -> None:
    counts = fill([1] * 2000, wanted)
    for split in SPLITS:
        assert abs(counts[split] / 2000 - wanted.shares()[split]) < 0.002


@settings(deadline=None)
@given(ratios)
def test_an_empty_share_gets_nothing(wanted: SplitRatios) -> None:
    counts = fill([1] * 50, wanted)
    for split in SPLITS:
        assert (counts[split] == 0) == (wanted.shares()[split] == 0)


@settings(deadline=None)
@given(st.text("ab\0\u00e9\u4e00", max_size=8))  # all of Unicode takes seconds to set up
def test_three_groups_reach_all_three_splits(salt: str) -> None:
    counts: Counter[str] = Counter()
    for number in range(3):
        counts[choose_split(counts, 1, SplitRatios(), salt=salt, group=str(number))] += 1
    assert set(counts) == set(SPLITS)


def test_the_first_of_a_class_is_for_training() -> None:
    assert choose_split({}, 1, SplitRatios(), salt="", group="g") == "train"


def test_ties_are_broken_by_salt_and_group_alike_every_time() -> None:
    even = SplitRatios(train=1 / 3, val=1 / 3, test=1 / 3)
    seeded = {"train": 1, "val": 1, "test": 1}

    def choices(salt: str) -> list[str]:
        return [choose_split(seeded, 1, even, salt=salt, group=str(n)) for n in range(60)]

    assert choices("a") == choices("a")
    assert choices("a") != choices("b")
    assert set(choices("a")) == set(SPLITS)


@pytest.mark.parametrize(
    "shares", [(0.7, 0.1, 0.1), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5)]
)
def test_impossible_ratios_are_refused(shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValidationError):
        SplitRatios(train=shares[0], val=shares[1], test=shares[2])
