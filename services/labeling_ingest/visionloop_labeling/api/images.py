"""Images, one at a time."""

import json
import uuid
from dataclasses import dataclass, replace
from typing import Annotated, Final

from fastapi import APIRouter, Depends, File, Form, Header, Response, UploadFile

from visionloop.errors import InvalidInputError
from visionloop_labeling.accounts import Caller, spoken_by
from visionloop_labeling.api.callers import current
from visionloop_labeling.api.errors import ERRORS, RejectedRowError
from visionloop_labeling.api.resources import ReceiptOut
from visionloop_labeling.auth import Gate
from visionloop_labeling.labels import AuthorKind
from visionloop_labeling.receipts import ImageRow, Outcome, Way
from visionloop_labeling.service import LabelingService

_MAX_KEY: Final = 195  # characters; with "http:" the 200 of a batch's name


def routes(service: LabelingService, gate: Gate) -> APIRouter:
    """Single images."""
    api = APIRouter(tags=["images"])

    @api.post("/v1/datasets/{dataset}/images", status_code=201, responses=ERRORS)
    async def submit_image(
        response: Response,
        upload: Annotated[_Upload, Depends(_upload)],
        caller: Annotated[Caller, Depends(current)],
    ) -> ReceiptOut:
        """One image, with or without a label. 201 when it is new, 200 when it was there."""
        size = upload.file.size or 0
        await gate.quotas.take(caller, size)
        # Until then it lies on disk: a thousand callers send at once, of 20 MB each.
        async with service.uploads.room(size):
            row = replace(upload.row, image=await upload.file.read())
            receipt = await service.submit_image(row)
        if receipt.outcome in (Outcome.REJECTED, Outcome.QUARANTINED):
            raise RejectedRowError(receipt)
        if receipt.outcome is Outcome.DUPLICATE or receipt.replayed:
            response.status_code = 200
        return ReceiptOut.of(receipt)

    return api


@dataclass(frozen=True, slots=True)
class _Upload:
    """An image that has come and is not read yet; `row` lacks its bytes."""

    row: ImageRow
    file: UploadFile


async def _upload(
    dataset: str,
    caller: Annotated[Caller, Depends(current)],
    file: Annotated[UploadFile, File(description="The encoded image.")],
    label: Annotated[str | None, Form(description="The class's name.")] = None,
    group: Annotated[str, Form(description="Images of one group share a split.")] = "",
    attributes: Annotated[str, Form(description='A JSON object of strings: {"line": "3"}.')] = "{}",
    author_kind: Annotated[AuthorKind, Form()] = AuthorKind.HUMAN,
    author: Annotated[str, Form()] = "",
    idempotency_key: Annotated[
        str, Header(description="The same key is one upload, however often it is sent.")
    ] = "",
) -> _Upload:
    if not (idempotency_key.isascii() and len(idempotency_key) <= _MAX_KEY):
        raise InvalidInputError(
            f"Idempotency-Key must be at most {_MAX_KEY} ASCII characters; a UUID is fine",
            field="Idempotency-Key",
        )
    row = ImageRow(
        dataset=dataset,
        batch=f"http:{idempotency_key or uuid.uuid4()}",
        ordinal=0,
        image=b"",
        label=label or None,
        group=group,
        attributes=_attributes(attributes),
        author_kind=author_kind,
        author=spoken_by(caller, author, author_kind),
        source=file.filename or "",
        way=Way.HTTP,
    )
    return _Upload(row, file)


def _attributes(text: str) -> dict[str, str]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"attributes is not JSON ({error}); send an object of strings", field="attributes"
        ) from error
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise InvalidInputError(
            'attributes must be a JSON object of strings, as {"line": "3"}', field="attributes"
        )
    return values
