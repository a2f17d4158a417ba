"""Imports: queued with a file, followed, cancelled, and their receipts row by row."""

import csv
import io
import shutil
import tempfile
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from visionloop.errors import InvalidInputError
from visionloop.snapshot_format import harmless_cell
from visionloop_labeling import import_jobs, import_receipts
from visionloop_labeling.accounts import Caller
from visionloop_labeling.api import callers
from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.api.import_forms import DESCRIPTION, read_wish
from visionloop_labeling.api.spool import room
from visionloop_labeling.import_jobs import Job, JobState
from visionloop_labeling.import_receipts import RowReceipt
from visionloop_labeling.receipts import Outcome
from visionloop_labeling.service import LabelingService

_MAX_KEY: Final = 200  # characters


class ImportOut(BaseModel):
    """An import. `rows` is null until the source has been read; `counts` are of receipts."""

    id: str
    kind: str
    file: str
    parameters: dict[str, Any]
    state: JobState
    rows: int | None
    answered: int
    counts: dict[Outcome, int]
    message: str
    author: str
    created: datetime
    finished: datetime | None

    @classmethod
    def of(cls, job: Job) -> Self:
        """From what the service knows."""
        return cls(
            id=job.key,
            kind=job.kind,
            file=job.file_name,
            parameters=dict(job.parameters),
            state=job.state,
            rows=job.rows,
            answered=job.answered,
            counts={outcome: job.counts.get(outcome, 0) for outcome in Outcome},
            message=job.message,
            author=job.author,
            created=job.created,
            finished=job.finished,
        )


class RowReceiptOut(BaseModel):
    """What became of one row."""

    ordinal: int
    outcome: Outcome
    sha256: str
    reason: str
    message: str
    field: str
    source: str
    at: datetime

    @classmethod
    def of(cls, receipt: RowReceipt) -> Self:
        """From what the service knows."""
        return cls(**{name: getattr(receipt, name) for name in cls.model_fields})


class RowReceiptsOut(BaseModel):
    """A page of receipts; `next` is the `after` of the next one, null at the end."""

    receipts: list[RowReceiptOut]
    next: int | None


class _Imports:
    """The calls, over a service."""

    def __init__(self, service: LabelingService) -> None:
        self._service = service

    async def begin(
        self,
        dataset: str,
        request: Request,
        caller: Annotated[Caller, Depends(callers.current)],
        idempotency_key: Annotated[
            str, Header(description="The same key is one import, however often it is sent.")
        ] = "",
    ) -> ImportOut:
        """Queues an import. The file is kept until the import ends; its rows are taken one by one,
        and the bad ones are refused alone."""
        _check_key(idempotency_key)
        await self._service.check_dataset(dataset)
        folder = await self._service.run(_upload_folder)
        try:
            wish = await read_wish(request, folder)
            job = await self._service.run(
                import_jobs.submit,
                self._service.database,
                self._service.store,
                dataset=dataset,
                kind=wish.kind,
                parameters=wish.parameters,
                upload=wish.upload,
                idempotency_key=idempotency_key,
                author=caller.name,
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return ImportOut.of(job)

    async def latest(
        self, dataset: str, limit: Annotated[int, Query(ge=1, le=500)] = 50
    ) -> list[ImportOut]:
        """The dataset's imports, newest first."""
        jobs = await self._service.run(import_jobs.latest, self._service.database, dataset, limit)
        return [ImportOut.of(job) for job in jobs]

    async def show(self, dataset: str, job_id: str) -> ImportOut:
        """One import: how far it is, or how it ended."""
        return ImportOut.of(await self._job(dataset, job_id))

    async def cancel(self, dataset: str, job_id: str) -> ImportOut:
        """Ends an import; rows that have their receipts stay."""
        return ImportOut.of(
            await self._service.run(import_jobs.cancel, self._service.database, dataset, job_id)
        )

    async def receipts(
        self,
        dataset: str,
        job_id: str,
        after: Annotated[int, Query(ge=-1, le=2**63 - 1)] = -1,
        outcome: Outcome | None = None,
        format: Literal["json", "csv"] = "json",
        limit: Annotated[int, Query(ge=1, le=1000)] = 200,
    ) -> Response | RowReceiptsOut:
        """Receipts in the order of rows: a page as JSON, or all of them as CSV."""
        job = await self._job(dataset, job_id)
        if format == "csv":
            return StreamingResponse(
                _csv(self._service, job, after, outcome),
                media_type="text/csv; charset=utf-8",
                headers={"Content-Disposition": f'attachment; filename="{job.key}-receipts.csv"'},
            )
        page = await self._service.run(
            import_receipts.page, self._service.database, job, after, outcome, limit
        )
        return RowReceiptsOut(
            receipts=[RowReceiptOut.of(one) for one in page],
            next=page[-1].ordinal if len(page) == limit else None,
        )

    async def _job(self, dataset: str, job_id: str) -> Job:
        return await self._service.run(import_jobs.find, self._service.database, dataset, job_id)


def routes(service: LabelingService) -> APIRouter:
    """Import jobs."""
    api = APIRouter(prefix="/v1/datasets/{dataset}/imports", tags=["imports"])
    imports = _Imports(service)
    api.post("", status_code=202, responses=ERRORS, openapi_extra=DESCRIPTION)(imports.begin)
    api.get("", responses=ERRORS)(imports.latest)
    api.get("/{job_id}", responses=ERRORS)(imports.show)
    api.post("/{job_id}/cancel", responses=ERRORS)(imports.cancel)
    api.get(
        "/{job_id}/receipts",
        response_model=RowReceiptsOut,
        responses={200: {"content": {"text/csv": {}}}, **ERRORS},
    )(imports.receipts)
    return api


def _upload_folder() -> Path:
    """In TMPDIR, for the caller to remove. Raises UnavailableError where there is no room."""
    with room():
        return Path(tempfile.mkdtemp(prefix="visionloop-upload-"))


def _check_key(key: str) -> None:
    if not (key.isascii() and key.isprintable() and len(key) <= _MAX_KEY):
        raise InvalidInputError(
            f"Idempotency-Key must be at most {_MAX_KEY} ASCII characters; a UUID is fine",
            field="Idempotency-Key",
        )


async def _csv(
    service: LabelingService, job: Job, after: int, outcome: Outcome | None
) -> AsyncIterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    columns = list(RowReceiptOut.model_fields)
    writer.writerow(columns)
    while page := await service.run(
        import_receipts.page, service.database, job, after, outcome, import_receipts.PAGE
    ):
        for one in page:
            plain = RowReceiptOut.of(one).model_dump(mode="json")
            writer.writerow([harmless_cell(str(plain[name])) for name in columns])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        after = page[-1].ordinal
    yield buffer.getvalue()
