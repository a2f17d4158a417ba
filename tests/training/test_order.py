"""The order of an epoch, and the balanced sampler on it: every class equally often."""

from collections import Counter
from hashlib import sha256

from hypothesis import given, settings
from hypothesis import strategies as st

from visionloop_training.order import balanced, epoch_order, epoch_pairs

DIGESTS = [f"{number:064x}" for number in range(100)]
LABELS = [0] * 80 + [1] * 15 + [2] * 5


def test_each_class_is_drawn_equally_often_and_in_every_batch():
    pairs = epoch_pairs(0, 1, DIGESTS, 4, LABELS)
    assert len(pairs) == 100
    counts = Counter(LABELS[place] for place, _ in pairs)
    assert max(counts.values()) - min(counts.values()) <= 1
    for start in range(0, 99, 9):
        batch = Counter(LABELS[place] for place, _ in pairs[start : start + 9])
        assert set(batch.values()) == {3}


def test_a_small_class_repeats_in_other_variants():
    for variants in (4, None):
        pairs = epoch_pairs(0, 1, DIGESTS, variants, LABELS)
        rare = Counter(place for place, _ in pairs if LABELS[place] == 2)
        assert set(rare) == set(range(95, 100))  # all of them
        assert max(rare.values()) - min(rare.values()) <= 1
        seen = [variant for place, variant in pairs if place == 95]
        assert len(set(seen)) >= min(len(seen), 4)
        common = [place for place, _ in pairs if LABELS[place] == 0]
        assert len(set(common)) == len(common)


def test_seed_and_epoch_decide_and_the_order_is_the_streams():
    first = epoch_pairs(0, 1, DIGESTS, 4, LABELS)
    assert first == epoch_pairs(0, 1, DIGESTS, 4, LABELS)
    assert first != epoch_pairs(0, 2, DIGESTS, 4, LABELS)
    assert first != epoch_pairs(1, 1, DIGESTS, 4, LABELS)
    order = [place for place in epoch_order(DIGESTS, 0, 1).tolist() if LABELS[place] == 0]
    drawn = [place for place, _ in first if LABELS[place] == 0]
    assert drawn == order[: len(drawn)]


def test_other_images_of_a_large_class_have_their_turn():
    seen = {place for e in range(30) for place, _ in epoch_pairs(0, e, DIGESTS, None, LABELS)}
    assert seen == set(range(100))


def test_equal_classes_stay_one_pass():
    places, rounds = balanced(list(range(10)), [0, 1] * 5)
    assert sorted(places) == list(range(10))
    assert not any(rounds)


def test_the_order_is_the_same_for_ever() -> None:
    digests = [sha256(f"{number}".encode()).hexdigest() for number in range(8)]
    assert epoch_order(digests, seed=0, epoch=0).tolist() == [4, 3, 7, 5, 0, 2, 6, 1]
    assert epoch_order(digests, seed=0, epoch=1).tolist() == [4, 3, 2, 1, 7, 0, 6, 5]


@settings(max_examples=50, deadline=None)
@given(st.sets(st.binary(min_size=32, max_size=32), min_size=2), st.integers(0, 2**64))
def test_a_new_image_does_not_shuffle_the_others(digests: set[bytes], seed: int) -> None:
    names = sorted(one.hex() for one in digests)
    before = [names[1:][place] for place in epoch_order(names[1:], seed, 5)]
    after = [names[place] for place in epoch_order(names, seed, 5)]
    assert [name for name in after if name != names[0]] == before
