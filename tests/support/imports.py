"""Imports run in this process, on a core's database, store and ingest; and archives for them."""

import hashlib
import io
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import select

from visionloop.images import Limits
from visionloop_labeling import import_jobs
from visionloop_labeling.import_jobs import Job, Upload
from visionloop_labeling.import_worker import ImportWorker
from visionloop_labeling.importers.opening import Tools
from visionloop_labeling.importers.parameters import KINDS
from visionloop_labeling.receipts import ImageRow, Receipt
from visionloop_labeling.schema import IngestBatch, IngestRow


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def queue(core: Any, kind: str, data: bytes | None, dataset: str = "cells", **said: Any) -> Job:
    """Queues an import of these bytes."""
    key = said.pop("idempotency_key", "")
    with tempfile.TemporaryDirectory() as folder:
        upload = None
        if data is not None:
            path = Path(folder, "upload")
            path.write_bytes(data)
            upload = Upload(path, "upload", hashlib.sha256(data).hexdigest(), len(data))
        return import_jobs.submit(
            core.database,
            core.store,
            dataset=dataset,
            kind=kind,
            parameters=KINDS[kind](**said),
            upload=upload,
            idempotency_key=key,
            author="tester",
        )


def worker(core: Any, **tools: Any) -> ImportWorker:
    def submit(rows: Iterator[ImageRow]) -> Iterator[Receipt]:
        while group := list(islice(rows, 16)):
            yield from core.submit(*group)

    return ImportWorker(core.database, core.store, submit, Tools(Limits(), core.database, **tools))


def run(
    core: Any, kind: str, data: bytes | None, tools: Mapping[str, Any] | None = None, **said: Any
) -> Job:
    """Queues an import and works until nothing is left to do."""
    job = queue(core, kind, data, **said)
    at_work = worker(core, **(tools or {}))
    while at_work.work():
        pass
    return import_jobs.find(core.database, job.dataset, job.key)


def receipts(core: Any, job: Job) -> list[IngestRow]:
    """The stored receipts of a job, by ordinal."""
    query = (
        select(IngestRow)
        .join(IngestBatch, IngestBatch.id == IngestRow.batch_id)
        .where(IngestBatch.name == job.batch)
        .order_by(IngestRow.ordinal)
    )
    with core.database.read() as session:
        return list(session.scalars(query))
