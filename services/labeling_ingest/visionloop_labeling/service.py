"""What the service does, once, for both of its faces (`api` over HTTP, `grpc_api` over gRPC).

Blocking work (database, store, pixels) runs in threads; the event loop only waits. Draining stops
reading from open streams; what has been read is still made durable and answered.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, ParamSpec, TypeVar

from sqlalchemy import select

from visionloop.errors import UnavailableError
from visionloop.images import Limits
from visionloop.objectstore import ObjectStore
from visionloop.telemetry import labeling as metrics
from visionloop_labeling import datasets, exports, history, labels, snapshots, validation
from visionloop_labeling.database import Database
from visionloop_labeling.datasets import DatasetSettings, DatasetSummary
from visionloop_labeling.exporters import Export, open_export
from visionloop_labeling.exports import ExportedLabel
from visionloop_labeling.feedback_effect import FeedbackEffect
from visionloop_labeling.feedback_inbox import FeedbackInbox
from visionloop_labeling.feedback_retaking import Retaking
from visionloop_labeling.gauges import StoredGauges
from visionloop_labeling.held_bytes import HeldBytes
from visionloop_labeling.history import HistoryEntry
from visionloop_labeling.ingest import Ingest
from visionloop_labeling.inspectors import Inspector, OwnProcess
from visionloop_labeling.labels import Recorded, Statement
from visionloop_labeling.overview import Overviews
from visionloop_labeling.previews import Previews
from visionloop_labeling.receipts import ImageRow, Receipt
from visionloop_labeling.renditions import Recipe
from visionloop_labeling.snapshot_list import SnapshotList
from visionloop_labeling.snapshots import Compared, Cut
from visionloop_labeling.stream import IngestStream

# Previews that are made at once: a page of a grid asks for 24, and were each to hold one of the 16
# request threads while it waits for a decoder, no label would be saved meanwhile.
RENDERINGS: Final = 4
# Of single images in memory, beside those of streams (`stream`); more wait on disk.
UPLOAD_BYTES: Final = 128 * 2**20

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Row = TypeVar("_Row")


class LabelingService:
    """The operations of labeling-ingest. Made and used on one event loop."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        limits: Limits,
        inspector: Inspector | None = None,
    ) -> None:
        """Without an inspector, untrusted images are decoded in this process."""
        self.limits = limits
        self.database = database
        self.store = store
        self.inspector = inspector or OwnProcess(limits)
        self.previews = Previews(database, store, self.inspector)
        self.overviews = Overviews(database)
        self.snapshots = SnapshotList(store)
        self.ingest = Ingest(database, store, limits, self.inspector)
        effect = FeedbackEffect(database, store, self.ingest)
        self.feedback = FeedbackInbox(store, effect)
        self.refused_feedback = Retaking(store, effect)
        self._stream = IngestStream(self.ingest)
        self.uploads = HeldBytes(UPLOAD_BYTES)
        self._gauges = StoredGauges(database, store)
        self.draining = False  # true once no new work is taken
        self._reading: set[asyncio.Timeout] = set()  # streams that wait for their next row
        self._snapshot_lock = asyncio.Lock()
        self._rendering = asyncio.Semaphore(RENDERINGS)
        self._comparing = asyncio.Semaphore(1)

    def drain(self) -> None:
        """From now on open streams are not read further, and new work is refused."""
        self.draining = True
        for waiting in self._reading:
            waiting.reschedule(asyncio.get_running_loop().time())

    def close(self) -> None:
        """Waits for the work in flight, then closes the database."""
        self._stream.close()
        self.ingest.close()
        self.inspector.close()
        self.database.close()

    async def check_ready(self) -> None:
        """Raises UnavailableError while draining or without the database."""

        def work() -> None:
            with self.database.read() as session:
                session.execute(select(1))

        await self.run(work)

    async def check_dataset(self, name: str) -> None:
        """Raises NotFoundError or InvalidInputError where there is no such dataset."""

        def work() -> None:
            with self.database.read() as session:
                datasets.find(session, validation.dataset_name(name))

        await self.run(work)

    async def measure(self) -> None:
        """Brings the gauges up to date that describe stored data, and the connections to it."""
        in_use, most = self.database.connections()
        metrics.DATABASE_CONNECTIONS.labels("in_use").set(in_use)
        metrics.DATABASE_CONNECTIONS.labels("limit").set(most)
        await asyncio.to_thread(self._gauges.measure)

    async def create_dataset(
        self, name: str, settings: DatasetSettings | None = None
    ) -> DatasetSummary:
        """Makes a dataset, or gives the one of this name."""

        def work() -> DatasetSummary:
            checked = validation.dataset_name(name)
            with self.database.write() as session:
                return datasets.summary(session, datasets.create(session, checked, settings))

        return await self.run(work)

    async def create_new_dataset(self, name: str, settings: DatasetSettings) -> DatasetSummary:
        """Makes a dataset. Raises ConflictError where there is one of this name."""

        def work() -> DatasetSummary:
            checked = validation.dataset_name(name)
            with self.database.write() as session:
                return datasets.summary(session, datasets.create_new(session, checked, settings))

        return await self.run(work)

    async def list_datasets(self) -> list[DatasetSummary]:
        """All datasets by name."""

        def work() -> list[DatasetSummary]:
            with self.database.read() as session:
                return datasets.summaries(session)

        return await self.run(work)

    def submit_images(self, rows: AsyncIterator[ImageRow]) -> AsyncIterator[Receipt]:
        """A receipt for each row, in order, each row durable before its receipt.

        When the service drains, the rows read so far are answered and UnavailableError is raised.
        """
        return self._stream.submit(self._until_drained(rows))

    async def submit_image(self, row: ImageRow) -> Receipt:
        """One row."""
        self._refuse_when_draining()
        return await self._stream.submit_one(row)

    async def submit_event(self, dataset: str, sha256: str, statement: Statement) -> Recorded:
        """Somebody's word about an image that is there."""
        return await self.run(labels.submit, self.database, dataset, sha256, statement)

    async def history(self, dataset: str, sha256: str) -> list[HistoryEntry]:
        """Every label event of an image, oldest first."""

        def work() -> list[HistoryEntry]:
            with self.database.read() as session:
                return history.of_image(session, dataset, sha256)

        return await self.run(work)

    async def preview(self, sha256: str, recipe: Recipe) -> bytes:
        """The rendition of an image that `previews.check` has found, as WebP.

        One that must be made waits for its turn, outside of the threads that labels need.
        """
        stored = await self.run(self.previews.stored, sha256, recipe)
        if stored is not None:
            return stored
        async with self._rendering:
            return await self.run(self.previews.make, sha256, recipe)

    async def export(self, dataset: str) -> AsyncIterator[list[ExportedLabel]]:
        """The current labels, a page at a time."""
        pages = exports.pages(self.database, dataset)
        while page := await self.run(_next_page, pages):
            yield page

    async def export_file(
        self, dataset: str, format_name: str, snapshot: str | None = None
    ) -> AsyncIterator[bytes]:
        """The pieces of a file (see `exporters`); what is not there is said before the first."""
        export = await self.run(
            open_export, self.database, self.store, dataset, format_name, snapshot
        )
        async for piece in self.pieces(export):
            yield piece

    async def pieces(self, export: Export) -> AsyncIterator[bytes]:
        """The pieces of an opened export, made in threads."""
        try:
            while piece := await self.run(next, export.chunks, b""):
                yield piece
        finally:
            await asyncio.to_thread(export.chunks.close)

    async def create_snapshot(self, dataset: str) -> Cut:
        """Cuts a snapshot; one at a time, so that parents form a line."""
        async with self._snapshot_lock:
            return await self.run(snapshots.cut, self.database, self.store, dataset)

    async def compare(self, dataset: str, before: str, after: str, most: int) -> Compared:
        """What changed between two snapshots, at most so many of each kind listed.

        One comparison at a time: reading two snapshots of a million images takes a core for
        minutes, and others wait outside of the threads that labels need.
        """
        async with self._comparing:
            return await self.run(snapshots.compare, self.store, dataset, before, after, most)

    async def run(
        self,
        work: Callable[_Arguments, _Result],
        *args: _Arguments.args,
        **kwargs: _Arguments.kwargs,
    ) -> _Result:
        """Does blocking work in a thread. Raises UnavailableError while draining."""
        self._refuse_when_draining()
        return await asyncio.to_thread(work, *args, **kwargs)

    def _refuse_when_draining(self) -> None:
        if self.draining:
            raise UnavailableError("the service is shutting down; send this again in a moment")

    async def _until_drained(self, rows: AsyncIterator[_Row]) -> AsyncIterator[_Row]:
        while True:
            waiting = asyncio.timeout(None)  # ends when the service drains; costs next to nothing
            try:
                async with waiting:
                    self._reading.add(waiting)
                    row = await anext(rows)
            except StopAsyncIteration:
                return
            except TimeoutError:
                self._refuse_when_draining()
                raise  # another one's
            finally:
                self._reading.discard(waiting)
            # What was just read is dropped: it has no receipt, so it is sent again.
            self._refuse_when_draining()
            yield row


def _next_page(pages: Iterator[list[ExportedLabel]]) -> list[ExportedLabel]:
    return next(pages, [])
