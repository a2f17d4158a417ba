"""Whole runs on real digits with real pretrained weights: what reaches the store, and when."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pydantic
import pytest
from support import onnx_graphs
from support.bundles import publish_bundle
from support.training_site import FIRST, PROBE, QUICK, Site

from visionloop.bundle import GoldenItem
from visionloop.errors import ConfigurationError, NotFoundError, RefusedError
from visionloop.images import decode
from visionloop.repository import ModelRepository
from visionloop.snapshot import SnapshotRepository
from visionloop_training import lanes, parity, pipeline


def test_a_first_version_is_published_and_promoted(trained: tuple[Site, pipeline.Result]):
    site, result = trained
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


def test_the_golden_images_replay_without_torch(
    trained: tuple[Site, pipeline.Result], tmp_path: Path
):
    """A reader's view: only the bundle, the shared decoder and onnxruntime."""
    site, _ = trained
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


def test_the_report_holds_what_was_measured(trained: tuple[Site, pipeline.Result], tmp_path: Path):
    site, result = trained
    bundle = site.repository.fetch("reader", 1, tmp_path)
    report = json.loads((tmp_path / "report/report.json").read_text())
    right = [p["label"] == p["predicted"] for p in report["predictions"]]
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
    assert page.count("<svg") == 2
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "https://" not in page


def test_nothing_new_is_said_and_costs_nothing(trained: tuple[Site, pipeline.Result]):
    site, first = trained
    again = site.train(*QUICK)
    assert again.version is None
    assert (again.snapshot, again.stable) == (first.snapshot, 1)
    assert site.repository.versions("reader") == [1]


def test_a_second_round_computes_new_images_only_and_is_compared_in_pairs(site: Site):
    site.write(FIRST)
    first = site.train(*PROBE)
    assert first.summary["features_computed"] == 24 * 3 + 8 * 3  # train, val; one variant
    site.write(dict.fromkeys(FIRST, 60))
    second = site.train(*PROBE)
    assert second.summary["features_computed"] == 12 * 3 + 4 * 3
    assert (second.version, second.promoted) == (2, True)
    verdict = second.verdict
    assert verdict.policy == "not-significantly-worse"
    assert verdict.stable_version == 1
    assert verdict.images == second.summary["test_images"] == 36
    counts = (verdict.both_right, verdict.only_candidate_right, verdict.only_stable_right)
    assert sum(counts) + verdict.both_wrong == 36
    checks = {check.name: check for check in verdict.checks}
    assert all(check.passed for check in checks.values())
    # A fifth of the images is test: 8 of each class in round 1, 12 in round 2.
    recent = checks["recent-images"].numbers
    assert (recent["recent"]["images"], recent["older"]["images"]) == (12, 24)
    assert set(checks["classes"].numbers["parts"]) == set(FIRST)
    assert set(checks["slices"].numbers["parts"]) == {"half=first", "half=second"}
    assert checks["latency"].numbers["ratio"] > 0
    assert checks["size"].numbers["bytes"] > 10_000
    assert checks["looks"].numbers == {"look": 2, "before": [1], "planned": None}
    bundle = site.repository.fetch("reader", 2, site.folder / "version-2")
    report = json.loads((site.folder / "version-2/report/report.json").read_text())
    comparison = report["comparison"]
    assert comparison["version"] == 1
    assert len(comparison["gained"]) == verdict.only_candidate_right
    assert len(comparison["lost"]) == verdict.only_stable_right
    assert all(image["stable"] != image["label"] for image in comparison["gained"])
    assert bundle.provenance.parent_version == 1
    assert site.repository.aliases("reader").aliases.stable == 2


def test_a_plain_graph_as_stable_is_refused_before_any_work(site: Site):
    site.write(FIRST)
    onnx_graphs.publish_graph(site.repository, onnx_graphs.tiny(), model="reader")
    with pytest.raises(RefusedError, match="stable version 1 of reader is of the task 'tensors'"):
        site.train(*PROBE)
    assert site.repository.versions("reader") == [1]


BAD = (*PROBE, "fit.probe_penalty=[1000.0]")


def test_a_worse_candidate_is_refused_published_and_can_be_forced(site: Site):
    site.write({"0": 120, "1": 120, "2": 120})
    assert site.train(*PROBE).promoted
    refused = site.train(*BAD)
    assert (refused.version, refused.promoted, refused.stable) == (2, False, 1)
    assert "significantly worse" in refused.verdict.reason
    assert site.repository.versions("reader") == [1, 2]
    assert site.repository.aliases("reader").aliases.stable == 1
    forced = site.train(*BAD, force=True, who="operator")
    assert (forced.version, forced.promoted) == (3, True)
    newest = site.repository.history("reader")[-1]
    assert (newest.version, newest.who) == (3, "operator")
    assert newest.why.startswith("forced against the gate's verdict: significantly worse")


