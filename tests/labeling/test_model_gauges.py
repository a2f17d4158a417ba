"""What /metrics says of the models in the store, when no training job is there to ask."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select
from support.file_bundles import NO_SNAPSHOT, publish_version
from support.pictures import noise
from support.runners import tensor_bundle, tiny

from bench.query_plans import captured
from visionloop.aliases import AliasMove
from visionloop.images import Limits
from visionloop.repository import ModelRepository
from visionloop.snapshot import SnapshotManifest
from visionloop.telemetry import labeling as metrics
from visionloop.telemetry.metrics import values
from visionloop_labeling import datasets
from visionloop_labeling.database import open_database
from visionloop_labeling.ingest import Ingest
from visionloop_labeling.learned_labels import TrainedOn
from visionloop_labeling.model_gauges import ModelGauges
from visionloop_labeling.schema import LabelEvent

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def value(gauge, *labels: str) -> float:
    return values()[gauge.metric.name][labels][0]


def test_newest_and_stable_versions_and_the_gates_verdicts(core, tmp_path) -> None:
    repository, model = ModelRepository(core.store), "gauged"
    gauges = ModelGauges(core.database, core.store)

    def publish(passed: bool | None):
        folder = tmp_path / f"run-{len(repository.versions(model))}"
        return publish_version(repository, folder, model=model, passed=passed)

    first = publish(passed=True)
    gauges.measure()
    assert value(metrics.PUBLISHED_VERSION, model) == 1
    assert value(metrics.PROMOTED_VERSION, model) == 0
    assert value(metrics.REFUSED_IN_A_ROW, model) == 0

    now = repository.aliases(model)
    moved = repository.promote(model, 1, expected=now, who="a test", why="it is the first")
    publish(passed=False)
    last = publish(passed=False)
    gauges.measure()
    assert value(metrics.PUBLISHED_VERSION, model) == 3
    assert value(metrics.PUBLISHED_TIMESTAMP, model) == pytest.approx(last.created.timestamp())
    assert value(metrics.PROMOTED_VERSION, model) == 1
    assert value(metrics.PROMOTED_TIMESTAMP, model) == pytest.approx(moved.at.timestamp())
    assert value(metrics.REFUSED_IN_A_ROW, model) == 2
    for alias in ("newest", "stable"):
        assert value(metrics.VERSION_METRIC, model, alias, "accuracy") == first.metrics["accuracy"]

    # A move of the canary is none of stable, and a version without a verdict was not refused.
    canary = repository.aliases(model)
    repository.set_canary(model, 3, 5.0, expected=canary, who="a test", why="to be sure")
    publish(passed=None)
    gauges.measure()
    assert value(metrics.PROMOTED_TIMESTAMP, model) == pytest.approx(moved.at.timestamp())
    assert value(metrics.REFUSED_IN_A_ROW, model) == 0


def test_a_damaged_version_hides_no_other_model(core, tmp_path, caplog) -> None:
    repository = ModelRepository(core.store)
    publish_version(repository, tmp_path / "torn", model="a-torn", passed=True)
    publish_version(repository, tmp_path / "whole", model="b-whole", passed=True)
    (tmp_path / "store/models/a-torn/versions/1/report/gate.json").write_bytes(b"{}")
    gauges = ModelGauges(core.database, core.store)
    gauges.measure()
    gauges.measure()
    assert value(metrics.PUBLISHED_VERSION, "b-whole") == 1
    assert ("a-torn",) not in values()[metrics.PUBLISHED_TIMESTAMP.metric.name]
    assert caplog.text.count("is not what bundle.json says") == 1


class Trained:
    """A model whose versions say what they were trained on."""

    def __init__(self, core, folder: Path, model: str) -> None:
        self.model = model
        self._folder = folder
        self._repository = ModelRepository(core.store)

    def publish(self, snapshot: str) -> None:
        number = len(self._repository.versions(self.model)) + 1
        folder = self._folder / f"{self.model}-{number}"
        publish_version(self._repository, folder, model=self.model, snapshot=snapshot)

    def promote(self, version: int) -> AliasMove:
        now = self._repository.aliases(self.model)
        return self._repository.promote(
            self.model, version, expected=now, who="a test", why="it is good"
        )

    def told(self) -> float | None:
        """Seconds, or None without a series."""
        found = values()[metrics.LABEL_TO_SERVING_SECONDS.metric.name]
        return found.get((self.model,), [None])[0]


def labelled(core, first: int, count: int) -> SnapshotManifest:
    core.submit_all((noise(number), "ab"[number % 2]) for number in range(first, first + count))
    return core.cut().manifest


def seconds(core, sequence: int, move: AliasMove) -> float:
    with core.database.read() as session:
        query = select(LabelEvent.at).where(LabelEvent.sequence == sequence)
        return (move.at - session.scalars(query).one()).total_seconds()


def test_from_the_middle_one_of_the_new_labels_until_stable_meant_the_version(
    core, tmp_path
) -> None:
    model = Trained(core, tmp_path, "learning")
    gauges = ModelGauges(core.database, core.store)
    first, second = labelled(core, 0, 4), labelled(core, 4, 5)
    for snapshot in (first.id, second.id, NO_SNAPSHOT):
        model.publish(snapshot)
    gauges.measure()
    assert model.told() is None
    one = model.promote(1)
    gauges.measure()
    assert model.told() == pytest.approx(seconds(core, 2, one), abs=1e-6)  # of 1 to 4
    two = model.promote(2)
    gauges.measure()
    assert model.told() == pytest.approx(seconds(core, 7, two), abs=1e-6)  # of 5 to 9
    model.promote(3)
    gauges.measure()
    assert model.told() is None, "nobody knows what version 3 was trained on"
    model.promote(1)  # rolled back: its labels had been learned long before
    gauges.measure()
    assert model.told() == pytest.approx(seconds(core, 2, one), abs=1e-6)
    with captured() as queries:
        gauges.measure()
    assert queries == []


def test_a_version_that_learned_no_new_label_has_no_time(core, tmp_path) -> None:
    model = Trained(core, tmp_path, "unlearned")
    labelled(core, 0, 3)
    with core.database.write() as session:  # the same labels under another policy
        dataset = datasets.find(session, "cells", lock=True)
        dataset.settings = {**dataset.settings, "train_on_app_labels": False}
    again = core.cut()
    assert again.created
    model.publish(again.manifest.id)
    model.promote(1)
    ModelGauges(core.database, core.store).measure()
    assert model.told() is None


@pytest.mark.parametrize("images", [2, 6])
def test_another_database_knows_nothing_of_a_versions_labels(core, tmp_path, images: int) -> None:
    """Whether it is behind or has other events under the same sequences."""
    model = Trained(core, tmp_path, f"of-another-{images}")
    model.publish(labelled(core, 0, 5).id)
    model.promote(1)
    database = open_database(f"sqlite:///{tmp_path / 'another.db'}")
    ingest = Ingest(database, core.store, Limits())
    another = replace(core, database=database, ingest=ingest)
    another.create()
    another.submit_all((noise(number), "a") for number in range(images))
    ModelGauges(database, core.store).measure()
    assert model.told() is None
    ingest.close()
    database.close()
    ModelGauges(core.database, core.store).measure()
    assert model.told() is not None


def test_what_was_added_as_a_file_was_trained_on_nothing_we_know(core, tmp_path) -> None:
    assert TrainedOn.of(tensor_bundle(tmp_path, tiny())) is None
