"""What /metrics says of the models in the store, when no training job is there to ask."""

from pathlib import Path

import pytest
from support.file_bundles import publish_version

from visionloop.objectstore import ObjectStore, open_store
from visionloop.repository import ModelRepository
from visionloop.telemetry import labeling as metrics
from visionloop.telemetry.metrics import values
from visionloop_labeling.model_gauges import ModelGauges


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(f"file://{tmp_path / 'store'}")


def value(gauge, *labels: str) -> float:
    return values()[gauge.metric.name][labels][0]


def test_newest_and_stable_versions_and_the_gates_verdicts(store, tmp_path) -> None:
    repository, model = ModelRepository(store), "gauged"
    gauges = ModelGauges(store)

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


def test_a_damaged_version_hides_no_other_model(store, tmp_path, caplog) -> None:
    repository = ModelRepository(store)
    publish_version(repository, tmp_path / "torn", model="a-torn", passed=True)
    publish_version(repository, tmp_path / "whole", model="b-whole", passed=True)
    (tmp_path / "store/models/a-torn/versions/1/report/gate.json").write_bytes(b"{}")
    gauges = ModelGauges(store)
    gauges.measure()
    gauges.measure()
    assert value(metrics.PUBLISHED_VERSION, "b-whole") == 1
    assert ("a-torn",) not in values()[metrics.PUBLISHED_TIMESTAMP.metric.name]
    assert caplog.text.count("is not what bundle.json says") == 1
