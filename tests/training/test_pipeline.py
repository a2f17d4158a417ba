"""Whole runs on real digits with real pretrained weights: what reaches the store, and when."""

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from support import onnx_graphs
from support.bundles import publish_bundle
from support.training_site import FIRST, PROBE, Site

from visionloop.errors import ConfigurationError, NotFoundError, RefusedError
from visionloop.repository import ModelRepository
from visionloop.snapshot import SnapshotRepository
from visionloop_training import (
    body,
    costs,
    earlier_verdict,
    export,
    features,
    lanes,
    pipeline,
    software,
)
from visionloop_training.clock import Clock
from visionloop_training.earlier_verdict import JudgedVersion, judged_before
from visionloop_training.job import opened
from visionloop_training.looks import Judgement, earlier_looks
from visionloop_training.triggers import Decision
from visionloop_training.words import told


def test_a_second_round_computes_new_images_only_and_is_compared_in_pairs(probed: Site):
    site = probed
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
    site.write({"0": 60, "1": 60, "2": 60})
    assert site.train(*PROBE).promoted
    refused = site.train(*BAD)
    assert (refused.version, refused.promoted, refused.stable) == (2, False, 1)
    assert "significantly worse" in refused.verdict.reason
    assert site.repository.versions("reader") == [1, 2]
    assert site.repository.aliases("reader").aliases.stable == 1
    again = site.train(*BAD)  # as a schedule does each night
    assert (again.version, again.promoted, again.already_judged) == (2, False, True)
    assert again.as_json()["verdict"] == refused.as_json()["verdict"]
    assert again.summary == refused.summary
    assert "nothing was trained, and that verdict stands" in told("reader", again)
    forced = site.train(*BAD, force=True, who="operator")
    assert (forced.version, forced.promoted) == (2, True)
    newest = site.repository.history("reader")[-1]
    assert (newest.version, newest.who) == (2, "operator")
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


def test_an_alias_that_moved_meanwhile_is_left_alone(probed: Site, monkeypatch):
    site = probed
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
    # What was learned is kept, for the run that judges it against the new stable version.
    assert list(site.store.list("models/reader/checkpoints/")) != []
    assert site.repository.aliases("reader").aliases.stable == 1
    assert site.repository.versions("reader") == [1, 2]


@pytest.mark.long
def test_a_pinned_stable_stays_and_the_version_is_published(probed: Site):
    site = probed
    current = site.repository.aliases("reader")
    site.repository.pin("reader", expected=current, who="ada", why="the audit")
    result = site.train(*PROBE, again=True, force=True)  # --force is about the gate
    assert (result.version, result.promoted, result.stable) == (2, False, 1)
    assert "pinned at version 1 by ada" in result.as_json()["pinned"]
    assert site.repository.versions("reader") == [1, 2]
    assert site.repository.history("reader")[-1].alias == "pin"