def test_in_manual_mode_a_person_promotes_and_names_are_text_in_the_report(site: Site):
    site.write(FIRST)
    manual = (*PROBE, "gate.mode=manual", "card.intended_use=<script>alert(1)</script>")
    result = site.train(*manual)
    assert (result.version, result.promoted, result.verdict.passed) == (1, False, True)
    assert site.repository.aliases("reader").aliases.stable is None
    page = site.store.get("models/reader/versions/1/report/report.html").data.decode()
    assert "visionloop models promote reader 1" in page
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    with pytest.raises(ConfigurationError, match="--force promotes"):
        site.train(*manual, force=True)


def test_an_alias_that_moved_meanwhile_is_left_alone(site: Site, monkeypatch):
    site.write(FIRST)
    assert site.train(*PROBE).version == 1
    original = ModelRepository.publish

    def publish_and_be_late(repository, bundle, folder):
        original(repository, bundle, folder)
        # somebody promotes this very version (with other words) before the run can
        current = repository.aliases("reader")
        repository.promote("reader", bundle.version, expected=current, who="other", why="by hand")
        rolled = repository.aliases("reader")
        repository.promote("reader", 1, expected=rolled, who="other", why="and back")

    monkeypatch.setattr(ModelRepository, "publish", publish_and_be_late)
    late = site.train(*PROBE, again=True)
    assert (late.version, late.promoted) == (2, False)
    assert "moved meanwhile" in late.conflict
    assert site.repository.aliases("reader").aliases.stable == 1
    assert site.repository.versions("reader") == [1, 2]


def test_a_pinned_stable_stays_and_the_version_is_published(site: Site):
    site.write(FIRST)
    assert site.train(*PROBE).promoted
    current = site.repository.aliases("reader")
    site.repository.pin("reader", expected=current, who="ada", why="the audit")
    result = site.train(*PROBE, again=True, force=True)  # --force is about the gate
    assert (result.version, result.promoted, result.stable) == (2, False, 1)
    assert "pinned at version 1 by ada" in result.as_json()["pinned"]
    assert site.repository.versions("reader") == [1, 2]
    assert site.repository.history("reader")[-1].alias == "pin"


def test_without_promotion_the_alias_stays(site: Site):
    site.write(FIRST)
    result = site.train(*PROBE, promote=False)
    assert (result.version, result.promoted) == (1, False)
    assert site.repository.aliases("reader").aliases.stable is None


def test_a_graph_that_differs_is_never_published(site: Site, monkeypatch):
    site.write(FIRST)
    original = lanes.export

    def export_something_else(graph, path, height, width, metadata):
        graph.network.head.bias.data += np.pi  # torch's answer stays what the graph had before
        graph.network.head.bias.data[0] -= 1.0
        original(graph, path, height, width, metadata)
        graph.network.head.bias.data -= np.pi
        graph.network.head.bias.data[0] += 1.0

    monkeypatch.setattr(lanes, "export", export_something_else)
    with pytest.raises(RefusedError, match="parity"):
        site.train(*PROBE)
    assert site.repository.versions("reader") == []
    left = [stat.key for stat in site.store.list("models/")]
    assert all(key.startswith("models/reader/checkpoints/") for key in left)


def test_the_proof_runs_at_several_batch_sizes(trained: tuple[Site, pipeline.Result]):
    assert parity.BATCHES == (1, 2, 32)
    _, result = trained
    assert 0 <= result.summary["parity_max_abs_probability_difference"] <= 1e-3


def test_a_stable_version_from_a_lost_snapshot_is_still_compared(site: Site):
    first = site.write(FIRST)
    assert site.train(*PROBE).promoted
    for stat in list(site.store.list(f"datasets/digits/snapshots/{first.id}/")):
        site.store.delete(stat.key)
    site.write(dict.fromkeys(FIRST, 50))
    result = site.train(*PROBE)
    assert result.verdict.stable_version == 1
    assert "snapshot is gone" in result.verdict.notes[0]


def test_a_stable_version_of_another_dataset_has_seen_what_it_was_trained_on(site: Site):
    manifest = site.write(FIRST)
    rows = SnapshotRepository(site.store).read("digits", manifest.id).rows
    turned = {"train": "test", "val": "val", "test": "train"}
    other = [
        row.model_copy(update={"split": turned[row.split], "group_id": f"other-{row.group_id}"})
        for row in rows
    ]
    SnapshotRepository(site.store).write(
        "mirrored", other, manifest.classes, {}, label_sequence=1, parent=None
    )
    assert site.train(*PROBE, dataset="mirrored").promoted
    verdict = site.train(*PROBE).verdict
    # Each of its test images was the other dataset's to learn from.
    assert verdict.reason.startswith("no test image can be compared with version 1")


def test_a_stable_version_of_other_making_is_compared(site: Site):
    publish_bundle(site.repository, "reader", promote=True)  # its input is named "pixels"
    site.write(FIRST)
    result = site.train(*PROBE)
    assert result.verdict.stable_version == 1
    assert result.verdict.label_change.removed == ["cat", "coffee", "rocket"]
    assert (result.version, result.promoted) == (2, True)


def test_a_dataset_without_a_snapshot_says_what_to_do(site: Site):
    with pytest.raises(NotFoundError, match="snapshot"):
        site.train()
