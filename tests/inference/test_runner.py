"""The runner of this process, on real graphs."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.bundles import POISON, SIDE, answers, build_bundle, encoded, graph, preprocessing

from visionloop.bundle import ClassificationBundle
from visionloop.errors import CorruptError, DeadlineExceededError
from visionloop.images import decode
from visionloop.telemetry import inference as metrics
from visionloop_inference.runner import ThreadRunner


def pixels(count: int, first: int = 0) -> NDArray[np.uint8]:
    prepare = preprocessing()
    return np.stack([prepare(decode(encoded(first + i))) for i in range(count)])


def run(
    bundle: ClassificationBundle,
    folder: Path,
    scenario: Callable[[ThreadRunner], Awaitable[None]],
    max_batch: int = 8,
) -> None:
    """Runs a scenario on a started runner."""

    async def with_runner() -> None:
        runner = ThreadRunner(
            bundle, folder / bundle.graph, provider="cpu", threads=1, max_batch=max_batch
        )
        await runner.start()
        try:
            await scenario(runner)
        finally:
            await runner.close()

    asyncio.run(with_runner())


def rows_run() -> float:
    """Rows that ever ran in this process, warm-up left out."""
    [family] = metrics.BATCH_ROWS.collect()
    return sum(s.value for s in family.samples if s.name.endswith("_sum"))


def batches_run() -> float:
    [family] = metrics.BATCH_ROWS.collect()
    return sum(s.value for s in family.samples if s.name.endswith("_count"))


def test_the_answers_are_those_of_onnxruntime(tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path)
    images = [encoded(i) for i in range(13)]
    expected = answers((tmp_path / bundle.graph).read_bytes(), images)

    async def scenario(runner: ThreadRunner) -> None:
        rows = pixels(13)
        whole = await runner.run(rows, None)  # two batches
        single = await asyncio.gather(*(runner.run([row], None) for row in rows))
        for name, values in expected.items():
            np.testing.assert_allclose(whole.outputs[name], values, atol=1e-6)
            together = np.concatenate([answer.outputs[name] for answer in single])
            np.testing.assert_allclose(together, values, atol=1e-6)
        assert not whole.failures

    run(bundle, tmp_path, scenario)


def test_rows_that_wait_run_together(tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path, hidden=1024)  # a row alone is far dearer than one of many

    async def scenario(runner: ThreadRunner) -> None:
        assert runner.batch > 1
        rows = pixels(8)
        before = batches_run()
        await asyncio.gather(*(runner.run([row], None) for row in np.tile(rows, (8, 1, 1, 1))))
        # The first found the runner idle and ran alone; the others came while it was busy.
        assert batches_run() - before <= 64 / 2

    run(bundle, tmp_path, scenario)


def test_only_the_guilty_rows_of_a_batch_fail(tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path, trap=True)
    rows = pixels(7)
    rows[:, 0, 0, 0] = 7
    expected = None

    async def scenario(runner: ThreadRunner) -> None:
        nonlocal expected
        expected = (await runner.run(rows.copy(), None)).outputs["probabilities"]
        rows[[2, 5], 0, 0, 0] = POISON
        answer = await runner.run(rows, None)
        assert sorted(answer.failures) == [2, 5]
        assert "the graph failed on this image" in str(answer.failures[2])
        good = [0, 1, 3, 4, 6]
        np.testing.assert_allclose(answer.outputs["probabilities"][good], expected[good], atol=1e-6)
        assert np.isnan(answer.outputs["probabilities"][[2, 5]]).all()

    run(bundle, tmp_path, scenario)


def test_a_guilty_request_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path, trap=True)
    rows = pixels(6)
    rows[:, 0, 0, 0] = 7
    rows[3, 0, 0, 0] = POISON

    async def scenario(runner: ThreadRunner) -> None:
        found = await asyncio.gather(*(runner.run([row], None) for row in rows))
        assert [bool(answer.failures) for answer in found] == [i == 3 for i in range(6)]

    run(bundle, tmp_path, scenario)


def test_cancelled_rows_do_not_run(tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path, hidden=1024)

    async def scenario(runner: ThreadRunner) -> None:
        long = np.tile(pixels(8), (16, 1, 1, 1))  # 16 batches
        before = rows_run()
        first = asyncio.create_task(runner.run(long, None))
        await asyncio.sleep(0)
        second = asyncio.create_task(runner.run(long, None))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await first
        await runner.run(long[:1], None)  # by now the cancelled job left the queue
        assert rows_run() - before == len(long) + 1

    run(bundle, tmp_path, scenario)


def test_expired_rows_do_not_run(tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path)

    async def scenario(runner: ThreadRunner) -> None:
        before = rows_run()
        with pytest.raises(DeadlineExceededError, match="in the queue"):
            await runner.run(pixels(3), time.monotonic() - 1)
        await runner.run(pixels(1), time.monotonic() + 60)
        assert rows_run() - before == 1

    run(bundle, tmp_path, scenario)


def test_what_is_queued_runs_before_the_runner_closes(tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path, hidden=256)

    async def scenario(runner: ThreadRunner) -> None:
        queued = [asyncio.create_task(runner.run([row], None)) for row in pixels(20)]
        await asyncio.sleep(0)
        await runner.close()
        assert all(not answer.failures for answer in await asyncio.gather(*queued))

    run(bundle, tmp_path, scenario)


def lying(field: str) -> Callable[[ClassificationBundle], ClassificationBundle]:
    changes: dict[str, dict[str, object]] = {
        "height": {"input": {"name": "pixels", "height": SIDE + 1, "width": SIDE}},
        "input": {"input": {"name": "image", "height": SIDE, "width": SIDE}},
        "output": {"outputs": [{"name": "logits", "kind": "logits", "shape": [4]}]},
        "missing": {"outputs": [{"name": "scores", "kind": "logits", "shape": [3]}]},
    }
    return lambda bundle: ClassificationBundle.model_validate(
        {**bundle.model_dump(), **changes[field]}
    )


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("height", "bundle.json says one input 'pixels' of uint8"),
        ("input", "bundle.json says one input 'image'"),
        ("output", r"output 'logits' has the shape \[1, 3\] for 1 rows"),
        ("missing", "bundle.json says 'scores'"),
    ],
)
def test_a_graph_that_is_not_what_the_bundle_says_is_refused(
    tmp_path: Path, field: str, words: str
) -> None:
    bundle = lying(field)(build_bundle(tmp_path))

    async def scenario(runner: ThreadRunner) -> None:
        pytest.fail("it started")

    with pytest.raises(CorruptError, match=words):
        run(bundle, tmp_path, scenario)


def test_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path)
    model = graph(1)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    (tmp_path / bundle.graph).write_bytes(model.SerializeToString())

    async def scenario(runner: ThreadRunner) -> None:
        pytest.fail("it started")

    with pytest.raises(CorruptError, match="exactly 1 rows"):
        run(bundle, tmp_path, scenario)


def test_a_broken_graph_is_refused(tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path)
    data = bytearray((tmp_path / bundle.graph).read_bytes())
    (tmp_path / bundle.graph).write_bytes(data[: len(data) // 2])

    async def scenario(runner: ThreadRunner) -> None:
        pytest.fail("it started")

    with pytest.raises(CorruptError, match="onnxruntime does not load"):
        run(bundle, tmp_path, scenario)
