"""mobilenet_v3_small swapped again and again under load: nothing fails, nothing is mixed up."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.inference_server import running_server

from bench.soak.callers import Callers, saturating_rate
from bench.soak.load import Call
from bench.soak.versions import Versions
from visionloop.repository import ModelRepository

SECONDS = 60.0 if "KILL_ROUNDS" in os.environ else 10.0
STEADY_SECONDS = 0.4 * SECONDS
EVERY = 2.0  # seconds between two promotions
# A swap measures and tests a graph beside the one that serves, and machines that run tests do a
# few other things, too: the bound is for what hangs, the figures are in the test's report.
MOST_TIMES_STEADY = 30.0


def p99(calls: list[Call]) -> float:
    return float(np.percentile([call.seconds for call in calls], 99))


@pytest.mark.long
def test_swaps_every_two_seconds_lose_nothing_and_mix_nothing_up(
    tmp_path: Path,
    repository: ModelRepository,
    store_of_models: str,
    record_property: Callable[[str, object], None],
) -> None:
    versions = Versions(tmp_path / "models")
    versions.publish(repository, "test")
    with running_server(tmp_path / "server", store_of_models) as server:
        server.ready()
        rate = saturating_rate(versions.plan(server.target), tmp_path, 1.5) / 2
        with Callers(versions.plan(server.target, rate=rate), tmp_path) as callers:
            callers.answering()
            time.sleep(STEADY_SECONDS)  # what is compared with needs time, not an event
            began = time.monotonic()
            last = 1
            while time.monotonic() < began + SECONDS:
                last = versions.publish(repository, "test")
                time.sleep(max(0.0, began + (last - 1) * EVERY - time.monotonic()))
            server.serves(last)
            ended = time.monotonic()
        swapped = server.metric("visionloop_model_swap_total", result="swapped")
        assert server.terminate() == 0
    assert [call for call in callers.calls if call.status != "OK"] == []
    assert [call for call in callers.calls if not versions.is_right(call)] == []
    assert swapped >= 3
    assert max(call.version for call in callers.calls) == last
    steady = p99([call for call in callers.calls if call.answered < began])
    swapping = p99([call for call in callers.calls if began <= call.sent < ended])
    for name, value in (
        ("rate", rate),
        ("swaps", swapped),
        ("p99_steady", steady),
        ("p99_swaps", swapping),
    ):
        record_property(name, value)
    assert swapping < MOST_TIMES_STEADY * steady, (
        f"p99 {1000 * swapping:.1f} ms while {swapped:.0f} versions were swapped, "
        f"{1000 * steady:.1f} ms before, at {rate:.0f} calls/s"
    )
