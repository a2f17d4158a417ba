"""Import jobs as one of the program's loops: the worker's thread on one side, the service's event
loop, where rows are ingested, on the other.

Every replica runs it: jobs are shared out by their leases.
"""

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from visionloop_labeling import import_jobs
from visionloop_labeling.background import Loop
from visionloop_labeling.import_worker import ImportWorker, Submit
from visionloop_labeling.importers.opening import Tools
from visionloop_labeling.receipts import ImageRow, Receipt
from visionloop_labeling.service import LabelingService

EVERY_SECONDS: Final = 1.0
_SWEEP_SECONDS: Final = 3600.0


def import_loops(service: LabelingService, tools: Tools) -> list[Loop]:
    """The worker of import jobs, and the sweep of abandoned uploads. Called on the event loop."""
    submit = submit_from_thread(service.submit_images, asyncio.get_running_loop())
    worker = ImportWorker(service.database, service.store, submit, tools)

    def sweep() -> bool:
        import_jobs.discard_abandoned(service.database, service.store)
        return False

    return [
        Loop("imports", EVERY_SECONDS, worker.work, one_replica=False),
        Loop("abandoned-uploads", _SWEEP_SECONDS, sweep),
    ]


def submit_from_thread(
    submit: Callable[[AsyncIterator[ImageRow]], AsyncIterator[Receipt]],
    loop: asyncio.AbstractEventLoop,
) -> Submit:
    """An ingest that lives on an event loop, for a thread beside it.

    What the ingest raises is raised in the thread, after the receipts before it.
    """

    def submitted(rows: Generator[ImageRow]) -> Iterator[Receipt]:
        answered: queue.SimpleQueue[Receipt | None] = queue.SimpleQueue()
        # Rows take their time (a URL, a bucket): not in the loop's own threads, which all share.
        reader = ThreadPoolExecutor(1, thread_name_prefix="import-rows")

        async def pump() -> None:
            try:
                async for receipt in submit(_read(rows, reader)):
                    answered.put(receipt)
            finally:
                answered.put(None)

        pumping = asyncio.run_coroutine_threadsafe(pump(), loop)
        try:
            while (receipt := answered.get()) is not None:
                yield receipt
            pumping.result()
        finally:
            pumping.cancel()
            reader.shutdown(wait=False, cancel_futures=True)
            with suppress(ValueError):  # it is in the middle of a row, whose thread ends it
                rows.close()

    return submitted


async def _read(rows: Iterator[ImageRow], reader: ThreadPoolExecutor) -> AsyncIterator[ImageRow]:
    loop = asyncio.get_running_loop()
    while (row := await loop.run_in_executor(reader, next, rows, None)) is not None:
        yield row
