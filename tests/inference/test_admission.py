"""The door, and the pace it predicts by."""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionloop.errors import DeadlineExceededError, InvalidInputError, OverloadedError
from visionloop_inference.admission import Admission, ByteBudget
from visionloop_inference.pace import Pace


def door(rows: int = 10, size: int = 1000) -> Admission:
    return Admission("door", rows, ByteBudget(size))


def a_second_a_row(rows: int) -> float:
    return float(rows)


def test_rows_are_held_for_the_length_of_the_block() -> None:
    admission = door()
    with admission.admit(4, 10, None, a_second_a_row):
        with admission.admit(6, 10, None, a_second_a_row):
            assert admission.rows == 10
        assert admission.rows == 4
    assert admission.rows == 0


def test_an_error_inside_gives_the_room_back() -> None:
    budget = ByteBudget(1000)
    admission = Admission("door", 10, budget)
    with pytest.raises(ZeroDivisionError), admission.admit(4, 10, None, a_second_a_row):
        raise ZeroDivisionError
    assert (admission.rows, budget.held) == (0, 0)


def test_no_room_is_refused_with_a_time_to_come_back() -> None:
    admission = door()
    with (
        admission.admit(8, 10, None, a_second_a_row),
        pytest.raises(OverloadedError, match="8 rows are waiting and the limit is 10") as refusal,
        admission.admit(5, 10, None, a_second_a_row),
    ):
        pass
    assert refusal.value.retry_after_seconds == 3.0  # the rows that are too many
    assert admission.rows == 0


def test_bytes_are_shared_by_the_models() -> None:
    budget = ByteBudget(100)
    one, other = Admission("one", 10, budget), Admission("other", 10, budget)
    with (
        one.admit(1, 80, None, a_second_a_row),
        pytest.raises(OverloadedError, match="80 bytes are being answered and the limit is 100"),
        other.admit(1, 30, None, a_second_a_row),
    ):
        pass


@pytest.mark.parametrize(("rows", "size"), [(11, 1), (1, 1001)])
@pytest.mark.parametrize("low", [False, True])
def test_what_can_never_fit_is_not_told_to_come_back(rows: int, size: int, low: bool) -> None:
    """Nor does a stream wait for it, or try it again."""
    admission = door(rows=10, size=1000)
    asyncio.run(admission.room(rows, size))
    with pytest.raises(InvalidInputError, match=f"has {rows} rows and {size} bytes"):
        hold(admission, rows, size, low=low)
    with hold(admission, 10, 1000, low=low):
        pass


def test_what_would_answer_late_is_refused_early() -> None:
    admission = door()
    with (
        admission.admit(5, 10, None, a_second_a_row),
        pytest.raises(OverloadedError, match="5 rows are ahead") as refusal,
        admission.admit(1, 10, time.monotonic() + 4.0, a_second_a_row),
    ):
        pass
    assert refusal.value.retry_after_seconds == pytest.approx(2.0, abs=0.5)
    with admission.admit(3, 10, time.monotonic() + 4.0, a_second_a_row):
        pass


def test_a_passed_deadline_is_no_overload() -> None:
    with (
        pytest.raises(DeadlineExceededError),
        door().admit(1, 10, time.monotonic() - 1, a_second_a_row),
    ):
        pass


# --- work of low priority


def hold(admission: Admission, rows: int, size: int = 1, *, low: bool = True) -> ExitStack:
    """Admitted until it is closed."""
    held = ExitStack()
    held.enter_context(admission.admit(rows, size, None, a_second_a_row, low=low))
    return held


def test_low_priority_fills_half_of_the_rows_and_others_have_the_rest() -> None:
    admission = door(rows=10)
    with hold(admission, 3), hold(admission, 2):
        with pytest.raises(OverloadedError, match=r"5 rows of low priority .* share is 5 of 10"):
            hold(admission, 1)
        with hold(admission, 5, low=False), pytest.raises(OverloadedError, match="10 rows are"):
            hold(admission, 1, low=False)
    assert (admission.rows, admission.low_rows) == (0, 0)


