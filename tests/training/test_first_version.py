"""One version, fine-tuned from real pretrained weights on real digits, looked at from all sides."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pydantic
import pytest
from support.bundles import encoded
from support.training_site import FIRST, QUICK, Site, fired, make_site, trigger

from visionloop.bundle import GoldenItem
from visionloop.images import decode
from visionloop.telemetry import metrics
from visionloop_training import parity, pipeline
from visionloop_training.drift import SKETCH
from visionloop_training.export import Session
from visionloop_training.reproduce import reproduce


class Trained(NamedTuple):
    """A store with version 1, and what its run gave and told."""

    site: Site
    result: pipeline.Result
    told: dict[str, Any]  # its metrics


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Version 1, fine-tuned and promoted. Tests must not change its store."""
    site = make_site(tmp_path_factory.mktemp("trained"))
    site.write(FIRST)
    return Trained(site, site.train(*QUICK, who="tester"), metrics.values())


@pytest.fixture
def tuned(trained: Trained, tmp_path: Path) -> Site:
    """A copy of it, with its cache, to go on with."""
    return trained.site.copied(tmp_path)


def test_a_first_version_is_published_and_promoted(trained: Trained):
    site, result = trained.site, trained.result
    assert (result.version, result.promoted) == (1, True)
    assert result.verdict.passed
    bundle = site.repository.read("reader", 1)
    assert [label.id for label in bundle.labels] == ["0", "1", "2"]
    assert bundle.metrics["accuracy"] > 0.8
    assert bundle.provenance.snapshot == result.snapshot
    assert bundle.provenance.backbone == "tf_efficientnet_lite0"
    assert bundle.provenance.parent_version is None
    kinds = {output.kind for output in bundle.outputs}
    assert kinds == {"logits", "probabilities", "embedding", "distance"}
    [move] = site.repository.history("reader")
    assert (move.version, move.previous, move.who) == (1, None, "tester")
    assert move.why.startswith("gate passed: there is no stable version yet")
    assert move.metrics["accuracy"] == bundle.metrics["accuracy"]


def test_a_whole_run_tells_its_steps_and_ends_in_publish(trained: Trained):
    told = trained.told
    assert (
        told["visionloop_training_step"][()][0] >= 2 * trained.result.summary["train_images"] / 16
    )
    assert told["visionloop_training_stage_info"][("publish",)] == [1.0]


def test_the_golden_images_replay_without_torch(trained: Trained, tmp_path: Path):
    """A reader's view: only the bundle, the shared decoder and onnxruntime."""
    site = trained.site
    bundle = site.repository.fetch("reader", 1, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / bundle.graph)
    [given] = session.get_inputs()
    assert (given.name, given.type) == (bundle.input.name, "tensor(uint8)")
    assert given.shape[1:] == [bundle.input.height, bundle.input.width, 3]
    names = [output.name for output in session.get_outputs()]
    assert names == [output.name for output in bundle.outputs]
    assert names == ["logits", "probabilities", "embedding", "distance"]
    items = pydantic.TypeAdapter(list[GoldenItem]).validate_json(
        (tmp_path / bundle.golden.file).read_bytes()
    )
    assert len(items) == bundle.golden.items == 64
    limit = bundle.golden.max_probability_difference["default"]
    for item in items:
        pixels = bundle.preprocessing(decode((tmp_path / item.file).read_bytes()))
        logits, probabilities, embedding, distance = session.run(names, {given.name: pixels[None]})
        np.testing.assert_allclose(probabilities[0], item.probabilities, atol=limit)
        scaled = np.exp(logits[0] / bundle.calibration.temperature)
        np.testing.assert_allclose(probabilities[0], scaled / scaled.sum(), atol=1e-5)
        assert list(embedding.shape[1:]) == bundle.output("embedding").shape
        assert list(distance.shape[1:]) == bundle.output("distance").shape


def test_the_report_holds_what_was_measured(trained: Trained, tmp_path: Path):
    site, result = trained.site, trained.result
    bundle = site.repository.fetch("reader", 1, tmp_path)
    report = json.loads((tmp_path / "report/report.json").read_text())
    rows = pq.read_table(tmp_path / "report" / report["predictions"]).to_pylist()
    right = [row["label"] == row["predicted"] for row in rows]
    assert report["mistakes"]["total"] == right.count(False)
    assert len(right) == report["evaluation"]["images"] == result.summary["test_images"]
    assert np.mean(right) == pytest.approx(bundle.metrics["accuracy"])
    assert np.trace(report["evaluation"]["confusion"]) == sum(right)
    assert set(report["evaluation"]["slices"]["half"]) == {"first", "second"}
    assert [point["epoch"] for point in report["fit"]["curves"]] == [0, 1, 2]
    assert report["parity"]["max_probability_difference"] <= 1e-3
    assert report["parity"]["images"] == 64
    assert json.loads((tmp_path / "report/gate.json").read_text()) == report["gate"]
    assert report["evaluation"]["macro_f1"]["value"] == bundle.metrics["macro_f1"]
    assert report["evaluation"]["macro_auroc"]["low"] > 0.5
    told = report["not_sure"]
    assert bundle.thresholds.energy is None
    assert bundle.thresholds.distance == told["distance"]
    assert told["unfamiliar"] < 0.2
    assert told["answered"] * told["answered_accuracy"] <= bundle.metrics["accuracy"] + 1e-9
    page = (tmp_path / "report/report.html").read_text()
    assert "Digit 0" in page
    assert "Model card" in page
    assert "parity" in [check["name"] for check in report["gate"]["checks"]]
    assert page.count("<svg") == 3
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "https://" not in page


