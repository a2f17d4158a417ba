"""The worker of import jobs: claims one, reads its source, sends the rows through the ingest.

Works in one thread of its own; pictures are read (out of an archive, from a URL, from a bucket) by
a few more, ahead of the ingest and in order. Rows pass the same ingest as everybody's, so what a
kill leaves is what it always leaves: rows with receipts, and rows that come again. The checkpoint
moves once for each group of receipts, in a transaction that also checks the lease.
"""

import logging
import os
import socket
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Final, TypeAlias

from visionloop.errors import (
    InvalidInputError,
    OverloadedError,
    UnavailableError,
    VisionloopError,
)
from visionloop.failpoints import failpoint
from visionloop.objectstore import ObjectStore
from visionloop_labeling import import_claims, import_jobs
from visionloop_labeling.annotation import Draft, Task
from visionloop_labeling.database import Database
from visionloop_labeling.import_claims import Claim, LeaseLostError, StagedFile
from visionloop_labeling.import_jobs import JobState
from visionloop_labeling.importers.entries import Importer, Step, take
from visionloop_labeling.importers.opening import Source, Tools, open_importer
from visionloop_labeling.importers.parameters import stored_parameters
from visionloop_labeling.labels import AuthorKind
from visionloop_labeling.receipts import ImageRow, Receipt, Way

# Rows in, their receipts out, in order, each when it is durable. It closes the rows in the end.
Submit: TypeAlias = Callable[[Generator[ImageRow]], Iterator[Receipt]]

_READERS: Final = 8
_READ_AHEAD: Final = 16  # entries, of at most an image each
_GROUP: Final = 64  # receipts between checkpoints,
_GROUP_SECONDS: Final = 2.0  # or this long
_BEAT_SECONDS: Final = import_claims.LEASE.total_seconds() / 4
_LONGEST_PAUSE: Final = timedelta(minutes=2)
_log = logging.getLogger(__name__)


class ImportWorker:
    """Works on one job at a time. `spool` is a folder for uploads while they are read."""

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        submit: Submit,
        tools: Tools,
        spool: Path | None = None,
    ) -> None:
        self._database = database
        self._store = store
        self._submit = submit
        self._tools = tools
        self._spool = spool
        self._holder = f"{socket.gethostname()[:30]}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    def work(self) -> bool:
        """Claims a job and works on it until it ends or has to wait; whether there was one."""
        claim = import_claims.claim(self._database, self._holder)
        if claim is None:
            return import_jobs.discard_uploads(self._database, self._store)
        failpoint("import.claimed")
        with suppress(LeaseLostError):
            self._work_on(claim)
        return True

    def _work_on(self, claim: Claim) -> None:
        pause = min(timedelta(seconds=2**claim.attempts), _LONGEST_PAUSE)
        try:
            with _heartbeat(claim) as lost:
                remark = self._run(claim, lost)
            claim.finish(JobState.DONE, remark)
        except (UnavailableError, OverloadedError) as error:
            claim.release(f"waits: {error}", pause, away=True)
        except InvalidInputError as error:
            claim.finish(JobState.FAILED, str(error))
        except LeaseLostError:
            raise
        except Exception as error:  # noqa: BLE001 - a fault of ours or a full disk: try again
            _log.exception("an import stumbled", extra={"batch": claim.batch})
            claim.release(f"waits after a fault of the service ({type(error).__name__})", pause)
        failpoint("import.finished")

    def _run(self, claim: Claim, lost: threading.Event) -> str:
        with self._opened(claim) as importer:
            behind = claim.recount()
            with self._database.write() as session:
                importer.settle(session, behind)
                claim.begin(session, importer.rows)
            answered = {receipt.ordinal for receipt in behind}
            steps = (step for step in importer.steps(claim.checkpoint) if step[0] not in answered)
            receipts = self._submit(_rows(claim, steps, lost))
            for group in _groups(receipts):
                with self._database.write() as session:
                    importer.settle(session, group)
                    for receipt in group:
                        claim.counts[receipt.outcome] = claim.counts.get(receipt.outcome, 0) + 1
                    claim.advance(session, group[-1].ordinal + 1)
                failpoint("import.checkpoint")
            if lost.is_set():
                raise LeaseLostError
            return importer.remark

    @contextmanager
    def _opened(self, claim: Claim) -> Iterator[Importer]:
        parameters = stored_parameters(claim.kind, claim.parameters)
        with tempfile.TemporaryDirectory(prefix="visionloop-import-", dir=self._spool) as folder:
            file = None if claim.file is None else self._fetch(claim.file, Path(folder))
            source = Source(claim.dataset_id, claim.job_id, claim.renew)
            importer = open_importer(parameters, file, self._tools, source)
            try:
                yield importer
            finally:
                importer.close()

    def _fetch(self, staged: StagedFile, folder: Path) -> Path:
        path = folder / "upload"
        try:
            self._store.download(staged.key, path, sha256=staged.sha256, size=staged.size)
        except VisionloopError as error:
            # What the store says stays in the log: it names folders, buckets and users.
            _log.error("cannot read an upload", extra={"key": staged.key, "error": str(error)})
            raise UnavailableError(
                "the object store does not give the upload (the service's log says why)"
            ) from error
        return path


