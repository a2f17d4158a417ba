"""The statistics of drift: silent on the same distribution, loud on another."""

from pathlib import Path

import numpy as np
import pytest

from visionloop.errors import CorruptError
from visionloop_training.drift import Sketch, embedding_drift, label_drift, presence_drift


def test_the_same_mix_of_labels_is_no_drift():
    found = label_drift({"a": 500, "b": 300, "c": 200}, {"a": 50, "b": 30, "c": 20})
    assert found.psi == pytest.approx(0.0, abs=1e-2)
    assert found.p_value > 0.9
    assert found.images == 100


def test_another_mix_is_drift_by_both_measures():
    found = label_drift({"a": 500, "b": 500}, {"a": 10, "b": 90})
    assert found.psi > 0.5
    assert found.p_value < 1e-6


def test_large_counts_make_a_small_change_significant_but_not_large():
    found = label_drift({"a": 50_000, "b": 50_000}, {"a": 10_400, "b": 9_600})
    assert found.p_value < 1e-6
    assert found.psi < 0.01


def test_a_class_that_stays_away_counts_and_one_that_came_later_does_not():
    assert label_drift({"a": 10, "b": 10}, {"a": 10, "b": 10, "new": 90}).psi == 0.0
    assert label_drift({"a": 100, "b": 100}, {"b": 100}).p_value < 1e-6
    assert label_drift({"a": 10, "b": 10}, {}).p_value == 1.0
    assert label_drift({"a": 10}, {"a": 20}).p_value == 1.0


def test_where_images_have_several_classes_each_drifts_by_itself():
    before, now = {"crack": 500, "dust": 300, "stain": 10}, {"crack": 50, "dust": 70, "new": 90}
    found = presence_drift(before, 1000, now, 100)
    assert set(found) == set(before)
    assert (found["crack"].psi, found["crack"].p_value) == (pytest.approx(0.0, abs=1e-3), 1.0)
    assert found["dust"].psi > 0.5
    assert found["dust"].p_value < 1e-6
    assert found["stain"].p_value > 0.5  # one in a hundred, and none of a hundred
    assert presence_drift({}, 10, {}, 10) == {}


def test_a_class_that_all_images_have_then_and_now_has_not_moved():
    found = presence_drift({"cell": 1000, "crack": 300}, 1000, {"cell": 100, "crack": 70}, 100)
    assert (found["cell"].psi, found["cell"].p_value) == (pytest.approx(0.0, abs=0.02), 1.0)
    assert found["crack"].p_value < 1e-6


def sample(n: int, moved: float = 0.0, seed: int = 0, width: int = 40) -> np.ndarray:
    """Embeddings with a few strong directions; moved along the strongest by standard deviations."""
    random = np.random.default_rng(seed)
    scales = 10.0 / (1 + np.arange(width))
    scattered = random.normal(size=(n, width)) * scales
    scattered[:, 0] += moved * scales[0]
    return (scattered + 3.0).astype(np.float32)


def test_false_alarms_are_as_rare_as_the_level_says():
    reference = Sketch.of(sample(512))
    p_values = [embedding_drift(reference, sample(60, seed=n + 1)).p_value for n in range(400)]
    # The reference's own chance is shared by all 400, so they scatter more than a binomial would.
    assert np.mean(np.array(p_values) < 0.01) < 0.05
    assert np.median(p_values) > 0.2


def test_a_shift_is_found_at_its_size():
    reference = Sketch.of(sample(512))
    found = embedding_drift(reference, sample(200, moved=1.0, seed=5))
    assert found.distance == pytest.approx(1.0, abs=0.3)
    assert found.p_value < 1e-6
    assert embedding_drift(reference, sample(200, seed=6)).distance < 0.4


def test_too_few_tell_nothing():
    reference = Sketch.of(sample(512))
    assert embedding_drift(reference, sample(1, moved=9.0)).p_value == 1.0
    assert embedding_drift(Sketch.of(sample(4)), sample(200, moved=9.0)).p_value == 1.0
    same = Sketch.of(np.ones((100, 8), np.float32))
    assert embedding_drift(same, np.ones((50, 8), np.float32)).distance == 0.0


def test_a_sketch_is_kept_in_a_file(tmp_path: Path):
    made = Sketch.of(sample(300))
    made.save(tmp_path / "sketch" / "s.safetensors")
    read = Sketch.load(tmp_path / "sketch" / "s.safetensors")
    fresh = sample(100, moved=0.7, seed=9)
    assert embedding_drift(read, fresh).distance == pytest.approx(
        embedding_drift(made, fresh).distance, rel=1e-3
    )
    (tmp_path / "bad").write_bytes(b"nothing")
    with pytest.raises(CorruptError, match="no sketch"):
        Sketch.load(tmp_path / "bad")
