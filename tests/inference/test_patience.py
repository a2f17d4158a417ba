"""Requests of a stream that come to the door again: how long, and what is counted."""

import asyncio
import contextlib
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from support.bundles import SIDE, build_bundle

from visionloop.bundle import ClassifierBundle
from visionloop.errors import OverloadedError, VisionloopError
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.telemetry import inference as metrics
from visionloop.telemetry.metrics import Counter, values
from visionloop_inference.admission import (
    MINIMUM_PUSHBACK,
    Admission,
    ByteBudget,
    NoRoomError,
)
from visionloop_inference.datatypes import Answer
from visionloop_inference.decoding import Decoded
from visionloop_inference.levels import NORMAL
from visionloop_inference.recognition import (
    LONGEST_PAUSE,
    STREAM_PATIENCE,
    Recognition,
    _Patience,
)
from visionloop_inference.recognize_request import Asked
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


class Full:
    """A runner whose shared memory has no room at first, and a decoder that counts its images."""

    def __init__(self, bundle: ClassifierBundle, refusals: int) -> None:
        self.version: Any = RoutedVersion(bundle)
        self.version.run = self.run
        self.model: Any = SimpleNamespace(admission=Admission("door", 10, ByteBudget(1000)))
        self.refusals, self.decoded = refusals, 0

    async def decode(self, *_: Any, **__: Any) -> Decoded:
        self.decoded += 1
        return Decoded(np.zeros((SIDE, SIDE, 3), np.uint8), SIDE, SIDE, "0" * 64)

    async def run(self, *_: Any) -> Answer:
        assert self.model.admission.rows == 1  # it keeps its room at the door meanwhile
        if self.refusals:
            self.refusals -= 1
            raise OverloadedError("no shared memory", retry_after_seconds=1e-6)
        return Answer({})

    async def answered(self, patience: _Patience | None) -> pb.RecognizeResponse:
        nobody: Any = None
        recognition = Recognition(nobody, cast(Any, self), 16, nobody)
        message = pb.RecognizeRequest(images=[pb.EncodedImage()])
        asked = Asked(message, [memoryview(b"image")], 5)
        return await recognition._answer(asked, self.model, self.version, None, NORMAL, patience)


def test_a_full_runner_is_waited_for_with_what_was_decoded(tmp_path: Path) -> None:
    full = Full(build_bundle(tmp_path, golden=1, before_ready=1), refusals=3)
    response = asyncio.run(full.answered(_Patience(None)))
    assert len(response.results) == 1
    assert (full.refusals, full.decoded, full.model.admission.rows) == (0, 1, 0)


@pytest.mark.parametrize("patience", [None, _Patience(time.monotonic() - 1)])
def test_a_full_runner_is_not_waited_for_by_others(
    tmp_path: Path, patience: _Patience | None
) -> None:
    full = Full(build_bundle(tmp_path, golden=1, before_ready=1), refusals=1)
    with pytest.raises(OverloadedError, match="no shared memory"):
        asyncio.run(full.answered(patience))
    assert full.model.admission.rows == 0


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


def test_a_wish_of_next_to_nothing_is_no_storm_of_tries() -> None:
    """A runner whose memory is full wishes what its rows take: microseconds, for a tiny graph."""
    error = OverloadedError("no shared memory", retry_after_seconds=1e-6)
    assert _Patience(None).pause_after(error) == MINIMUM_PUSHBACK


@pytest.mark.parametrize(("left", "pause"), [(-1.0, None), (60.0, 0.5)])
def test_nothing_is_tried_again_after_the_deadline(left: float, pause: float | None) -> None:
    patience = _Patience(time.monotonic() + left)
    error = OverloadedError("no room", retry_after_seconds=0.5)
    assert patience.pause_after(error) == pause
