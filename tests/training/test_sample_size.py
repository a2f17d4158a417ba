"""How many test images a margin needs: the gate's own numbers, and people are told early."""

from types import SimpleNamespace

import numpy as np
import pytest
from support.training_site import FIRST, PROBE, Site

from visionloop_training.config import GateConfig
from visionloop_training.data import Dataset, Item
from visionloop_training.gate_checks import paired
from visionloop_training.multi_label.paired import PairedScores
from visionloop_training.sample_size import (
    comparable,
    gains_needed,
    images_needed,
    notes,
    of_pairs,
    of_scores,
    too_few,
)
from visionloop_training.significance import Pairs


def passes(gained: int, lost: int, images: int, config: GateConfig) -> bool:
    table = Pairs(images - gained - lost, gained, lost, 0)
    return paired(table, config, config.look_alpha)[0].passed


@pytest.mark.parametrize("margin", [0.005, 0.01, 0.05])
@pytest.mark.parametrize("looks", [None, 10])
def test_so_many_images_pass_and_one_less_does_not(margin: float, looks: int | None):
    config = GateConfig(margin=margin, planned_looks=looks)
    needed = images_needed(of_pairs, margin, config.look_alpha)
    assert needed is not None
    assert passes(0, 0, needed, config)
    assert not passes(0, 0, needed - 1, config)
    assert too_few(of_pairs, needed, config) == ""
    assert f"which needs {needed:,} of them" in too_few(of_pairs, needed - 1, config)


def test_so_many_images_of_several_classes():
    needed = images_needed(of_scores, 0.05, 0.05)
    assert needed is not None
    for images, enough in ((needed, True), (needed - 1, False)):
        scores = PairedScores(np.zeros(images), np.arange(images))
        assert (scores.not_inferior(0.05) < 0.05) is enough


def test_no_number_of_images_shows_a_margin_of_nothing():
    assert images_needed(of_pairs, 0.0, 0.05) is None
    assert "needs more than 100,000 of them" in too_few(of_pairs, 133, GateConfig(margin=0.0))


@pytest.mark.parametrize("lost", [0, 1, 3])
@pytest.mark.parametrize("images", [60, 133, 300])
def test_so_many_gains_pass_and_one_less_does_not(images: int, lost: int):
    config = GateConfig()
    gained = gains_needed(images, lost, config.margin, config.alpha)
    assert passes(gained, lost, images, config)
    assert not passes(gained - 1, lost, images, config)


def test_a_refusal_says_how_many_images_the_margin_needs():
    config = GateConfig()
    refused, _, _ = paired(Pairs(120, 0, 0, 13), config, config.alpha)
    assert not refused.passed
    assert "133 test images show a margin of 2.4 points at best" in refused.words
    assert "needs 316 of them" in refused.words
    assert "2 gained and none lost, or 4 gained and one lost" in refused.words
    assert "gate.margin=0.025 or more" in refused.words
    enough, _, _ = paired(Pairs(2000, 30, 60, 100), config, config.alpha)
    assert not enough.passed
    assert "at best" not in enough.words  # it is worse, and images are not what it lacks
    mild, _, _ = paired(Pairs(120, 0, 9, 13), GateConfig(policy="not-significantly-worse"), 0.05)
    assert not mild.passed
    assert "at best" not in mild.words


def item(number: int, label: int, group: str) -> Item:
    return Item(f"{number:064x}", label, group, (), 1.0)


def test_only_images_that_both_can_be_asked_count():
    data = Dataset(
        name="cells",
        snapshot="sha256-0",
        class_ids=("good", "bad", "new"),
        class_names=("good", "bad", "new"),
        train=(item(0, 0, "a"), item(1, 1, "b"), item(2, 2, "c")),
        val=(item(3, 0, "d"),),
        test=tuple(item(10 + place, place % 3, f"t{place}") for place in range(9)),
    )
    seen = frozenset({"t0", f"{11:064x}"})  # by its group, and by its bytes
    stable = SimpleNamespace(seen=seen, class_ids=("bad", "good"))
    assert comparable(data, None) == 9
    assert comparable(data, stable) == 4
    [note] = notes(data, stable, GateConfig())
    assert note.startswith("the gate: 4 test images show")
    assert "no opponent" not in note
    assert notes(data, None, GateConfig(policy="not-significantly-worse")) == []


def test_it_is_told_before_the_first_epoch(site: Site, caplog: pytest.LogCaptureFixture):
    site.write(FIRST)
    found = site.train(*PROBE, "gate.policy=non-inferior", check_only=True)
    [note] = [one for one in found.notes if one.startswith("the gate: 24 test images show")]
    assert "a first version has no opponent, the next one will" in note
    assert note in caplog.text
    assert site.train(*PROBE, check_only=True).notes == []
