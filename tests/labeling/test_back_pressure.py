"""A caller who sends faster than rows become durable waits; the service's memory does not grow.

Once over the wire with a small limit and a store that stands still, where every byte is counted;
once with the program as it is started, its real limit, and a database that stands still, where its
memory is looked at.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import numpy as np
import psycopg
import pytest
from PIL import Image
from starlette.datastructures import UploadFile
from support.labeling_server import LabelingServer, running_labeling
from support.labeling_site import Site, open_site
from support.pictures import png

from visionloop.proto.v1 import labeling_pb2 as pb
from visionloop_labeling import grpc_api, stream
from visionloop_labeling.held_bytes import HeldBytes
from visionloop_labeling.ingest import Stored
from visionloop_labeling.receipts import ImageRow, Receipt

PATIENCE = 60.0
ACCEPTED, DUPLICATE = pb.SubmitImageReceipt.ACCEPTED, pb.SubmitImageReceipt.DUPLICATE


def pictures(number: int, side: int) -> list[bytes]:
    """Noise that nothing compresses: a little more than 3 * side * side bytes each."""
    chance = np.random.default_rng(side)
    pixels = [chance.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(number)]
    return [png(Image.fromarray(one), compress_level=0) for one in pixels]


def request(batch: str, number: int, image: bytes) -> pb.SubmitImageRequest:
    return pb.SubmitImageRequest(dataset="d", batch=batch, ordinal=number, image=image)


LIMIT = 2**20  # bytes in flight, instead of the real 256 MiB
CALLERS = 2
EACH = 600  # rows of a caller; 43 MB in all
IMAGES = pictures(20, 110)  # 36 kB; said again and again, as rows of their own
LARGEST = max(map(len, IMAGES))


class Books:
    """What was read from the wire and is not durable yet, in bytes; and the most there ever was."""

    def __init__(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held = self.most = 0
        self.full = asyncio.Event()  # no further row fits
        self.going = threading.Event()  # the store works
        row_of, write = grpc_api.row_of, site.service.ingest.write
        put_if_absent = site.service.store.put_if_absent

        def read(message: pb.SubmitImageRequest) -> ImageRow:
            row = row_of(message)
            self.held += len(row.image)
            self.most = max(self.most, self.held)
            if self.held > LIMIT:
                self.full.set()
            return row

        def durable(group: Sequence[Stored]) -> list[Receipt]:
            receipts = write(group)
            sizes = [len(row.row.image) for stored in group for row in stored.rows]
            loop.call_soon_threadsafe(self._done, sum(sizes))
            return receipts

        def put(key: str, data: bytes) -> str:
            assert self.going.wait(PATIENCE)
            return put_if_absent(key, data)

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(stream, "_BYTES_IN_FLIGHT", LIMIT)
        monkeypatch.setattr(grpc_api, "row_of", read)
        monkeypatch.setattr(site.service.ingest, "write", durable)
        monkeypatch.setattr(site.service.store, "put_if_absent", put)

    def _done(self, size: int) -> None:
        self.held -= size


@pytest.mark.anyio
async def test_bytes_that_are_not_durable_never_pass_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = [0] * CALLERS

    async def rows(caller: int) -> AsyncIterator[pb.SubmitImageRequest]:
        for number in range(EACH):
            sent[caller] += 1
            yield request(f"caller-{caller}", number, IMAGES[number % len(IMAGES)])

    async with open_site(tmp_path, with_accounts=False) as site, site.grpc() as stub:
        books = Books(site, monkeypatch)

        async def call(caller: int) -> list[pb.SubmitImageReceipt]:
            return [one async for one in stub.SubmitImages(rows(caller), timeout=PATIENCE)]

        calls = [asyncio.create_task(call(caller)) for caller in range(CALLERS)]
        try:
            async with asyncio.timeout(PATIENCE):
                await books.full.wait()
                before = -1
                while before != sum(sent):  # until the wire is full as well
                    before = sum(sent)
                    await asyncio.sleep(0.2)
        finally:
            books.going.set()
        # What lies between is gRPC's: windows that it opens wider on a quick wire, 12 MB were seen.
        assert before < CALLERS * EACH * 3 / 4, f"{before} rows were taken from the callers"
        receipts = await asyncio.gather(*calls)
    # A row that waits for room was read already: one of each caller.
    assert LIMIT < books.most <= LIMIT + CALLERS * LARGEST
    assert books.held == 0
    for found in receipts:
        assert [one.ordinal for one in found] == list(range(EACH))
        assert {one.outcome for one in found} <= {ACCEPTED, DUPLICATE}


@pytest.mark.anyio
async def test_single_images_wait_outside_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many callers send one at the same time."""
    held = most = 0
    limit = 8 * LARGEST
    read = UploadFile.read

    async def counted(file: UploadFile, size: int = -1) -> bytes:
        nonlocal held, most
        image = await read(file, size)
        held += len(image)
        most = max(most, held)
        return image

    async with open_site(tmp_path, with_accounts=False) as site:
        submit = site.service.submit_image
        full = asyncio.Event()

        async def answered(row: ImageRow) -> Receipt:
            nonlocal held
            if held + LARGEST > limit:
                full.set()
            await full.wait()
            receipt = await submit(row)
            held -= len(row.image)
            return receipt

        monkeypatch.setattr(UploadFile, "read", counted)
        monkeypatch.setattr(site.service, "submit_image", answered)
        monkeypatch.setattr(site.service.uploads, "most", limit)
        async with site.client() as client, asyncio.timeout(PATIENCE):
            answers = await asyncio.gather(
                *(
                    client.post("/v1/datasets/d/images", files={"file": IMAGES[n % len(IMAGES)]})
                    for n in range(24)
                )
            )
    assert {answer.status_code for answer in answers} == {200, 201}
    assert limit - LARGEST < most <= limit


