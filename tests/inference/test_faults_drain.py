"""SIGTERM with many callers on many connections: every request that was accepted is answered."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from support.bundles import SIDE, encoded, publish_bundle
from support.inference_server import running_server

from bench.soak.callers import Callers
from bench.soak.load import METHOD, Plan
from visionloop.repository import ModelRepository

ROUNDS = int(os.environ.get("KILL_ROUNDS", "1"))
WATCHERS, STUBBORN = 3, 3  # processes
GRACE = 25.0  # the default of --drain-seconds
LOAD = Path(__file__).with_name("load.py")


@pytest.mark.kill
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_callers_who_watch_health_lose_nothing_and_nobody_loses_an_answer(
    tmp_path: Path, repository: ModelRepository, store_of_models: str, round_: int
) -> None:
    """Half of the callers look at the server's health and stop; the others never do, and are
    turned away in the end. What the server says it answered, they have got."""
    publish_bundle(repository, seed=1, promote=True)
    np.save(tmp_path / "rows.npy", np.zeros((4, SIDE, SIDE, 3), np.uint8))
    image = tmp_path / "image.jpg"
    image.write_bytes(encoded(1))
    flags = ("--access-log=1", "--drain-quiet-seconds=0.5", "--drain-seconds=6")
    with running_server(tmp_path / "server", store_of_models, *flags) as server:
        server.ready()
        plan = Plan(
            server.target, "cells", str(tmp_path / "rows.npy"), "pixels", "probabilities",
            in_flight=8, connections=4,
        )  # fmt: skip
        with ExitStack() as stack:
            stubborn = [
                stack.enter_context(Callers(plan, tmp_path, f"caller-{index}"))
                for index in range(STUBBORN)
            ]
            watchers = [
                subprocess.Popen(
                    [sys.executable, str(LOAD), server.target, "30", str(image)],
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for _ in range(WATCHERS)
            ]
            for watcher in watchers:
                assert watcher.stdout is not None
                assert watcher.stdout.readline() == "under way\n"
            for callers in stubborn:
                callers.answering()
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            reports = [json.loads(watcher.communicate(timeout=60)[0]) for watcher in watchers]
            assert server.process.wait(timeout=60) == 0
            assert time.monotonic() - began < GRACE
    for report in reports:
        assert report["failures"] == []
        assert report["answered"] == report["sent"] >= 10
    got = Counter(call.status for callers in stubborn for call in callers.calls)
    # Turned away by us; CANCELLED is gRPC's word for what came in the very last moment, before
    # anything of ours saw it.
    turned_away = [c for callers in stubborn for c in callers.calls if "shutting down" in c.details]
    assert turned_away
    assert set(got) <= {"OK", "UNAVAILABLE", "CANCELLED"}, got
    assert got["CANCELLED"] <= len(turned_away)
    assert answered(server.log) == got["OK"] > 100
    assert "CANCELLED" not in server.text()


def answered(log: Path) -> int:
    """The ModelInfer calls that the server logged as answered well."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if METHOD[1:] in line]
    return sum("OK" in line.values() for line in lines)
