"""Threads and batches: measured, chosen, kept, and found again."""

import itertools
import json
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runners import running, start, tensor_bundle, tiny
from support.waiting import wait_for

from visionloop_inference import pace as pace_module
from visionloop_inference import tuning, tuning_file
from visionloop_inference.machine import cores
from visionloop_inference.pace import Board, Pace
from visionloop_inference.providers import CPU, Target
from visionloop_inference.session import OutOfMemoryError
from visionloop_inference.tuning import candidates, example_of, run_each, tune
from visionloop_inference.tuning_file import Tuned, TuningFile, key


def test_what_was_put_is_found_again(tmp_path: Path) -> None:
    file = TuningFile(tmp_path / "deep" / "tuning.json")
    assert file.get("a") is None
    tuned = Tuned(2, 4, {1: 0.01, 4: 0.02})
    file.put("a", tuned)
    file.put("b", Tuned(1, 1, {1: 0.5}))
    assert TuningFile(tmp_path / "deep" / "tuning.json").get("a") == tuned


def test_figures_of_a_busy_machine_are_not_for_tomorrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = TuningFile(tmp_path / "tuning.json")
    busy = Tuned(1, 1, {1: 0.5}, quiet=False)
    file.put("busy", busy)
    file.put("quiet", Tuned(1, 1, {1: 0.5}))
    assert file.get("busy") == busy
    now = tuning_file.time()
    monkeypatch.setattr(tuning_file, "time", lambda: now + tuning_file.PROVISIONAL + 2)
    assert file.get("busy") is None
    assert file.get("quiet") is not None


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_the_kernel_says_whether_the_machine_was_busy(
    clock: "Clock", monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(tuning, "_waited", lambda: share * clock.now)
    session = TimedSession(clock, lambda rows: 0.004 * rows)
    _, tuned = tune(lambda threads: session, lambda rows: [np.zeros((rows, 1))], [1], 8)
    assert tuned.quiet == (share == 0.0)


def test_waiting_for_a_core_is_seen() -> None:
    """Two threads on one core: one of them stands ready while the other runs."""
    core = {min(os.sched_getaffinity(0))}
    ended = threading.Event()

    def spin() -> None:
        os.sched_setaffinity(0, core)  # of this thread
        while not ended.is_set():
            sum(range(10_000))

    before = tuning._waited()
    spinners = [threading.Thread(target=spin) for _ in range(2)]
    for spinner in spinners:
        spinner.start()
    # onnxruntime's threads hold no GIL; these hand it to one another, and still meet at the core.
    try:
        wait_for(lambda: tuning._waited() > before)
    finally:
        ended.set()
        for spinner in spinners:
            spinner.join()


def test_without_a_path_nothing_is_kept() -> None:
    file = TuningFile(None)
    file.put("a", Tuned(1, 1, {1: 0.5}))
    assert file.get("a") is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "no json",
        "[]",
        '{"format": 99, "entries": {"a": {"threads": 1, "batch": 1, "seconds": {"1": 1}}}}',
        '{"format": 3, "entries": {"a": 7}}',
        '{"format": 3, "entries": {"a": {"threads": 1, "batch": 1}}}',
        '{"format": 3, "entries": {"a": {"threads": 0, "batch": 1, "seconds": {"1": 1}}}}',
        '{"format": 3, "entries": {"a": {"threads": 1, "batch": 2, "seconds": {"1": 1}}}}',
        '{"format": 3, "entries": {"a": {"threads": 1, "batch": 1, "seconds": {"1": NaN}}}}',
        '{"format": 3, "entries": {"a": {"threads": 1, "batch": 1, "seconds": {"x": 1}}}}',
    ],
)
def test_a_damaged_file_costs_the_measuring_and_is_mended(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tuning.json"
    path.write_text(content)
    file = TuningFile(path)
    assert file.get("a") is None
    file.put("a", Tuned(1, 1, {1: 0.5}))
    assert file.get("a") == Tuned(1, 1, {1: 0.5})


def test_a_folder_that_can_not_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    TuningFile(tmp_path / "file" / "tuning.json").put("a", Tuned(1, 1, {1: 0.5}))


def test_many_writers_lose_nothing_and_old_entries_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tuning.json"

    def write(first: int) -> None:
        for number in range(first, first + 10):
            TuningFile(path).put(str(number), Tuned(1, 1, {1: 0.5}))

    writers = [threading.Thread(target=write, args=[10 * i]) for i in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(json.loads(path.read_text())["entries"]) == 40
    monkeypatch.setattr(tuning_file, "MOST_ENTRIES", 5)
    TuningFile(path).put("last", Tuned(1, 1, {1: 0.5}))
    assert len(json.loads(path.read_text())["entries"]) == 5


def test_a_key_tells_apart_what_would_change_the_answer() -> None:
    keys = {
        key(digest, target, threads, batch, pad=pad)
        for digest in ("d1", "d2")
        for target in (CPU, Target("cuda"), Target("cuda", 1))
        for threads in (0, 2)
        for batch in (8, 32)
        for pad in ("auto", "always")
    }
    assert len(keys) == 2 * 3 * 2 * 2 * 2


def test_the_candidates() -> None:
    assert candidates(3, CPU) == [3]
    assert candidates(0, CPU) == [1, cores()]
    assert candidates(0, Target("cuda")) == [1]


class TimedSession:
    """Runs batches in a time of its own."""

    target = CPU

    def __init__(self, clock: "Clock", cost: Callable[[int], float]) -> None:
        self._clock = clock
        self._cost = cost

    def run(self, inputs: list[np.ndarray]) -> None:
        self._clock.now += self._cost(len(inputs[0]))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> "Clock":
    """The only time that tuning knows."""
    clock = Clock()
    measure = Pace.measure
    monkeypatch.setattr(tuning, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(
        Pace,
        "measure",
        lambda run, most, budget, turn, **_: measure(
            run, most, lambda: clock.now, budget, turn=turn
        ),
    )
    return clock


@pytest.mark.parametrize(("speed_up", "chosen"), [(1.9, 2), (1.25, 2), (1.15, 1), (0.6, 1)])
def test_all_cores_must_be_worth_it(clock: "Clock", speed_up: float, chosen: int) -> None:
    opened = []

    def load(threads: int) -> TimedSession:
        opened.append(threads)
        factor = 1 if threads == 1 else speed_up
        return TimedSession(clock, lambda rows: 0.004 * rows / factor)

    session, tuned = tune(load, lambda rows: [np.zeros((rows, 1))], [2, 1], 8)
    assert opened == [1, 2]
    assert (tuned.threads, tuned.batch) == (chosen, 1)
    assert isinstance(session, TimedSession)
    took = 0.004 / (speed_up if chosen == 2 else 1)
    assert tuned.rows_a_second == pytest.approx(1 / (tuning_file.TURN + took))


@pytest.mark.parametrize(("disturbed", "speed_up", "chosen"), [(2, 1.6, 2), (1, 1.1, 1)])
def test_what_disturbs_one_measuring_does_not_choose(
    clock: "Clock", disturbed: int, speed_up: float, chosen: int
) -> None:
    """Front ends start while a runner measures; they take a quarter of one's speed."""

    def load(threads: int) -> TimedSession:
        runs = itertools.count()

        def cost(rows: int) -> float:
            slower = 1.35 if threads == disturbed and next(runs) < 9 else 1.0  # three of each size
            return 0.01 * slower * rows / (1 if threads == 1 else speed_up)

        return TimedSession(clock, cost)

    _, tuned = tune(load, lambda rows: [np.zeros((rows, 1))], [1, 2], 8)
    assert tuned.threads == chosen


def test_measuring_ends_with_its_budget() -> None:
    clock = Clock()
    sizes = []

    def run(rows: int) -> None:
        sizes.append(rows)
        clock.now += 0.2 + 0.01 * rows  # ever cheaper a row

    assert Pace.measure(run, 4096, lambda: clock.now, budget=1.5).batch == max(sizes)
    assert clock.now < 1.5 + 2 * (0.2 + 0.01 * max(sizes))


class SmallSession(TimedSession):
    """Has memory for so many rows."""

    def __init__(self, clock: "Clock", most: int) -> None:
        super().__init__(clock, lambda rows: 0.01 + 0.001 * rows)  # ever cheaper a row
        self._most = most

    def run(self, inputs: list[np.ndarray]) -> None:
        if len(inputs[0]) > self._most:
            raise OutOfMemoryError("no memory")
        super().run(inputs)


def rows(count: int) -> list[np.ndarray]:
    return [np.zeros((count, 1))]


def test_measuring_ends_where_memory_does_and_is_done_again_another_time(clock: "Clock") -> None:
    _, tuned = tune(lambda _: SmallSession(clock, 5), rows, [1], 16)
    assert (tuned.batch, sorted(tuned.seconds), tuned.quiet) == (4, [1, 2, 4], False)
    with pytest.raises(OutOfMemoryError):
        tune(lambda _: SmallSession(clock, 0), rows, [1], 16)


def test_what_was_found_is_used_as_far_as_there_is_memory(clock: "Clock") -> None:
    found = Tuned(1, 8, {size: 0.001 * size for size in (1, 2, 4, 8)})
    assert run_each(SmallSession(clock, 8), rows, found, [1, 2, 4, 8]) == found
    limited = run_each(SmallSession(clock, 5), rows, found, [1, 2, 4, 8])
    assert (limited.batch, sorted(limited.seconds)) == (4, [1, 2, 4])
    with pytest.raises(OutOfMemoryError):
        run_each(SmallSession(clock, 0), rows, found, [1, 2, 4, 8])


def test_a_warm_start_measures_nothing(tmp_path: Path) -> None:
    bundle = tensor_bundle(tmp_path, tiny())
    file = tmp_path / "cache" / "tuning.json"
    said = []
    for _ in range(2):
        with running(bundle, tmp_path, threads=0, tuning=str(file)) as runner:
            said.append(runner.said["loaded"])
    assert [one["cold"] for one in said] == [True, False]
    assert said[0] | {"cold": False} == said[1]
    # Another limit is another question.
    with running(bundle, tmp_path, threads=0, tuning=str(file), max_batch=4) as runner:
        assert runner.said["loaded"]["cold"]


def test_a_graph_that_no_example_runs_on_serves_unmeasured(tmp_path: Path) -> None:
    bundle = tensor_bundle(tmp_path, tiny()).model_copy(update={"warm_up": None})
    assert example_of(bundle) is None
    (tmp_path / "bundle.json").write_text(bundle.model_dump_json())
    with running(bundle, tmp_path, max_batch=6) as runner:
        assert runner.said["loaded"]["batch"] == 6


def test_examples_are_what_the_bundle_says(tmp_path: Path) -> None:
    bundle = tensor_bundle(tmp_path, tiny())
    warm_up = bundle.warm_up.model_copy(update={"value": 1})
    example = example_of(bundle.model_copy(update={"warm_up": warm_up}))
    assert example is not None
    assert example(3)[0].tolist() == [[1.0] * 4] * 3


def test_a_graph_that_fails_at_warm_up_is_refused(tmp_path: Path) -> None:
    bundle = tensor_bundle(tmp_path, tiny())
    wrong = bundle.warm_up.model_copy(update={"shapes": [[5]]})
    text = bundle.model_dump_json().replace('"shapes":[[4]]', '"shapes":[[5]]')
    (tmp_path / "bundle.json").write_text(text)
    assert wrong.shapes == [[5]]
    runner, thread = start(bundle, tmp_path)
    said = runner.hear()
    assert said is not None
    assert said["said"] == "refused"
    runner.control.close()
    assert thread is not None
    thread.join(timeout=30)


# The pace and where it is published


def test_padded_batches_cost_what_the_next_size_costs() -> None:
    times = {1: 0.01, 2: 0.011, 4: 0.02, 8: 0.05}
    pace = Pace.of(times, 8, padded=True)
    assert [pace.padded_to(rows) for rows in (1, 2, 3, 4, 5, 8)] == [1, 2, 4, 4, 8, 8]
    assert pace.seconds(3) == pytest.approx(0.02)
    assert pace.seconds(11) == pytest.approx(0.05 + 0.02)
    assert Pace.of(times, 8).seconds(3) == pytest.approx((0.011 + 0.02) / 2)
    assert Pace.of(times, 8).padded_to(3) == 3


@given(
    st.dictionaries(st.integers(1, 512), st.floats(1e-6, 2.0), min_size=1, max_size=12),
    st.booleans(),
    st.integers(0, 1000),
    st.floats(0.1, 10.0),
)
def test_a_front_end_predicts_what_the_runner_would(
    seconds: dict[int, float], padded: bool, rows: int, factor: float
) -> None:
    header = memoryview(bytearray(4096))
    pace = Pace.of(seconds, max(seconds), padded=padded)
    board = Board(header)
    assert (board.seconds(rows), board.batch) == (0.0, 1)
    Board(header).publish(pace)
    assert board.seconds(rows) == pytest.approx(pace.seconds(rows))
    pace.factor, pace.batch = factor, max(1, pace.batch // 2)
    Board(header).update(pace, 7, 3)
    assert board.seconds(rows) == pytest.approx(pace.seconds(rows))
    assert (board.batch, board.others, board.low) == (pace.batch, 7, 3)
    assert board.seconds(rows) <= board.seconds(rows + 1) * (1 + 1e-9) + 1e-12


def test_the_board_fits_the_header() -> None:
    sizes = dict.fromkeys(range(1, 2 * pace_module.Board.MOST), 0.1)
    header = memoryview(bytearray(4096))
    Board(header).publish(Pace.of(sizes, 8))
    assert Board(header).seconds(3) == pytest.approx(0.1)


def test_runs_in_which_a_gpu_chooses_its_kernels_do_not_count() -> None:
    clock = Clock()
    runs: dict[int, int] = {}

    def run(rows: int) -> None:
        runs[rows] = runs.get(rows, 0) + 1
        clock.now += 0.3 if runs[rows] <= 4 else 0.001 + 0.0001 * rows

    measured = Pace.measure(run, 64, lambda: clock.now, budget=15.0, warm_ups=4)
    assert measured.batch == 64
    assert measured.batch_seconds(64) == pytest.approx(0.0074)


UPDATING = """
import mmap, sys
from visionloop_inference.pace import Board, Pace
board = Board(memoryview(mmap.mmap(int(sys.argv[1]), 4096)))
pace = Pace(0.01, 0.001, 8)
board.publish(pace)
for number in range(200_000):
    board.update(pace, 7, 3)
"""


def test_a_front_end_never_sees_half_of_what_a_runner_writes() -> None:
    fd = os.memfd_create("header")
    os.ftruncate(fd, 4096)
    memory = mmap.mmap(fd, 4096)
    board = Board(memoryview(memory))
    process = subprocess.Popen([sys.executable, "-c", UPDATING, str(fd)], pass_fds=[fd])
    os.close(fd)
    while not board.seconds(1) and process.poll() is None:
        pass
    seen = {(board.batch, round(board.seconds(1), 6))}  # the child may have ended already
    while process.poll() is None:
        for _ in range(2_000):
            seen.add((board.batch, round(board.seconds(1), 6)))
    assert process.returncode == 0
    assert seen == {(8, 0.011)}
    board.close()
