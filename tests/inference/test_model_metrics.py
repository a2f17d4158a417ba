"""What /metrics says of a model's age, and of a promotion that did not take effect."""

from pathlib import Path

import pytest
from support.bundles import promote_version, publish_bundle
from support.inference_server import running_server
from support.waiting import wait_for

from visionloop.repository import ModelRepository

PENDING = "visionloop_model_pending"
CREATED = "visionloop_model_created_timestamp_seconds"


def test_a_promotion_that_does_not_take_effect_is_pending(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    one = publish_bundle(repository, seed=1, promote=True)
    with running_server(tmp_path / "server", store_of_models) as server:
        server.serves(1)
        wait_for(lambda: server.metric(PENDING, model="cells") == 0)
        created = server.metric(CREATED, model="cells", alias="stable")
        assert created == pytest.approx(one.created.timestamp())
        publish_bundle(repository, seed=2, promote=True, wrong_golden=0)
        wait_for(lambda: server.metric(PENDING, model="cells") == 1, hint="a pending promotion")
        assert server.metric(CREATED, model="cells", alias="stable") == created
        # Back at the version that serves: nothing is loaded, yet it is settled.
        promote_version(repository, 1)
        wait_for(lambda: server.metric(PENDING, model="cells") == 0, hint="a settled alias")


def test_the_age_of_an_ended_canary_is_zero(
    tmp_path: Path, repository: ModelRepository, store_of_models: str
) -> None:
    publish_bundle(repository, seed=1, promote=True)
    two = publish_bundle(repository, seed=2)
    now = repository.aliases("cells")
    repository.set_canary("cells", 2, 5.0, expected=now, who="a test", why="to see its age")

    def age() -> float:
        return server.metric(CREATED, model="cells", alias="canary")

    with running_server(tmp_path / "server", store_of_models) as server:
        wait_for(lambda: age() == pytest.approx(two.created.timestamp()), hint="the canary")
        now = repository.aliases("cells")
        repository.end_canary("cells", expected=now, who="a test", why="it was seen")
        wait_for(lambda: age() == 0, hint="the end of the canary")


def test_rare_events_are_counted_from_zero(server) -> None:
    """Prometheus sees no increase from nothing to 1."""
    text = server.get("/metrics")[1]
    for series in (
        'visionloop_feedback_total{outcome="failed"}',
        'visionloop_restarts_total{process="runner"}',
        'visionloop_model_swap_total{result="refused"}',
    ):
        assert f"{series} " in text
