"""Either side of a link killed, stopped or talking nonsense: nothing hangs, leaks or mixes up."""

import asyncio
import contextlib
import itertools
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from support.runners import (
    RunningRunner,
    model,
    output,
    running,
    start,
    tensor,
    tensor_bundle,
    tiny,
)
from support.waiting import wait_for

from visionloop.errors import UnavailableError
from visionloop_inference import front_end_link, wire
from visionloop_inference.rows import HEADER, Arena
from visionloop_inference.runner_link import RunnerLink

ROUNDS = int(os.environ.get("KILL_ROUNDS", "2"))


def floats(rows: int, first: float = 0.0) -> np.ndarray:
    return np.arange(first, first + 4 * rows, dtype=np.float32).reshape(rows, 4)


def answers(runner: RunningRunner) -> None:
    """The runner serves: a new link gets a right answer."""

    async def ask() -> None:
        async with runner.connected() as link:
            x = floats(3)
            answer = await asyncio.wait_for(link.run([tensor(x)], 3, None), 30)
            np.testing.assert_array_equal(output(answer), 2 * x + 1)

    asyncio.run(ask())


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.kill
@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_killed_runner_fails_what_it_held_and_nothing_hangs(tmp_path: Path, number: int) -> None:
    bundle = tensor_bundle(tmp_path, tiny())
    random = np.random.default_rng(number)
    lost: list[RunnerLink] = []
    outcomes: list[object] = []

    async def clients(runner: RunningRunner) -> None:
        link = RunnerLink(*runner.ends(), bundle.signature, lost.append)

        async def client(first: float) -> None:
            while True:
                x = floats(1 + int(first) % 7, first)
                try:
                    answer = await link.run([tensor(x)], len(x), None)
                except UnavailableError as error:
                    outcomes.append(error)
                    return
                np.testing.assert_array_equal(output(answer), 2 * x + 1)

        tasks = [asyncio.create_task(client(float(i))) for i in range(20)]
        await asyncio.sleep(float(random.random()) * 0.05)
        assert runner.process is not None
        runner.process.kill()
        await asyncio.wait_for(asyncio.gather(*tasks), 30)
        with pytest.raises(UnavailableError, match="gone"):
            await link.run([tensor(floats(1))], 1, None)
        assert link.rows_waiting == 0
        link.close()

    with running(bundle, tmp_path, "process") as runner:
        before = descriptors(os.getpid())
        asyncio.run(clients(runner))
        assert len(lost) == 1  # told once
        assert len(outcomes) == 20
        assert all(error.retry_after_seconds for error in outcomes)
        assert descriptors(os.getpid()) <= before


FRONT_END = """
import asyncio, socket, sys
from pathlib import Path
from visionloop.bundle import parse_bundle
from visionloop_inference.datatypes import Tensor
from visionloop_inference.runner_link import RunnerLink
from visionloop_inference.rows import Arena

async def main():
    bundle = parse_bundle(Path(sys.argv[3]).read_bytes())
    link = RunnerLink(socket.socket(fileno=int(sys.argv[1])), Arena.open(int(sys.argv[2])),
                      bundle.signature, lambda _: None)
    async def client():
        while True:
            await link.run([Tensor("FP32", (5, 4), bytes(80))], 5, None)
            print("answered", flush=True)
    await asyncio.gather(*(client() for _ in range(30)))

asyncio.run(main())
"""


def front_end(runner: RunningRunner, folder: Path) -> subprocess.Popen[bytes]:
    """A process that asks the runner as fast as it can; it has had an answer."""
    end, arena = runner.ends()
    fds = [end.fileno(), arena.fd]
    process = subprocess.Popen(
        [sys.executable, "-c", FRONT_END, *map(str, fds), str(folder / "bundle.json")],
        pass_fds=fds,
        stdout=subprocess.PIPE,
    )
    end.close()
    arena.close()
    assert process.stdout is not None
    assert process.stdout.readline() == b"answered\n"
    return process


@pytest.mark.kill
@pytest.mark.parametrize("kind", [pytest.param("thread", marks=pytest.mark.long), "process"])
def test_a_killed_front_end_leaves_nothing_behind(tmp_path: Path, kind: str) -> None:
    with running(tensor_bundle(tmp_path, tiny()), tmp_path, kind) as runner:
        answers(runner)
        pid = runner.process.pid if runner.process else os.getpid()
        before = descriptors(pid)
        for _ in range(ROUNDS):
            process = front_end(runner, tmp_path)
            process.kill()
            process.communicate()
            answers(runner)
        wait_for(lambda: descriptors(pid) <= before)


def test_a_stopped_front_end_does_not_hold_up_the_others(tmp_path: Path) -> None:
    with running(tensor_bundle(tmp_path, tiny()), tmp_path, "process") as runner:
        process = front_end(runner, tmp_path)
        try:
            process.send_signal(signal.SIGSTOP)
            for _ in range(5):
                answers(runner)
        finally:
            process.kill()
            process.communicate()


def test_a_front_end_that_never_reads_loses_its_link_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_end_link, "MOST_UNSENT", 2**18)
    monkeypatch.setattr(front_end_link, "STALLED", 0.0)
    with running(tensor_bundle(tmp_path, tiny()), tmp_path) as runner:
        end, arena = runner.ends()
        layout = wire.Layout(runner.signature)
        end.settimeout(30)
        rows = 512  # answers of 8 KiB, in the frame

        def flood() -> None:
            for job in itertools.count():
                end.sendall(layout.job(job, rows, 0, math.inf, (0, 0), [HEADER, 16 * rows, 4]))

        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            flood()
        answers(runner)
        end.close()
        arena.close()


