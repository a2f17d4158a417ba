"""Requests of a stream that come to the door again: how long, and what is counted."""

import contextlib
import time
from pathlib import Path

import pytest
from support.bundles import build_bundle

from visionloop.errors import OverloadedError, VisionloopError
from visionloop.telemetry import inference as metrics
from visionloop.telemetry.metrics import Counter, values
from visionloop_inference.admission import NoRoomError
from visionloop_inference.recognition import LONGEST_PAUSE, STREAM_PATIENCE, _Patience
from visionloop_inference.routed_version import RoutedVersion, TriedAgainError


def total(counter: Counter) -> float:
    """Over all its series, in this process."""
    return sum(value[0] for value in values().get(counter.metric.name, {}).values())


@pytest.mark.parametrize(
    ("error", "counted"),
    [(NoRoomError("queue_full", "no room", 0.1), (1, 1)), (TriedAgainError(0.1), (0, 0))],
)
def test_a_refusal_counts_when_its_caller_is_told(
    tmp_path: Path, error: VisionloopError, counted: tuple[int, int]
) -> None:
    version = RoutedVersion(build_bundle(tmp_path, golden=1, before_ready=1))
    before = total(metrics.REJECTED), total(metrics.NV_FAILURE)
    with contextlib.suppress(VisionloopError), version.use():
        raise error
    after = total(metrics.REJECTED), total(metrics.NV_FAILURE)
    assert (after[0] - before[0], after[1] - before[1]) == counted


def test_callers_know_no_other_reason_than_before() -> None:
    error = NoRoomError("late", "too late", 0.0)
    assert (error.reason, error.grpc_code) == ("overloaded", "RESOURCE_EXHAUSTED")
    assert error.retry_after_seconds is not None
    assert error.retry_after_seconds > 0


def test_patience_ends() -> None:
    patience = _Patience(None)
    pauses = []
    while (pause := patience.pause_after(OverloadedError("no room"))) is not None:
        pauses.append(pause)
    assert set(pauses) == {LONGEST_PAUSE}
    assert STREAM_PATIENCE - LONGEST_PAUSE <= sum(pauses) < STREAM_PATIENCE


@pytest.mark.parametrize(("left", "pause"), [(-1.0, None), (60.0, 0.5)])
def test_nothing_is_tried_again_after_the_deadline(left: float, pause: float | None) -> None:
    patience = _Patience(time.monotonic() + left)
    error = OverloadedError("no room", retry_after_seconds=0.5)
    assert patience.pause_after(error) == pause
