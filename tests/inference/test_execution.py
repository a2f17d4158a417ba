"""What becomes of a batch that fails as a whole: a row that is wrong, or a GPU that is lost."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.runners import tensor_bundle, tiny

from visionloop_inference import runner, runner_process
from visionloop_inference.batching import BatchQueue, Job
from visionloop_inference.datatypes import Arrays
from visionloop_inference.execution import Execution
from visionloop_inference.pace import Pace
from visionloop_inference.providers import CPU, Target
from visionloop_inference.rows import Arena
from visionloop_inference.session import DeviceLostError, GraphRunFailedError, OutOfMemoryError
from visionloop_inference.wire import JobFrame, Layout, Reason


class FrontEnd:
    """A front end without a socket."""

    def __init__(self) -> None:
        self.arena = Arena.create(2**16)
        self.failures: list[dict[int, str]] = []  # of the jobs that were answered
        self.refused: list[Reason] = []

    def answer(self, job: Job, outputs: Arrays) -> None:
        self.failures.append(job.failures)

    def refuse(self, job: Job, reason: Reason, text: str, retry_after: float = math.nan) -> None:
        self.refused.append(reason)


class Failing:
    """A session that fails on every row above 0 or, where it is `lost`, on all."""

    overlaps = False

    def __init__(self, target: Target, lost: Exception | None) -> None:
        self.target = target
        self._lost = lost

    def run(self, inputs: Arrays) -> Arrays:
        if self._lost is not None:
            raise self._lost
        if inputs[0].max() > 0:
            raise GraphRunFailedError("wrong")
        return inputs


@pytest.fixture
def front_end() -> Iterator[FrontEnd]:
    made = FrontEnd()
    yield made
    made.arena.close()


def run(front_end: FrontEnd, session: Failing, folder: Path, values: list[float]) -> None:
    """One batch of a row for each value; rows of zeros are what the graph is known to run on."""
    made: Any = session
    bundle = tensor_bundle(folder, tiny())
    queue = BatchQueue(8)
    layout = Layout(bundle.signature)
    execution = Execution(
        made, layout, queue, Pace(0.001, 0.001, 8), bundle,
        lambda rows: [np.zeros((rows, 4), np.float32)],
    )  # fmt: skip
    rows = np.repeat(np.asarray(values, np.float32), 4)
    offset = front_end.arena.allocate(rows.nbytes)
    assert offset is not None
    front_end.arena.view(offset, rows.nbytes)[:] = rows.tobytes()
    place = (offset, rows.nbytes, (4,))
    queue.put(Job(front_end, JobFrame(1, len(values), 0, math.inf, (0, 0), (place,)), {}))
    execution.step()


GPU = Target("cuda")
LOST = GraphRunFailedError("CUDA failure 700: an illegal memory access was encountered")


@pytest.mark.parametrize("target", [CPU, GPU])
@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0, 1.0], [0.0, 1.0]])
def test_rows_that_are_wrong_fail_alone(
    front_end: FrontEnd, tmp_path: Path, target: Target, values: list[float]
) -> None:
    run(front_end, Failing(target, None), tmp_path, values)
    assert not front_end.refused
    assert front_end.failures == [{at: "wrong" for at, value in enumerate(values) if value}]


def test_a_gpu_that_runs_nothing_any_more_ends_the_runner(
    front_end: FrontEnd, tmp_path: Path
) -> None:
    with pytest.raises(DeviceLostError, match=r"does not run any more.*illegal memory access"):
        run(front_end, Failing(GPU, LOST), tmp_path, [0.0, 0.0])
    assert front_end.failures == []  # their callers see the end of the link, and try again


def test_a_lost_gpu_is_told_from_one_that_is_full(front_end: FrontEnd, tmp_path: Path) -> None:
    """To onnxruntime both have no memory, but on a full one runs what has its memory already."""

    class Full(Failing):
        def run(self, inputs: Arrays) -> Arrays:
            if inputs[0].max() > 0:
                raise OutOfMemoryError("no memory")
            return super().run(inputs)

    with pytest.raises(DeviceLostError, match="illegal memory access"):
        run(front_end, Full(GPU, LOST), tmp_path, [1.0, 1.0])
    assert not front_end.refused
    run(front_end, Full(GPU, None), tmp_path, [1.0, 1.0])
    assert front_end.refused == [Reason.OVERLOADED]


@pytest.mark.parametrize("target", [CPU, GPU])
def test_nothing_else_ends_it(front_end: FrontEnd, tmp_path: Path, target: Target) -> None:
    """A CPU is not lost; and memory may come back."""
    if target is CPU:
        run(front_end, Failing(CPU, LOST), tmp_path, [0.0])
        assert front_end.failures == [{0: str(LOST)}]
        return

    class Hungry(Failing):
        def run(self, inputs: Arrays) -> Arrays:
            if inputs[0].max() > 0:
                raise GraphRunFailedError("wrong")
            raise OutOfMemoryError("no memory")

    run(front_end, Hungry(GPU, None), tmp_path, [1.0])
    assert front_end.failures == [{0: "wrong"}]


def test_the_process_of_a_lost_gpu_ends_without_tidying_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What there is to tidy up is on the card: it would hang, or abort."""

    class Ended(BaseException):
        pass

    def serve(_: object) -> None:
        raise DeviceLostError("the graph does not run any more")

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(runner, "serve", serve)
    monkeypatch.setattr(runner_process, "begin", lambda *_: None)
    monkeypatch.setattr(runner_process, "settle_garbage_collector", lambda: None)
    monkeypatch.setattr(runner_process.Control, "of_fd", lambda _: None)
    monkeypatch.setattr(runner_process.logging, "shutdown", lambda: None)
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr("sys.argv", ["runner", "3"])
    with pytest.raises(Ended) as ended:
        runner_process.main()
    assert ended.value.args == (DeviceLostError.exit_code,)
    assert "does not run any more" in caplog.text