@pytest.mark.anyio
async def test_what_is_larger_than_all_room_goes_alone() -> None:
    held = HeldBytes(10)
    inside: asyncio.Queue[str] = asyncio.Queue()

    async def work(name: str, size: int, ends: asyncio.Event) -> None:
        async with held.room(size):
            inside.put_nowait(name)
            await ends.wait()

    ends = {name: asyncio.Event() for name in ("small", "large", "next")}
    sizes = {"small": 6, "large": 99, "next": 4}
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for name, end in ends.items():
            group.create_task(work(name, sizes[name], end))
        for name, end in ends.items():
            assert await inside.get() == name, "in the order in which they came"
            assert inside.empty()
            end.set()


ROWS = 500  # of 2 MB: a gigabyte
LARGE_SIDE = 816
MIB = 2**20


def resident(server: LabelingServer) -> int:
    """Bytes of the program, without the processes that decode."""
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * 4096


class Sender(threading.Thread):
    """Sends rows as fast as they are taken."""

    def __init__(self, server: LabelingServer, images: list[bytes]) -> None:
        super().__init__()
        self._server = server
        self._images = images
        self.sent = 0
        self.receipts: list[pb.SubmitImageReceipt] = []

    def run(self) -> None:
        self.receipts += self._server.stub.SubmitImages(self._rows(), timeout=4 * PATIENCE)

    def _rows(self) -> Iterator[pb.SubmitImageRequest]:
        for number in range(ROWS):
            self.sent += 1
            yield request("b", number, self._images[number % len(self._images)])

    def wait_until_held(self) -> None:
        """Until there is much, and nothing more is taken for a second."""
        end, since, before = time.monotonic() + PATIENCE, time.monotonic(), 0
        while self.sent < ROWS // 5 or time.monotonic() < since + 1.0:
            assert time.monotonic() < end, "rows are taken without end"
            if self.sent != before:
                before, since = self.sent, time.monotonic()
            time.sleep(0.05)


@pytest.mark.long
@pytest.mark.postgres
def test_a_gigabyte_on_its_way_takes_a_quarter_of_it(postgres_url: str, tmp_path: Path) -> None:
    images = pictures(20, LARGE_SIDE)
    patient = f"{postgres_url}&options=-c%20lock_timeout%3D{PATIENCE:.0f}s"
    with running_labeling(tmp_path, "--inspectors=2", database=patient) as server:
        server.create_dataset("d")
        server.submit([request("first", 0, pictures(1, 100)[0])])
        before = resident(server)
        sender = Sender(server, images)
        with psycopg.connect(postgres_url) as others:  # somebody has the dataset, and keeps it
            others.execute("SELECT 1 FROM dataset FOR UPDATE")
            sender.start()
            sender.wait_until_held()
            grown = resident(server) - before
            in_flight = sender.sent * len(images[0])
        sender.join(4 * PATIENCE)
        # What the allocator keeps goes back, or a pod looks for ever as it did at its worst.
        server.wait(lambda: resident(server) - before < 150 * MIB)
        after = resident(server) - before
    figures = f"{in_flight / MIB:.0f} MiB sent, {grown / MIB:.0f} more, then {after / MIB:.0f}"
    assert max(in_flight, grown) < 400 * MIB, figures  # 267 and 292 when it was written
    assert [one.ordinal for one in sender.receipts] == list(range(ROWS))
    assert {one.outcome for one in sender.receipts} <= {ACCEPTED, DUPLICATE}