def test_low_priority_fills_half_of_the_bytes_over_all_models() -> None:
    budget = ByteBudget(100)
    one, other = Admission("one", 10, budget), Admission("other", 10, budget)
    with hold(one, 1, 40):
        with pytest.raises(OverloadedError, match="hold 40 bytes and their share is 50 of 100"):
            hold(other, 1, 20)
        with hold(other, 1, 60, low=False):
            pass
    assert (budget.held, budget.low) == (0, 0)


@pytest.mark.parametrize(("batch", "share"), [(1, 128), (64, 128), (80, 160), (128, 192)])
def test_a_large_batch_is_kept_busy_and_a_quarter_is_always_left(batch: int, share: int) -> None:
    admission = Admission("door", 256, ByteBudget(1000), lambda: batch)
    with hold(admission, share - 1), hold(admission, 1):
        with pytest.raises(OverloadedError, match=f"share is {share} of 256"):
            hold(admission, 1)
        hold(admission, 256 - share, low=False).close()


def test_what_is_larger_than_the_share_comes_in_alone() -> None:
    """Otherwise it never would, where one request may fill the queue."""
    admission = door(rows=10, size=100)
    with hold(admission, 8, 90), pytest.raises(OverloadedError, match="low priority"):
        hold(admission, 1, 1)
    hold(admission, 1, 1).close()


def test_rows_of_low_priority_are_not_ahead_of_others_but_for_the_batch_that_runs() -> None:
    admission = Admission("door", 100, ByteBudget(1000), lambda: 2)
    soon = time.monotonic() + 4.5
    with hold(admission, 50):
        with admission.admit(1, 1, soon, a_second_a_row):  # behind 2
            pass
        with pytest.raises(OverloadedError, match="2 rows are ahead"):
            admission.admit(3, 1, soon, a_second_a_row).__enter__()
        with hold(admission, 50, low=False), pytest.raises(OverloadedError, match="52 rows"):
            admission.admit(0, 1, soon, a_second_a_row).__enter__()


def test_who_waits_for_room_comes_in_in_turn() -> None:
    async def scenario() -> None:
        admission = door(rows=10)
        came: list[str] = []

        async def come(name: str, rows: int) -> ExitStack:
            await admission.room(rows, 1)
            came.append(name)
            return hold(admission, rows)

        first = await come("first", 4)
        large, small = asyncio.create_task(come("large", 5)), asyncio.create_task(come("small", 1))
        await turns()
        assert came == ["first"]  # the small one would fit, and is behind the large one
        first.close()
        await turns()
        assert came == ["first", "large"]
        (await large).close()
        (await small).close()
        assert came == ["first", "large", "small"]
        assert admission.rows == 0

    asyncio.run(scenario())


def test_room_that_others_let_go_is_waited_for_and_so_are_bytes_of_other_models() -> None:
    async def scenario() -> None:
        budget = ByteBudget(100)
        one, other = Admission("one", 10, budget), Admission("other", 10, budget)
        for taken, rows, size in ((one, 10, 1), (other, 1, 95)):
            held = hold(taken, rows, size, low=False)
            waits = asyncio.create_task(one.room(1, 10))
            await turns()
            assert not waits.done()
            held.close()
            await asyncio.wait_for(waits, 10)

    asyncio.run(scenario())


def test_who_gives_up_waiting_lets_the_next_one_in() -> None:
    async def scenario() -> None:
        admission = door(rows=10)
        held = hold(admission, 3)
        large, small = (asyncio.create_task(admission.room(rows, 1)) for rows in (5, 2))
        await turns()
        large.cancel()
        await asyncio.wait_for(small, 10)
        held.close()
        await asyncio.wait_for(admission.room(5, 1), 10)

    asyncio.run(scenario())


