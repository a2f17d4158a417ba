"""Many callers share one budget of rows in flight, and none of them can keep it for himself."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest
from support.pictures import noise

from visionloop_labeling.receipts import ImageRow, Outcome, Way
from visionloop_labeling.stream import _ROWS_IN_FLIGHT, IngestStream, _size

pytestmark = pytest.mark.anyio


async def test_a_caller_who_takes_no_receipts_holds_up_nobody_else(core) -> None:
    stream = IngestStream(core.ingest)
    much_was_read = asyncio.Event()

    async def endless() -> AsyncIterator[ImageRow]:
        for number in count(1):
            if number > _ROWS_IN_FLIGHT:
                much_was_read.set()
            yield ImageRow("cells", "endless", number, b"no image", way=Way.GRPC)

    receipts = stream.submit(endless())
    assert (await anext(receipts)).ordinal == 1
    async with asyncio.timeout(60):
        await much_was_read.wait()
        other = await stream.submit_one(ImageRow("cells", "other", 0, noise(1), way=Way.GRPC))
    assert other.outcome is Outcome.ACCEPTED
    # His own receipts wait for him, in order, and he may go on.
    assert [(await anext(receipts)).ordinal for _ in range(600)] == list(range(2, 602))
    await receipts.aclose()
    stream.close()


@pytest.mark.parametrize("half", ["prepare_all", "store", "write"])
async def test_a_failed_commit_ends_the_stream_and_gives_its_room_back(
    core, monkeypatch, half: str
) -> None:
    stream = IngestStream(core.ingest)

    async def rows() -> AsyncIterator[ImageRow]:
        for number in range(2 * _ROWS_IN_FLIGHT):
            yield ImageRow("cells", "failing", number, b"no image", way=Way.GRPC)

    def fails(_rows: object) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(core.ingest, half, fails)
        for _ in range(3):
            with pytest.raises(OSError, match="the disk is gone"):
                await anext(stream.submit(rows()))
    async with asyncio.timeout(60):
        receipts = [receipt async for receipt in stream.submit(rows())]
    assert len(receipts) == 2 * _ROWS_IN_FLIGHT
    stream.close()


def test_texts_take_room_as_images_do() -> None:
    plain = ImageRow("cells", "b", 0, b"12345", way=Way.GRPC)
    attributes = {"name": "value" * 100}
    wordy = ImageRow("cells", "b", 0, b"12345", "label", attributes=attributes, way=Way.GRPC)
    assert _size(wordy) == _size(plain) + len("label") + len("name") + 500
