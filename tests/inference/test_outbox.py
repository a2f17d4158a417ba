"""Frames that wait for one another while an event loop is busy. Every send is one packet here."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Iterator
from time import thread_time

import pytest
import uvloop

from visionloop_inference.outbox import Outbox

Scenario = Coroutine[None, None, None]

LONG = 3600.0  # seconds of patience that no test outlives
TURNS = 1000  # of a loop; far more than a frame may take to leave


@contextlib.contextmanager
def packets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends that do not block; what one send gave is what one receive gets."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


def received(end: socket.socket) -> list[bytes]:
    """The packets that are there."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while packet := end.recv(1 << 16):
            found.append(packet)
    return found


def work(seconds: float) -> None:
    """Uses the CPU for so long."""
    end = thread_time() + seconds
    while thread_time() < end:
        pass


def never(_why: str) -> None:
    raise AssertionError("the socket is whole")


async def settle(outbox: Outbox) -> None:
    """Some frames on their way, so that the outbox knows what a turn without work takes."""
    for _ in range(20):
        outbox.put(b"earlier")
        await turns_until(lambda: not outbox._leaving)


async def turns_until(done: Callable[[], bool], busy: float = 0.0) -> int:
    """Turns of the loop, with so many seconds of work in each, until it is done."""
    for turn in range(TURNS):
        if done():
            return turn
        work(busy)
        await asyncio.sleep(0)
    raise AssertionError(f"not done after {TURNS} turns")


@pytest.fixture(params=["uvloop", "asyncio"])
def play(request: pytest.FixtureRequest) -> Callable[[Scenario], None]:
    return uvloop.run if request.param == "uvloop" else asyncio.run


def test_frames_of_a_busy_stretch_leave_together(play: Callable[[Scenario], None]) -> None:
    async def scenario() -> None:
        with packets() as (ours, theirs):
            outbox = Outbox(ours, lambda: LONG, never)
            await settle(outbox)
            received(theirs)
            for number in range(8):
                outbox.put(b"%d" % number)
                work(0.001)
                await asyncio.sleep(0)
                assert not received(theirs)
            await turns_until(lambda: not outbox._leaving)
            assert received(theirs) == [b"01234567"]

    play(scenario())


def test_an_idle_loop_lets_a_frame_go_within_some_turns(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario() -> None:
        with packets() as (ours, theirs):
            outbox = Outbox(ours, lambda: LONG, never)
            await settle(outbox)
            for _ in range(20):
                received(theirs)
                outbox.put(b"frame")
                assert await turns_until(lambda: not outbox._leaving) < 50
                assert received(theirs) == [b"frame"]

    play(scenario())


def test_without_patience_a_frame_leaves_in_the_next_turn_of_a_busy_loop(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario() -> None:
        with packets() as (ours, theirs):
            outbox = Outbox(ours, lambda: 0.0, never)
            await settle(outbox)
            received(theirs)
            outbox.put(b"one")
            outbox.put(b"two")
            assert await turns_until(lambda: not outbox._leaving, busy=0.001) == 1
            assert received(theirs) == [b"onetwo"]

    play(scenario())


def test_patience_ends_in_a_loop_that_is_never_idle(
    play: Callable[[Scenario], None],
) -> None:
    async def scenario() -> None:
        with packets() as (ours, theirs):
            outbox = Outbox(ours, lambda: 0.01, never)
            await settle(outbox)
            received(theirs)
            outbox.put(b"frame")
            waited = await turns_until(lambda: not outbox._leaving, busy=0.001)
            assert 5 <= waited <= 11
            assert received(theirs) == [b"frame"]

    play(scenario())


def test_what_a_full_socket_does_not_take_follows_in_order() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            outbox = Outbox(ours, lambda: 0.0, never)
            sent = b"".join(b"%07d\n" % number for number in range(100_000))
            for place in range(0, len(sent), 4000):
                outbox.put(sent[place : place + 4000])
            got = bytearray()
            async with asyncio.timeout(30):
                while len(got) < len(sent):
                    got += await asyncio.get_running_loop().sock_recv(theirs, 1 << 16)
            assert bytes(got) == sent

    asyncio.run(scenario())


def test_a_socket_whose_other_end_is_gone_is_told_once() -> None:
    async def scenario() -> None:
        with packets() as (ours, theirs):
            told: list[str] = []
            outbox = Outbox(ours, lambda: 0.0, told.append)
            theirs.close()
            outbox.put(b"frame")
            await turns_until(lambda: bool(told))
            assert "Broken pipe" in told[0]
            assert len(told) == 1

    asyncio.run(scenario())


def test_nothing_leaves_after_the_close() -> None:
    async def scenario() -> None:
        with packets() as (ours, theirs):
            outbox = Outbox(ours, lambda: LONG, never)
            outbox.put(b"frame")
            outbox.close()
            await turns_until(lambda: not outbox._leaving)
            assert not received(theirs)

    asyncio.run(scenario())
