"""When freed memory is handed back: after many bytes, once nothing is on its way any more."""

import asyncio

import pytest

from visionloop_labeling import freed_memory
from visionloop_labeling.freed_memory import ENOUGH, FreedMemory, give_back

PATIENCE = 30.0


@pytest.mark.anyio
async def test_it_is_handed_back_once_a_flood_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    given_back: asyncio.Queue[None] = asyncio.Queue()
    looks = 0
    busy = True

    def is_busy() -> bool:
        nonlocal looks
        looks += 1
        return busy

    monkeypatch.setattr(freed_memory, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(
        freed_memory, "give_back", lambda: loop.call_soon_threadsafe(given_back.put_nowait, None)
    )
    freed = FreedMemory(is_busy)
    freed.note(ENOUGH)
    assert freed._timer is None, "others are on their way"
    busy = False
    freed.note(1)
    busy = True  # the next flood begins before it is looked at
    async with asyncio.timeout(PATIENCE):
        while looks < 3:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)
        assert given_back.empty()
        busy = False
        for _ in range(3):
            freed.note(1)
        await given_back.get()
        freed.note(ENOUGH - 1)
        assert freed._timer is None, "it was little since"
        freed.note(1)
        await given_back.get()
    assert given_back.empty()


def test_a_c_library_that_cannot_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    give_back()

    class Musl:
        def __init__(self, _name: None) -> None: ...

    monkeypatch.setattr(freed_memory.ctypes, "CDLL", Musl)
    give_back()