def test_nothing_new_is_said_and_costs_nothing(trained: Trained):
    site, first = trained.site, trained.result
    again = site.train(*QUICK)
    assert again.version is None
    assert (again.snapshot, again.stable) == (first.snapshot, 1)
    assert site.repository.versions("reader") == [1]


def test_the_proof_runs_at_several_batch_sizes(trained: Trained):
    assert parity.BATCHES == (1, 2, 32)
    assert 0 <= trained.result.summary["parity_max_abs_probability_difference"] <= 1e-3


def test_photographs_are_unfamiliar_to_a_model_of_digits(trained: Trained, tmp_path: Path):
    site = trained.site
    bundle = site.repository.fetch("reader", 1, tmp_path)
    session = Session(tmp_path / bundle.graph)
    limit = bundle.thresholds.distance
    assert limit is not None

    def distances(images: list[bytes]) -> np.ndarray:
        return session.batched([bundle.preprocessing(decode(data)) for data in images])["distance"]

    photographs = distances([encoded(index) for index in range(60)])
    digits = distances([path.read_bytes() for path in sorted((tmp_path / "golden").glob("*.png"))])
    assert len(digits) == 64
    assert (photographs > limit).mean() > 0.9
    assert (digits > limit).mean() < 0.1


@pytest.mark.long
def test_a_tuned_version_comes_out_bit_for_bit(trained: Trained, tmp_path):
    site = trained.site
    found = reproduce(site.store, "reader", 1, tmp_path)
    assert found.identical
    assert found.same
    assert found.max_probability_difference < 1e-5
    assert found.golden_images == 64
    assert found.words() == "version 1 of reader is reproduced bit for bit\n"
    assert site.repository.versions("reader") == [1]
    assert {one.name for one in found.surroundings} >= {"threads", "cpu", "torch", "visionloop"}
    assert all(one.same for one in found.surroundings)


# What comes after it.


def test_the_fast_lane_gives_the_stable_body_a_new_head(tuned: Site, trained: Trained):
    """A network that was trained as any gets a fourth class and more labels, in a second."""
    site, first = tuned, trained.result
    site.write({**dict.fromkeys(FIRST, 50), "3": 50})
    second = site.train(*QUICK, lane="fast")
    assert (second.version, second.promoted) == (2, True)
    assert second.metrics["accuracy"] > 0.8
    assert second.summary["lane"] == "fast"
    assert second.summary["features_computed"] == 4 * 30 + 4 * 10  # train and val: a new cache
    assert second.timings["fit"] < first.timings["fit"]
    [new, *_] = second.notes
    assert new.startswith("new class 'Digit 3': the head has them from this version on")
    assert second.verdict.label_change.added == ["3"]
    assert second.verdict.images == 30  # of the classes that both know

    bundle = site.repository.fetch("reader", 2, site.folder / "two")
    made_of = bundle.provenance
    assert (made_of.lane, made_of.body_version, made_of.parent_version) == ("fast", 1, 1)
    assert made_of.backbone_sha256 == site.repository.read("reader", 1).provenance.backbone_sha256
    assert [label.id for label in bundle.labels] == ["0", "1", "2", "3"]
    assert SKETCH in bundle.files

    # The next head is cut from the second version's file, and finds its embeddings in the cache.
    site.write({**dict.fromkeys(FIRST, 50), "3": 55})
    third = site.train(*QUICK, lane="fast")
    assert third.summary["features_computed"] == 4
    assert site.repository.read("reader", 3).provenance.body_version == 1

    # The full lane counts from version 1, whatever the fast one has taken up since.
    assert site.train(*QUICK, lane="fast").decision.lane is None
    full = site.train(*QUICK, if_needed=True, check_only=True)
    assert trigger(full, "labels_since_full").value == 30 + 55
    assert full.decision.lane == "full"


def test_a_stable_version_that_fails_on_new_images_calls_for_everything(tuned: Site):
    """The new images of its classes are another digit's, which look like the other class."""
    tuned.write_swapped(FIRST, {"0": "7", "1": "6"}, each=40)
    found = tuned.train(*QUICK, "triggers.min_new_labels=1000", if_needed=True, check_only=True)
    assert {"fresh_errors", "embedding_drift"} <= fired(found)
    errors = trigger(found, "fresh_errors")
    assert errors.value > errors.limit
    assert found.decision.lane == "full"


def test_more_of_the_same_is_no_drift(tuned: Site):
    tuned.write(dict.fromkeys(FIRST, 100))
    quiet = ("triggers.min_new_labels=1000", "triggers.embedding_distance=1.0")
    found = tuned.train(*QUICK, *quiet, if_needed=True)
    assert found.decision.lane is None, found.decision.reason
    assert trigger(found, "fresh_errors").value is not None
    assert trigger(found, "embedding_drift").value < 1.0
    assert trigger(found, "label_drift").value < 0.1