def test_a_front_end_that_is_behind_with_large_answers_keeps_its_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with masks of a size that the signature leaves open, which come in the frames."""
    monkeypatch.setattr(front_end_link, "MOST_UNSENT", 2**18)
    made = model(
        [helper.make_node("Identity", ["x"], ["y"])], [("x", "FP32", [-1])], [("y", "FP32", [-1])]
    )

    async def scenario(runner: RunningRunner) -> None:
        async with runner.connected() as link:
            jobs = [np.full((1, 2**16), number, np.float32) for number in range(12)]
            tasks = [asyncio.create_task(link.run([tensor(x)], 1, None)) for x in jobs]
            for x, answer in zip(jobs, await asyncio.gather(*tasks), strict=True):
                np.testing.assert_array_equal(output(answer), x)

    with running(tensor_bundle(tmp_path, made), tmp_path) as runner:
        asyncio.run(asyncio.wait_for(scenario(runner), 60))


def nonsense(layout: wire.Layout) -> dict[str, bytes]:
    good = layout.job(1, 1, 0, math.inf, (0, 0), [HEADER, 16, 4])
    return {
        "noise": bytes(range(256)),
        "empty frame": bytes(8),
        "unknown kind": b"\x05\0\0\0\x09",
        "an answer": b"\x08\0\0\0\x03abc",
        "outside": layout.job(1, 1, 0, math.inf, (0, 0), [2**40, 16, 4]),
        "the same id twice": good + good,
        "too long": b"\xff\xff\xff\xff\x01",
        "short cancel": b"\x06\0\0\0\x02\0",
    }


@pytest.mark.parametrize("what", sorted(nonsense(wire.Layout(tiny()[1]))))
def test_a_malformed_frame_closes_its_link_and_no_other(tmp_path: Path, what: str) -> None:
    with running(tensor_bundle(tmp_path, tiny()), tmp_path) as runner:
        layout = wire.Layout(runner.signature)
        end, arena = runner.ends()
        end.settimeout(30)
        end.sendall(layout.job(7, 2, 0, math.inf, (0, 0), [HEADER, 32, 4]))
        assert end.recv(4096)  # the link is good
        end.sendall(nonsense(layout)[what])
        with contextlib.suppress(ConnectionResetError):
            while end.recv(4096):
                pass
        answers(runner)
        end.close()
        arena.close()


def test_a_runner_that_talks_nonsense_loses_its_link() -> None:
    """Every job on it fails, none gets another's answer."""
    signature = tiny()[1]
    layout = wire.Layout(signature)

    def stray(frame: bytearray, job: int, shape: int, in_arena: bool) -> bytes:
        data = [] if in_arena else [bytes(4 * shape)]
        layout.answer(frame, job, [4 * shape, shape], data, {}, in_arena=in_arena)
        return bytes(frame)

    frames = [
        stray(bytearray(), 99, 4, False),  # a job it does not have
        stray(bytearray(), 1, 3, False),  # another shape
        stray(bytearray(), 1, 4, True),  # in the arena, where the job has no space
        wire.refused(1, wire.Reason.FAILED, "x")[:5] + bytes([77]) + bytes(19),
        layout.job(1, 1, 0, math.inf, (0, 0), [HEADER, 16, 4]),
        b"\x03\0\0\0\x03",
    ]

    async def each(frame: bytes) -> None:
        ours, theirs = socket.socketpair()
        lost: list[RunnerLink] = []
        link = RunnerLink(ours, Arena.create(2**16), signature, lost.append)
        job = asyncio.create_task(link.run([tensor(floats(1))], 1, None))
        await asyncio.sleep(0.01)
        theirs.sendall(frame)
        with pytest.raises(UnavailableError, match="the runner sent"):
            await asyncio.wait_for(job, 30)
        assert lost == [link]
        theirs.close()

    for frame in frames:
        asyncio.run(each(frame))


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_close_answers_what_is_queued_and_then_ends(tmp_path: Path, kind: str) -> None:
    bundle = tensor_bundle(tmp_path, tiny())
    with running(bundle, tmp_path, kind) as runner:

        async def scenario() -> None:
            async with runner.connected() as link:
                jobs = [
                    asyncio.create_task(link.run([tensor(floats(20, i))], 20, None))
                    for i in range(30)
                ]
                await asyncio.sleep(0)
                runner.control.send({"do": "close", "seconds": 30})
                for i, answer in enumerate(await asyncio.gather(*jobs)):
                    np.testing.assert_array_equal(output(answer), 2 * floats(20, i) + 1)

        asyncio.run(scenario())
        assert runner.hear() is None
        if runner.process is not None:
            assert runner.process.wait(timeout=30) == 0


def test_a_runner_ends_with_its_supervisor(tmp_path: Path) -> None:
    bundle = tensor_bundle(tmp_path, tiny())
    runner, _ = start(bundle, tmp_path, "process")
    end, arena = runner.ends()
    runner.control.close()
    assert runner.process is not None
    assert runner.process.wait(timeout=30) == 0
    assert end.recv(10) == b""
    end.close()
    arena.close()


def test_what_can_not_be_loaded_is_refused_in_words(tmp_path: Path) -> None:
    bundle = tensor_bundle(tmp_path, tiny())
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08 this is no graph")
    runner, thread = start(bundle, tmp_path)
    said = runner.hear()
    assert said is not None
    assert (said["said"], said["reason"], said["for_good"]) == ("refused", "corrupt", True)
    assert "ONNX" in said["problem"]
    # And it can still be told to end.
    runner.control.send({"do": "close", "seconds": 0})
    assert runner.hear() is None
    assert thread is not None
    thread.join(timeout=30)
    runner.control.close()