def test_a_run_that_is_killed_goes_on_from_where_it_was(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Between fitting and publishing nothing is learned twice, between publishing and promoting
    nothing is made or asked twice."""
    caplog.set_level("INFO")
    site.write(FIRST)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for stage in ("_published", "promote"):
        with monkeypatch.context() as patched:
            patched.setattr(pipeline, stage, killed)
            with pytest.raises(KeyboardInterrupt):
                site.train(*PROBE)
    assert "fitting was over, after step 0: going on from its end" in caplog.text
    assert site.repository.versions("reader") == [1]
    monkeypatch.setattr(lanes, "fit", killed)
    again = site.train(*PROBE)
    assert (again.version, again.promoted, again.already_judged) == (1, True, True)
    assert again.verdict.looks == []
    assert site.repository.versions("reader") == [1]
    assert site.repository.history("reader")[-1].why == f"gate passed: {again.verdict.reason}"
    assert list(site.store.list("models/reader/checkpoints/")) == []


def test_a_candidate_refused_for_its_latency_alone_is_timed_again(
    probed: Site, monkeypatch: pytest.MonkeyPatch
):
    """It says as much of the machine that night; nothing is trained, and no test image asked."""
    site = probed
    busy, quiet = [9.0, 1.0], [1.0, 1.0]  # milliseconds of candidate and stable version
    taken = [busy, busy, busy, quiet]
    monkeypatch.setattr(costs, "milliseconds", lambda _: taken.pop(0))
    limited = (*PROBE, "gate.max_latency_ratio=2")
    large = (*limited, "gate.max_megabytes=0.001")
    assert site.train(*large).verdict.failed == ["latency", "size"]
    refused = site.train(*limited)
    assert (refused.version, refused.verdict.failed) == (3, ["latency"])

    def learns(*_: object) -> None:
        raise AssertionError("it trains again")

    monkeypatch.setattr(lanes, "fit", learns)
    still = site.train(*limited)
    assert (still.version, still.promoted, still.timed_again) == (3, False, True)
    assert still.as_json()["verdict"] == refused.as_json()["verdict"]
    assert "only the latency, for which alone it was refused, was measured again" in told(
        "reader", still
    )
    assert not site.train(*large).timed_again  # a smaller file is not what time brings
    now = site.train(*limited)
    assert (now.version, now.promoted, now.stable) == (3, True, 3)
    assert now.as_json()["timed_again"]
    assert now.verdict.looks == refused.verdict.looks
    latency = [check for check in now.verdict.checks if check.name == "latency"]
    assert [check.numbers["ratio"] for check in latency] == [1.0]
    newest = site.repository.history("reader")[-1]
    assert newest.why.endswith(f"; timed again: {latency[0].words}")
    assert taken == []


@pytest.mark.long
def test_what_is_gone_on_from_was_made_and_judged_as_it_would_be_now(probed: Site):
    """Another setting, stable version or program makes another candidate; and what was stable once
    was taken back by somebody."""
    site = probed
    manual = (*PROBE, "gate.mode=manual")
    assert site.train(*manual).version == 2
    decision = Decision("full", "asked for")

    def found(*settings: str, **options: Any) -> JudgedVersion | None:
        request = site.request(*settings, **options)
        job = opened(request, Clock(request))
        lane = pipeline._lane(job, decision)
        lane.load()
        return judged_before(job, lane)

    judged = found(*manual)
    assert judged is not None
    assert (judged.bundle.version, judged.verdict.mode) == (2, "manual")
    assert found(*manual, "triggers.min_new_labels=9") is not None
    assert found(*manual, "seed=1") is None
    assert found(*manual, "gate.alpha=0.1") is None
    others: tuple[tuple[object, str, object], ...] = (
        (software, "libraries", lambda: {"torch": "0"}),
        (software, "code_version", lambda: "0"),
        (earlier_verdict, "FORMAT_VERSION", 4),
        (lanes.FullLane, "on_gpu", True),  # which gets a 16-bit sibling as well
    )
    for owner, name, value in others:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(owner, name, value)
            assert found(*manual) is None, name
    assert found(*manual) is not None

    def promote(version: int) -> None:
        current = site.repository.aliases("reader")
        site.repository.promote("reader", version, expected=current, who="ada", why="by hand")

    promote(2)
    assert found(*manual) is None
    promote(1)
    assert found(*manual) is None
    # The same file against the same version is the same look, however often it was published.
    graph = judged.bundle.files[judged.bundle.graph].sha256
    again = site.train(*manual, again=True)
    assert (again.version, again.verdict.looks) == (3, [1])
    assert site.repository.read("reader", 3).files["model.onnx"].sha256 == graph
    looks = {
        against: earlier_looks(site.repository, "reader", "digits", Judgement(graph, against))
        for against in (1, 2)
    }
    assert looks == {1: [1], 2: [1, 2]}
    newest = found(*manual)
    assert newest is not None
    assert newest.bundle.version == 3
    site.write(dict.fromkeys(FIRST, 45))  # another snapshot
    assert found(*manual) is None


def test_a_gpu_without_room_is_told_with_what_helps(site: Site, monkeypatch: pytest.MonkeyPatch):
    site.write(FIRST)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has")

    monkeypatch.setattr(lanes, "fit", full)
    with pytest.raises(ConfigurationError, match=r"Tried to allocate 2\.00 GiB; lower") as caught:
        site.train(*PROBE, "fit.batch_size=16")
    assert "fit.batch_size (16)" in str(caught.value)
    assert caught.value.field == "fit.batch_size"


@pytest.mark.long
def test_without_promotion_the_alias_stays(site: Site):
    site.write(FIRST)
    result = site.train(*PROBE, promote=False)
    assert (result.version, result.promoted) == (1, False)
    assert site.repository.aliases("reader").aliases.stable is None


@pytest.mark.long
def test_where_only_the_head_is_trained_the_body_is_exported_once(
    probed: Site, monkeypatch: pytest.MonkeyPatch
):
    """For the features: that graph gets the head, and is proven as ever. With hidden layers the
    whole network is exported."""
    exported = []
    original = export.export_module

    def counted(module: torch.nn.Module, *arguments: Any) -> None:
        exported.append(type(module).__name__)
        original(module, *arguments)

    monkeypatch.setattr(export, "export_module", counted)
    monkeypatch.setattr(features, "export_module", counted)
    (probed.cache / "graphs").unlink()
    shutil.rmtree(probed.cache / "activations")
    result = probed.train(*PROBE, "gate.mode=manual")
    assert exported == ["_Bottom"]
    assert result.summary["parity_max_abs_probability_difference"] < 1e-5
    first, second = (probed.repository.read("reader", n).files["model.onnx"] for n in (1, 2))
    assert first.sha256 == second.sha256
    probed.train(*PROBE, "head.hidden=[4]")
    assert exported == ["_Bottom", "Graph"]


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
        site.train(*PROBE, "fit.freeze=0.5")

    def another_head(weight, bias, link):
        return body.LinearHead(weight, bias + np.eye(1, len(bias), dtype=np.float32)[0], link)

    monkeypatch.setattr(lanes, "LinearHead", another_head)  # put on the features' graph
    with pytest.raises(RefusedError, match="parity"):
        site.train(*PROBE)
    assert site.repository.versions("reader") == []
    left = [stat.key for stat in site.store.list("models/")]
    assert all(key.startswith("models/reader/checkpoints/") for key in left)


@pytest.mark.long
def test_a_stable_version_from_a_lost_snapshot_is_still_compared(probed: Site):
    site = probed
    [first] = SnapshotRepository(site.store).list("digits")
    for stat in list(site.store.list(f"datasets/digits/snapshots/{first.id}/")):
        site.store.delete(stat.key)
    site.write(dict.fromkeys(FIRST, 50))
    result = site.train(*PROBE)
    assert result.verdict.stable_version == 1
    assert "snapshot is gone" in result.verdict.notes[0]


@pytest.mark.long
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


@pytest.mark.long
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