def test_what_never_fits_is_not_waited_for() -> None:
    async def scenario() -> None:
        admission = door(rows=10, size=100)
        with hold(admission, 5):
            await asyncio.wait_for(admission.room(11, 1), 10)
            await asyncio.wait_for(admission.room(1, 101), 10)

    asyncio.run(scenario())


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# --- the pace


class Machine:
    """Runs batches in a time of its own; `cost(rows)` is the seconds one takes."""

    def __init__(self, cost: Callable[[int], float]) -> None:
        self.now = 0.0
        self.sizes: list[int] = []
        self._cost = cost

    def run(self, rows: int) -> None:
        self.sizes.append(rows)
        self.now += self._cost(rows)

    def measured(self, max_batch: int) -> Pace:
        return Pace.measure(self.run, max_batch, clock=lambda: self.now)


def test_where_rows_get_cheaper_batches_are_large() -> None:
    machine = Machine(lambda rows: 0.01 + 0.001 * rows)
    pace = machine.measured(32)
    assert pace.batch == 32
    assert pace.batch_seconds(10) == pytest.approx(0.02)
    assert pace.seconds(40) == pytest.approx(0.042 + 0.018)


def test_where_they_do_not_batches_stay_small_and_large_ones_are_not_even_tried() -> None:
    machine = Machine(lambda rows: 0.01 * rows)
    assert machine.measured(32).batch == 1
    assert max(machine.sizes) == 4


@pytest.mark.parametrize(("row", "batch"), [(1e-5, 32), (5e-4, 8), (2e-3, 1)])
def test_batches_share_what_each_costs_around_its_run(row: float, batch: int) -> None:
    """Rows that are no cheaper together still are, where they are cheap beside a turn."""
    machine = Machine(lambda rows: row * rows)
    pace = Pace.measure(machine.run, 32, clock=lambda: machine.now, turn=1e-4)
    assert pace.batch == batch
    assert pace.batch_seconds(1) == pytest.approx(row)


def test_a_short_run_is_timed_often_for_other_work_disturbs_most_of_them() -> None:
    machine = Machine(lambda rows: 1e-4 + (4e-4 if len(machine.sizes) % 8 else 0.0))
    assert machine.measured(1).batch_seconds(1) == pytest.approx(1e-4)


def test_a_size_between_is_found() -> None:
    machine = Machine(lambda rows: 0.01 + 0.01 * rows + (0.02 * rows if rows > 8 else 0.0))
    assert machine.measured(32).batch == 8


def test_a_batch_that_takes_seconds_is_not_made_larger() -> None:
    machine = Machine(lambda rows: 0.6 + 0.3 * rows)
    machine.measured(32)
    assert max(machine.sizes) == 2


@pytest.mark.parametrize("max_batch", [1, 3, 5])
def test_the_limit_is_never_passed(max_batch: int) -> None:
    machine = Machine(lambda rows: 1e-3)
    assert machine.measured(max_batch).batch == max_batch
    assert max(machine.sizes) == max_batch


@given(
    fixed=st.floats(0, 1),
    per_row=st.floats(1e-6, 1),
    rows=st.integers(0, 500),
    batch=st.integers(1, 64),
)
def test_more_rows_never_take_less_time(
    fixed: float, per_row: float, rows: int, batch: int
) -> None:
    pace = Pace(fixed, per_row, batch)
    assert pace.seconds(rows) <= pace.seconds(rows + 1) + 1e-9


def test_the_pace_follows_what_is_measured() -> None:
    pace = Pace(0.0, 0.01, 32)
    for _ in range(50):
        pace.observe(10, 0.3)  # three times slower than thought
    assert pace.seconds(10) == pytest.approx(0.3, rel=0.01)


def test_a_batch_that_is_over_soon() -> None:
    pace = Pace(0.004, 0.001, 32)
    assert [pace.rows_within(seconds) for seconds in (1.0, 0.02, 0.01, 0.001)] == [32, 16, 4, 1]


def test_one_hiccup_does_not_close_the_door() -> None:
    pace = Pace(0.0, 0.01, 32)
    pace.observe(1, 100.0)
    assert pace.seconds(1) < 0.05
