"""The queue and the batches."""

import asyncio
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionloop.errors import DeadlineExceededError, VisionloopError
from visionloop_inference.batching import Answer, BatchQueue, Job, gather, resolve, scatter


def job(
    first: int, count: int, loop: asyncio.AbstractEventLoop, deadline: float | None = None
) -> Job:
    """A job whose row i holds the number first + i in every pixel of 2 x 2."""
    rows = np.stack([np.full((2, 2, 3), first + i, np.uint8) for i in range(count)])
    answer = Answer({"y": np.full((count, 1), np.nan, np.float32)})
    return Job(rows, loop.create_future(), deadline, answer)


@pytest.fixture
def loop() -> asyncio.AbstractEventLoop:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), max_batch=st.integers(1, 8))
@settings(max_examples=150, deadline=None)
def test_every_row_runs_once_in_order_and_comes_back_to_its_job(
    sizes: list[int], max_batch: int
) -> None:
    loop = asyncio.new_event_loop()
    queue = BatchQueue(max_batch)
    jobs = []
    for size in sizes:
        jobs.append(job(sum(sizes[: len(jobs)]), size, loop))
        queue.put(jobs[-1])
    queue.close()
    buffer = np.empty((max_batch, 2, 2, 3), np.uint8)
    seen: list[int] = []
    while (taken := queue.take()) is not None:
        pieces, dead = taken
        assert not dead
        batch = gather(pieces, buffer)
        assert 1 <= len(batch) <= max_batch
        seen += batch[:, 0, 0, 0].tolist()
        outputs = {"y": batch[:, 0, 0, :1].astype(np.float32)}
        scatter(pieces, outputs, {})
        resolve([piece.job for piece in pieces if piece.job.done == len(piece.job.rows)], 0.0)
    assert seen == list(range(sum(sizes)))
    for one in jobs:
        assert one.future.result().outputs["y"][:, 0].tolist() == one.rows[:, 0, 0, 0].tolist()
    loop.close()


def test_a_batch_takes_all_that_is_there(loop: asyncio.AbstractEventLoop) -> None:
    queue = BatchQueue(8)
    for first in range(5):
        queue.put(job(first, 1, loop))
    pieces, _ = queue.take() or ([], [])
    assert [piece.job.rows[0, 0, 0, 0] for piece in pieces] == [0, 1, 2, 3, 4]


def test_cancelled_and_expired_jobs_never_reach_a_batch(loop: asyncio.AbstractEventLoop) -> None:
    queue = BatchQueue(8)
    cancelled, expired = job(0, 2, loop), job(2, 2, loop, deadline=time.monotonic() - 1)
    alive = job(4, 2, loop, deadline=time.monotonic() + 60)
    for one in (cancelled, expired, alive):
        queue.put(one)
    cancelled.future.cancel()
    pieces, dead = queue.take() or ([], [])
    assert [piece.job for piece in pieces] == [alive]
    assert dead == [cancelled, expired]
    resolve(dead, time.monotonic())
    with pytest.raises(DeadlineExceededError, match="before 2 of 2 rows had run"):
        expired.future.result()


def test_a_job_cancelled_between_two_batches_loses_its_other_rows(
    loop: asyncio.AbstractEventLoop,
) -> None:
    queue = BatchQueue(2)
    long, next_one = job(0, 5, loop), job(5, 1, loop)
    queue.put(long)
    queue.put(next_one)
    assert [piece.size for piece in (queue.take() or ([], []))[0]] == [2]
    long.future.cancel()
    pieces, dead = queue.take() or ([], [])
    assert (dead, [piece.job for piece in pieces]) == ([long], [next_one])


def test_take_waits_for_work_and_ends_when_closed(loop: asyncio.AbstractEventLoop) -> None:
    queue = BatchQueue(4)
    taken: list[object] = []

    def consume() -> None:
        while (found := queue.take()) is not None:
            taken.append(found)

    consumer = threading.Thread(target=consume)
    consumer.start()
    queue.put(job(0, 1, loop))
    queue.close()
    consumer.join(timeout=30)
    assert not consumer.is_alive()
    assert len(taken) == 1
    with pytest.raises(RuntimeError, match="closed queue"):
        queue.put(job(1, 1, loop))


def test_failures_go_to_their_rows(loop: asyncio.AbstractEventLoop) -> None:
    queue = BatchQueue(8)
    first, second = job(0, 2, loop), job(2, 2, loop)
    queue.put(first)
    queue.put(second)
    pieces, _ = queue.take() or ([], [])
    scatter(pieces, {"y": np.zeros((4, 1), np.float32)}, {2: VisionloopError("bad")})
    assert first.answer.failures == {}
    assert list(second.answer.failures) == [0]