def _rows(claim: Claim, steps: Iterator[Step], lost: threading.Event) -> Generator[ImageRow]:
    """The rows of the steps, read ahead by several threads, in order, until the lease is lost."""
    readers = ThreadPoolExecutor(_READERS, thread_name_prefix="import-read")
    ahead: deque[Future[ImageRow]] = deque()
    try:
        for step in steps:
            if lost.is_set():
                return
            ahead.append(readers.submit(_row, claim, step))
            if len(ahead) >= _READ_AHEAD:
                yield ahead.popleft().result()
        while ahead and not lost.is_set():
            yield ahead.popleft().result()
    finally:
        # What is under way ends by itself: with its file or its connection, which are closed next.
        readers.shutdown(wait=False, cancel_futures=True)


def _row(claim: Claim, step: Step) -> ImageRow:
    entry = take(step)
    return ImageRow(
        dataset=claim.dataset,
        batch=claim.batch,
        ordinal=step[0],
        image=entry.image,
        sha256=entry.sha256,
        label=entry.label,
        annotation=_for_task(entry.annotation, claim.task),
        group=entry.group,
        attributes=entry.attributes,
        author_kind=AuthorKind.IMPORT,
        author=claim.author,
        source=entry.source,
        refusal=entry.refusal,
        remark=entry.remark,
        way=Way.IMPORT,
    )


def _for_task(said: Draft | None, task: Task) -> Draft | None:
    """An empty list of boxes says "nothing there" in a detection dataset and nothing elsewhere."""
    if said is not None and not said.boxes and task != "detection":
        said = said.model_copy(update={"boxes": None})
    return said if said is not None and said.stored() else None


def _groups(receipts: Iterator[Receipt]) -> Iterator[Sequence[Receipt]]:
    """Receipts that share a checkpoint; none waits long for the next one."""
    group: list[Receipt] = []
    begun = time.monotonic()
    for receipt in receipts:
        group.append(receipt)
        if len(group) >= _GROUP or time.monotonic() - begun > _GROUP_SECONDS:
            yield group
            group, begun = [], time.monotonic()
    if group:
        yield group


@contextmanager
def _heartbeat(claim: Claim) -> Iterator[threading.Event]:
    """Renews the lease while the block runs; the event is set once it is lost."""
    lost, over = threading.Event(), threading.Event()

    def beat() -> None:
        while not over.wait(_BEAT_SECONDS):
            try:
                claim.renew()
            except LeaseLostError:
                lost.set()
                return
            except VisionloopError:
                _log.warning("cannot renew the lease of an import", extra={"batch": claim.batch})

    thread = threading.Thread(target=beat, name="import-lease", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        over.set()
        thread.join()
