"""Control channels and the children at their ends."""

import asyncio
import os
import threading
from collections.abc import Callable

import pytest

from visionloop.errors import UnavailableError
from visionloop_inference import children
from visionloop_inference.children import Child, ended_how
from visionloop_inference.control import MAX_BYTES, Control, Message


def test_messages_keep_their_bounds_and_bring_descriptors() -> None:
    ours, theirs = Control.pair()
    read, write = os.pipe()
    ours.send({"do": "one"}, [read])
    ours.send({"do": "two", "text": "x" * 1000})
    os.close(read)
    message, fds = theirs.receive() or ({}, [])
    assert message == {"do": "one"}
    os.write(write, b"hello")
    assert os.read(fds[0], 5) == b"hello"
    assert not os.get_inheritable(fds[0])
    assert (theirs.receive() or ({}, []))[0]["do"] == "two"
    ours.close()
    assert theirs.receive() is None
    for fd in (write, *fds):
        os.close(fd)


def test_a_large_message_arrives_whole_with_its_descriptors() -> None:
    ours, theirs = Control.pair()
    read, write = os.pipe()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    ours.send({"do": "x" * 20 * MAX_BYTES}, [read])
    ours.send({"do": "next"})
    message, fds = theirs.receive() or ({}, [])
    assert message == {"do": "x" * 20 * MAX_BYTES}
    os.write(write, b"hello")
    assert os.read(fds[0], 5) == b"hello"
    assert (theirs.receive() or ({}, []))[0] == {"do": "next"}
    os.close(fds[0])
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    for fd in (read, write):
        os.close(fd)
    ours.close()
    theirs.close()


def in_loop(scenario: Callable[[], object]) -> None:
    async def run() -> None:
        await asyncio.wait_for(scenario(), 60)  # type: ignore[arg-type]

    asyncio.run(run())


def test_a_child_that_reads_late_gets_everything_in_order() -> None:
    """More than the channel holds: a front end that starts beside hundreds of models."""
    go = threading.Event()
    got: list[Message] = []
    descriptors = []

    def late(control: Control) -> None:
        control.setblocking(True)
        go.wait(30)
        while len(got) < 2000 and (received := control.receive()) is not None:
            message, fds = received
            got.append(message)
            descriptors.extend(fds)
            for fd in fds:
                os.fstat(fd)
                os.close(fd)
        control.send({"said": "all"})
        control.close()

    async def scenario() -> None:
        said = asyncio.Event()
        child = Child("late", lambda _: said.set())
        child.start_thread(late)
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for number in range(2000):
            fd = os.open("/dev/null", os.O_RDONLY)
            child.send({"do": "n", "number": number, "text": "x" * 500}, [fd])
            os.close(fd)
        go.set()
        await said.wait()
        await child.ended
        assert [message["number"] for message in got] == list(range(2000))
        assert len(descriptors) == 2000
        assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208

    in_loop(scenario)


def test_a_child_that_never_reads_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "MOST_UNSENT", 50)
    done = threading.Event()

    async def scenario() -> None:
        child = Child("deaf", lambda _: None)
        child.start_thread(lambda _: done.wait(30) and None)

        def send_many() -> None:
            for _ in range(5000):
                child.send({"do": "n", "text": "x" * 500})

        with pytest.raises(UnavailableError, match="leaves 50 messages unread"):
            send_many()
        done.set()
        await child.ended

    in_loop(scenario)


def test_a_stand_in_that_is_killed_is_seen_to_end() -> None:
    """It cannot be killed; it sees the end of its channel, and its own end must still be told."""

    async def scenario() -> None:
        child = Child("stand-in", lambda _: None)
        child.start_thread(lambda control: control.setblocking(True) or control.receive())  # type: ignore[func-returns-value,arg-type]
        child.kill()
        assert await asyncio.wait_for(child.ended, 10) == "returned"

    in_loop(scenario)


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exited with code 0"), (64, "exited with code 64"), (-9, "was killed by SIGKILL"),
     (-11, "was killed by SIGSEGV"), (-200, "was killed by signal 200")],
)  # fmt: skip
def test_how_a_process_ended(code: int, words: str) -> None:
    assert ended_how(code) == words
