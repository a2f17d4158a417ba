"""Retraining as an operation: when it runs, by which lane, and what that makes."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from support.training_site import FIRST, PROBE, Site, fired, trigger

from visionloop.errors import ConfigurationError
from visionloop.record import record_bytes
from visionloop.repository import ModelRepository
from visionloop_training import body
from visionloop_training.app import main
from visionloop_training.data import Item
from visionloop_training.fresh import NewImages


def test_nothing_new_is_told_with_every_number(probed: Site, capsys: pytest.CaptureFixture[str]):
    site = probed
    same = site.train(*PROBE, if_needed=True)
    assert same.decision.lane is None
    assert "trained on this snapshot" in same.decision.reason

    site.write(dict.fromkeys(FIRST, 45))
    settings = [part for setting in PROBE for part in ("--set", setting)]
    where = ["--store", site.url, "--dataset", "digits", "--model", "reader"]
    where += ["--preset", "none"]  # as it was made
    cache = ["--cache", str(site.cache)]
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
    assert any(note.startswith("retired class 'Digit 2'") for note in retired.notes)
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


@pytest.mark.parametrize("wrong", [0, 7, 12, 40])
def test_errors_on_new_images_are_tested_exactly(wrong: int):
    stable: Any = SimpleNamespace(
        class_ids=("a", "b"), bundle=SimpleNamespace(metrics={"accuracy_low": 0.8})
    )
    items = tuple(Item(f"{n:064x}", int(n < wrong), f"g{n}", (), 1.0) for n in range(40))
    answered = NewImages(items, stable, np.tile(np.array([0.9, 0.1], np.float32), (40, 1)), None)
    found = answered.errors(("a", "b"))
    assert found is not None
    expected = binomtest(wrong, 40, 0.2, alternative="greater").pvalue
    assert (found.wrong, found.p_value) == (wrong, pytest.approx(expected))
