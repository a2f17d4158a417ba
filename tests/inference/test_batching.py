"""The queue of a runner, and how rows come together in a batch."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionloop.signature import Signature, TensorSpec
from visionloop_inference.batching import LONG, BatchQueue, Job, Piece
from visionloop_inference.datatypes import Arrays
from visionloop_inference.gathering import BatchBuffer
from visionloop_inference.levels import AFTERWARDS, BULK, NORMAL
from visionloop_inference.rows import HEADER, Arena
from visionloop_inference.wire import JobFrame, Layout, Reason


class Source:
    """A front end without a socket: an arena."""

    def __init__(self) -> None:
        self.arena = Arena.create(2**20)

    def answer(self, job: Job, outputs: Arrays) -> None:
        raise NotImplementedError

    def refuse(self, job: Job, reason: Reason, text: str, retry_after: float = math.nan) -> None:
        raise NotImplementedError


@pytest.fixture
def source() -> Iterator[Source]:
    made = Source()
    yield made
    made.arena.close()


def job(
    source: Source,
    first: int,
    rows: int,
    *,
    width: int = 16,
    priority: int = 0,
    deadline: float = math.inf,
) -> Job:
    """A job whose row i is `width` float32 of first + i."""
    values = np.repeat(np.arange(first, first + rows, dtype=np.float32), width)
    offset = source.arena.allocate(values.nbytes)
    assert offset is not None
    source.arena.view(offset, values.nbytes)[:] = values.tobytes()
    place = (offset, values.nbytes, (width,))
    return Job(source, JobFrame(first, rows, priority, deadline, (0, 0), (place,)), {})


def layout(width: int = 16) -> Layout:
    specs = (TensorSpec(name="x", datatype="FP32", shape=[width]),)
    outputs = (TensorSpec(name="y", datatype="FP32", shape=[width]),)
    return Layout(Signature(inputs=specs, outputs=outputs, batched=True))


@given(
    jobs=st.lists(st.tuples(st.integers(1, 9), st.sampled_from([16, 32]), st.integers(0, 3))),
    most=st.integers(1, 8),
)
@settings(max_examples=150, deadline=None)
def test_every_row_is_handed_out_once_in_turn_and_shapes_never_mix(
    jobs: list[tuple[int, int, int]], most: int
) -> None:
    source = Source()
    queue = BatchQueue(most)
    put = []
    for rows, width, priority in jobs:
        put.append(job(source, 100 * len(put), rows, width=width, priority=priority))
        queue.put(put[-1])
    assert queue.rows == sum(rows for rows, _, _ in jobs)
    handed: list[Piece] = []
    while queue:
        pieces, expired = queue.take(0.0)
        assert not expired
        assert 1 <= sum(piece.size for piece in pieces) <= most
        assert len({piece.job.frame.inputs[0][2] for piece in pieces}) == 1
        # The first rows are those whose turn it is.
        waiting = [one for one in put if one.taken < one.rows or one is pieces[0].job]
        assert pieces[0].job.level == min(one.level for one in waiting)
        handed += pieces
    for one in put:
        mine = [(piece.start, piece.stop) for piece in handed if piece.job is one]
        assert [start for start, _ in mine] == [0, *[stop for _, stop in mine[:-1]]]
        assert mine[-1][1] == one.rows
    for level in range(1, 4):
        for width in (16, 32):
            order = [
                piece.job.frame.id
                for piece in handed
                if piece.job.level == level and piece.job.frame.inputs[0][2] == (width,)
            ]
            assert order == sorted(order)
    assert queue.take(0.0) == ([], [])
    source.arena.close()


def test_no_priority_is_the_normal_level(source: Source) -> None:
    assert job(source, 0, 1).level == NORMAL
    assert job(source, 0, 1, priority=7).level == 7


def test_low_priority_makes_no_large_batch_while_others_call(source: Source) -> None:
    queue = BatchQueue(8, lambda: 4)
    bulk = job(source, 0, 40, priority=BULK)
    queue.put(bulk)
    assert [piece.size for piece in queue.take(bulk.queued)[0]] == [8]  # nobody else was here yet
    one, many = job(source, 500, 1), job(source, 600, 6)
    queue.put(one)
    soon = bulk.queued + LONG / 2
    assert [(piece.job, piece.size) for piece in queue.take(soon)[0]] == [(one, 1)]
    assert [(piece.job, piece.size) for piece in queue.take(soon)[0]] == [(bulk, 4)]
    queue.put(many)
    assert [(piece.job, piece.size) for piece in queue.take(soon)[0]] == [(many, 6)]
    assert [(piece.job, piece.size) for piece in queue.take(soon)[0]] == [(bulk, 4)]
    later = many.queued + AFTERWARDS
    assert [(piece.job, piece.size) for piece in queue.take(later)[0]] == [(bulk, 8)]
    source.arena.close()


def test_low_priority_is_not_starved_by_others_without_end(source: Source) -> None:
    queue = BatchQueue(8, lambda: 4)
    bulk = job(source, 0, 2, priority=BULK)
    queue.put(bulk)
    taken = []
    for number, waited in enumerate((0.0, LONG - 0.01, LONG, LONG + 0.01, LONG + 0.02)):
        queue.put(job(source, 100 * (number + 1), 5))
        pieces, _ = queue.take(bulk.queued + waited)
        taken.append(sum([piece.size for piece in pieces if piece.job is bulk]))
    assert taken == [0, 0, 1, 1, 0]
    source.arena.close()


def test_low_priority_takes_the_places_that_would_be_padding(source: Source) -> None:
    queue = BatchQueue(8, lambda: 4, lambda rows: 4 if rows <= 4 else 8)
    one, bulk, rest = job(source, 0, 3), job(source, 100, 9, priority=3), job(source, 200, 1)
    bulk_of_bulk = job(source, 300, 2, priority=4)
    for some in (bulk, one, bulk_of_bulk):
        queue.put(some)

    def taken() -> list[tuple[Job, int]]:
        return [(piece.job, piece.size) for piece in queue.take(one.queued)[0]]

    assert taken() == [(one, 3), (bulk, 1)]
    assert taken() == [(bulk, 4)]
    queue.put(rest)
    assert taken() == [(rest, 1), (bulk, 3)]
    assert taken() == [(bulk, 1), (bulk_of_bulk, 2)]
    source.arena.close()


def test_expired_and_dropped_jobs_leave_before_they_cost_a_run(source: Source) -> None:
    queue = BatchQueue(4)
    gone, expired, alive = job(source, 0, 6), job(source, 10, 3, deadline=5.0), job(source, 20, 2)
    for one in (gone, expired, alive):
        queue.put(one)
    assert [piece.job for piece in queue.take(1.0)[0]] == [gone]
    queue.drop(gone)  # two rows of it were left
    queue.drop(gone)
    assert queue.rows == 3 + 2
    pieces, dead = queue.take(5.0)
    assert ([piece.job for piece in pieces], dead) == ([alive], [expired])
    assert not queue


def test_rows_side_by_side_run_where_they_lie(source: Source) -> None:
    queue, buffer = BatchQueue(8), BatchBuffer(layout())
    for first in (0, 10, 20):
        queue.put(job(source, first, 2))
    pieces, _ = queue.take(0.0)
    (array,) = buffer.gather(pieces, 6)
    assert array[:, 0].tolist() == [0, 1, 10, 11, 20, 21]
    source.arena.view(HEADER, 4)[:] = np.float32(77).tobytes()
    assert array[0, 0] == 77  # no copy


def test_rows_apart_padded_or_of_two_front_ends_come_together(source: Source) -> None:
    other = Source()
    buffer = BatchBuffer(layout())

    def gathered(jobs: list[Job], size: int) -> list[float]:
        pieces = [Piece(one, 0, one.rows) for one in jobs]
        (array,) = buffer.gather(pieces, size)
        assert array.shape == (size, 16)
        assert (array == array[:, :1]).all()
        return array[:, 0].tolist()

    first, second, third = job(source, 0, 2), job(source, 10, 1), job(source, 20, 2)
    assert gathered([first, third], 4) == [0, 1, 20, 21]
    assert gathered([first, second], 4) == [0, 1, 10, 0]
    away = job(other, 30, 2)
    assert gathered([second, away, first], 5) == [10, 30, 31, 0, 1]
    other.arena.close()


def test_a_part_of_a_job_starts_at_its_own_rows(source: Source) -> None:
    long = job(source, 0, 10)
    (array,) = BatchBuffer(layout()).gather([Piece(long, 3, 7)], 4)
    assert array[:, 0].tolist() == [3, 4, 5, 6]
    (array,) = BatchBuffer(layout()).gather([Piece(long, 3, 7)], 8)
    assert array[:, 0].tolist() == [3, 4, 5, 6, 3, 3, 3, 3]
