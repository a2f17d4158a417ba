"""Retraining as an operation: when it runs, by which lane, and what that makes."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from support.training_site import FIRST, PROBE, QUICK, Site

from visionloop.errors import ConfigurationError
from visionloop.record import record_bytes
from visionloop.repository import ModelRepository
from visionloop_training import body, pipeline
from visionloop_training.app import main
from visionloop_training.drift import SKETCH


def fired(result: pipeline.Result) -> set[str]:
    return {trigger.name for trigger in result.decision.triggers if trigger.fired}


def trigger(result: pipeline.Result, name: str):
    [found] = [one for one in result.decision.triggers if one.name == name]
    return found


def test_the_fast_lane_gives_the_stable_body_a_new_head(
    tuned: Site, trained: tuple[Site, pipeline.Result]
):
    """A network that was trained as any gets a fourth class and more labels, in a second."""
    site, first = tuned, trained[1]
    site.write({**dict.fromkeys(FIRST, 50), "3": 50})
    second = site.train(*QUICK, lane="fast")
    assert (second.version, second.promoted) == (2, True)
    assert second.metrics["accuracy"] > 0.8
    assert second.summary["lane"] == "fast"
    assert second.summary["features_computed"] == 4 * 30 + 4 * 10  # train and val: a new cache
    assert second.timings["fit"] < first.timings["fit"]
    [new, *_] = second.notes
    assert new.startswith("new class '3': the head has them from this version on")
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


def test_nothing_new_is_told_with_every_number(probed: Site, capsys: pytest.CaptureFixture[str]):
    site = probed
    same = site.train(*PROBE, if_needed=True)
    assert same.decision.lane is None
    assert "trained on this snapshot" in same.decision.reason

    site.write(dict.fromkeys(FIRST, 45))
    settings = [part for setting in PROBE for part in ("--set", setting)]
    where = ["--store", site.url, "--dataset", "digits", "--model", "reader"]
    where += ["--preset", "none"]  # as it was made
    cache = ["--cache", str(site.folder / "cache")]
    assert main([*where, *cache, *settings, "--if-needed", "--lane", "auto"]) == 0
    told = capsys.readouterr().out
    assert "nothing new: 15 new labels since the stable version (of 50" in told
    assert "[ ] new_labels" in told
    assert main([*where, *cache, *settings, "--if-needed", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["nothing_new"]
    names = [one["name"] for one in document["decision"]["triggers"]]
    assert names == [
        "new_labels", "labels_since_full", "label_drift", "classes", "configuration", "age",
        "fresh_errors", "embedding_drift",
    ]  # fmt: skip
    assert site.repository.versions("reader") == [1]


def test_new_labels_call_for_a_head_and_many_for_everything(probed: Site):
    site = probed
    few = (*PROBE, "triggers.min_new_labels=10", "triggers.fresh_images=0")
    site.write(dict.fromkeys(FIRST, 45))
    head = site.train(*few, if_needed=True, lane="auto", check_only=True)
    assert head.decision.lane == "fast"
    assert "15 new labels since the stable version" in head.decision.reason
    many = (*few, "triggers.full_label_share=0.1")
    everything = site.train(*many, if_needed=True, lane="auto", check_only=True)
    assert everything.decision.lane == "full"
    assert trigger(everything, "labels_since_full").value == 15


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


def test_another_mix_of_classes_calls_for_a_head(probed: Site):
    site = probed
    site.write({**FIRST, "1": 140})
    settings = (*PROBE, "triggers.min_new_labels=1000", "triggers.fresh_images=0")
    found = site.train(*settings, if_needed=True, lane="auto", check_only=True)
    assert fired(found) == {"label_drift"}
    assert found.decision.lane == "fast"


def test_age_configuration_and_classes_are_reasons(probed: Site):
    site = probed
    old = site.repository.read("reader", 1)
    site.store.put(
        "models/reader/versions/1/bundle.json",
        record_bytes(old.model_copy(update={"created": datetime.now(UTC) - timedelta(days=40)})),
    )
    site.write(dict.fromkeys(FIRST, 41))
    found = site.train(*PROBE, if_needed=True, check_only=True)
    assert fired(found) == {"age"}
    found = site.train(*PROBE, "triggers.max_age_days=0", if_needed=True)
    assert found.decision.lane is None
    found = site.train(*PROBE, "seed=1", if_needed=True, check_only=True)
    assert fired(found) == {"age", "configuration"}
    fewer = site.write({"0": 41, "1": 41}).id
    retired = site.train(
        *PROBE, "triggers.max_age_days=0", snapshot=fewer, if_needed=True, check_only=True
    )
    assert "classes" in fired(retired)
    assert any(note.startswith("retired class '2'") for note in retired.notes)
    # --lane fast has a head to make; what calls for everything is left to the full lane.
    fast = site.train(*PROBE, snapshot=fewer, if_needed=True, lane="fast", check_only=True)
    assert fast.decision.lane == "fast"
    idle = site.train(*PROBE, "seed=1", if_needed=True, lane="fast")
    assert idle.decision.lane is None
    assert "(the full lane is asked for: the configuration is another" in idle.decision.reason


def test_without_a_stable_version(site: Site):
    site.write(FIRST)
    idle = site.train(*PROBE, if_needed=True, lane="fast")
    assert idle.decision.lane is None
    assert "Run the full lane first" in idle.decision.reason
    with pytest.raises(ConfigurationError, match="there is none yet"):
        site.train(*PROBE, lane="fast")
    assert site.train(*PROBE, if_needed=True, lane="auto", check_only=True).decision.lane == "full"


def test_auto_asks_the_triggers(capsys: pytest.CaptureFixture[str]):
    assert main(["--lane", "auto", "--store", "file:///tmp"]) == 64
    assert "--lane auto asks the triggers, so it needs --if-needed" in capsys.readouterr().err


def test_a_head_that_answers_otherwise_than_its_parts_is_not_published(
    probed: Site, monkeypatch: pytest.MonkeyPatch
):
    site = probed
    site.write(dict.fromkeys(FIRST, 60))
    whole = body.Body.with_head

    def turned(self, head, path, metadata):
        whole(self, replace(head, bias=np.roll(head.bias + [9.0, 0, 0], 1)), path, metadata)

    monkeypatch.setattr(body.Body, "with_head", turned)
    with pytest.raises(Exception, match="parity"):
        site.train(*PROBE, lane="fast")
    assert ModelRepository(site.store).versions("reader") == [1]
