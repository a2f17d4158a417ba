"""Imports run in this process, on a core's database, store and ingest; and archives for them."""

import hashlib
import io
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from sqlalchemy import select

from visionloop.errors import InvalidInputError
from visionloop.images import Limits
from visionloop_labeling import import_jobs
from visionloop_labeling.import_jobs import Job, Upload
from visionloop_labeling.import_worker import ImportWorker, Submit
from visionloop_labeling.importers import album
from visionloop_labeling.importers.archive import ArchiveLimits
from visionloop_labeling.importers.entries import Entry, take
from visionloop_labeling.importers.opening import Source, Tools, open_importer
from visionloop_labeling.importers.parameters import KINDS
from visionloop_labeling.receipts import ImageRow, Receipt
from visionloop_labeling.schema import IngestBatch, IngestRow


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """The same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def tarred(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def bound(*files: tuple[str, bytes]) -> bytes:
    """Files as one form of kind images leaves them on disk."""
    contents = b"".join(data for _, data in files)
    return contents + b"".join(album.index([(name, len(data)) for name, data in files]))


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


def worker(core: Any, submit: Submit | None = None, **tools: Any) -> ImportWorker:
    """A worker whose rows go through the core's ingest, or another `submit`."""

    def ingest(rows: Iterator[ImageRow]) -> Iterator[Receipt]:
        while group := list(islice(rows, 16)):
            yield from core.submit(*group)

    made = Tools(Limits(), core.database, **tools)
    return ImportWorker(core.database, core.store, submit or ingest, made)


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


def taken(
    kind: str, data: bytes, known: tuple[int, int] | None = None, **said: Any
) -> list[Entry | InvalidInputError]:
    """What an importer makes of an upload, row by row, without database or service.

    Raises what refuses the whole upload. `known` is the size of every image "that is there".
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "upload")
        path.write_bytes(data)
        tools = Tools(Limits(), _NoDatabase(known), archive_limits=SMALL)  # type: ignore[arg-type]
        importer = open_importer(KINDS[kind](**said), path, tools, Source(0, 0, lambda: None))
        try:
            found: list[Entry | InvalidInputError] = []
            for step in importer.steps(0):
                assert step[0] == len(found)
                entry = take(step)
                found.append(entry.refusal or entry)
            assert len(found) == importer.rows
            return found
        finally:
            importer.close()


# Limits that tests can reach.
SMALL = ArchiveLimits(entries=2_000, unpacked_bytes=256 * 2**20)


class _NoDatabase:
    """Stands where only the sizes of known images are asked for."""

    def __init__(self, known: tuple[int, int] | None) -> None:
        self._known = known

    @contextmanager
    def read(self) -> Iterator[Any]:
        yield self

    def execute(self, _query: object) -> Any:
        found = (
            None
            if self._known is None
            else SimpleNamespace(width=self._known[0], height=self._known[1])
        )
        return SimpleNamespace(first=lambda: found)


def picture(seed: int, width: int = 32, height: int = 24, orientation: int = 1) -> bytes:
    """A small image of its own; as JPEG with an EXIF orientation unless that is 1."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    if orientation == 1:
        Image.fromarray(pixels).save(buffer, "PNG")
    else:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        Image.fromarray(pixels).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def exif_photo(stored: np.ndarray, orientation: int, kind: str = "PNG") -> bytes:
    """(height, width, 3) as a camera stores it, with its note of how to turn it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def drafts(found: list[Entry | InvalidInputError]) -> list[dict[str, Any] | None]:
    """The annotations; a refused row is a failure that says why."""
    stored = []
    for one in found:
        assert isinstance(one, Entry), str(one)
        stored.append(None if one.annotation is None else one.annotation.stored())
    return stored


def refusal(found: list[Entry | InvalidInputError], row: int = 0) -> InvalidInputError:
    """Why this row was refused; an accepted row is a failure."""
    one = found[row]
    assert isinstance(one, InvalidInputError)
    return one
