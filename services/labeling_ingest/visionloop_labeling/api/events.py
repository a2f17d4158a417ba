"""What people say about images, event by event or many at once, and what was said last."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from visionloop.errors import InvalidInputError, VisionloopError
from visionloop_labeling import datasets, history, labels, validation
from visionloop_labeling.accounts import Caller, may_review
from visionloop_labeling.annotation import MAX_NOTE, Annotation
from visionloop_labeling.api.callers import current
from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.api.queue import as_they_stand
from visionloop_labeling.api.resources import ErrorOut, EventOut, RequestBody
from visionloop_labeling.fold import AuthorKind, EventKind, ItemState
from visionloop_labeling.queue import ItemOut
from visionloop_labeling.service import LabelingService
from visionloop_labeling.statements import MAX_SECONDS, Recorded, StaleLabelError, Statement

MAX_BATCH = 200


class EventIn(RequestBody):
    """Somebody's word about an image; the caller is its author."""

    event_id: Annotated[UUID, Field(description="Recorded once, however often it is sent.")]
    sha256: str
    kind: EventKind = EventKind.LABEL
    annotation: Annotated[Annotation | None, Field(description="For labels, with class ids.")] = (
        None
    )
    base_sequence: Annotated[
        int | None,
        Field(
            ge=0,
            description="The label the author saw (0: none); another one since is a conflict.",
        ),
    ] = None
    undoes: Annotated[
        int | None,
        Field(ge=1, description="The author's last event on the image, for undo; default: that."),
    ] = None
    note: Annotated[str, Field(max_length=MAX_NOTE)] = ""
    suggested_by: Annotated[str, Field(max_length=200, examples=["defects:7"])] = ""
    suggestion: Literal["", "accepted", "edited", "rejected"] = ""
    seconds: Annotated[float | None, Field(ge=0.0, le=MAX_SECONDS)] = None

    def statement(self, caller: Caller) -> Statement:
        """As the log takes it. Raises InvalidInputError."""
        return Statement(
            author_kind=AuthorKind.HUMAN,
            author=caller.name,
            may_review=may_review(caller),
            kind=self.kind,
            annotation=self.annotation,
            event_id=str(self.event_id),
            base_sequence=self.base_sequence,
            undoes=self.undoes,
            note=validation.lines(self.note, "note", limit=MAX_NOTE),
            suggested_by=validation.text(self.suggested_by, "suggested_by", required=False),
            suggestion=self.suggestion,
            seconds=self.seconds,
        )


class AnswerOut(BaseModel):
    """What became of an event; `current` is false when it changed nothing that counts.

    `state` and `label_sequence` are the image's after it.
    """

    sequence: int
    current: bool
    state: ItemState
    label_sequence: int

    @classmethod
    def of(cls, recorded: Recorded) -> "AnswerOut":
        """From what the log says."""
        return cls(
            sequence=recorded.sequence,
            current=recorded.applied,
            state=recorded.state,
            label_sequence=recorded.label_sequence,
        )


class ConflictOut(ErrorOut):
    """Somebody was first: what the image's label is now, to decide again."""

    current: ItemOut | None = None


class BatchIn(RequestBody):
    """Events, recorded in their order."""

    events: Annotated[list[EventIn], Field(max_length=MAX_BATCH)]


class ResultOut(BaseModel):
    """What became of one event of a batch: `ok` or `error`."""

    ok: AnswerOut | None = None
    error: ConflictOut | None = None


class BatchOut(BaseModel):
    """A result for each event, in order."""

    results: list[ResultOut]


def routes(service: LabelingService) -> APIRouter:
    """Events."""
    api = APIRouter(tags=["labels"])

    @api.post(
        "/v1/datasets/{dataset}/events",
        response_model=AnswerOut,
        responses={**ERRORS, 409: {"model": ConflictOut}},
    )
    async def say(
        dataset: str, event: EventIn, caller: Annotated[Caller, Depends(current)]
    ) -> AnswerOut | JSONResponse:
        """Records one event: a label, retract, skip, flag, unflag, or undo of one's own last."""
        answer = (await service.run(_record, service, dataset, [event], caller))[0]
        if isinstance(answer, Recorded):
            return AnswerOut.of(answer)
        if not isinstance(answer, StaleLabelError):
            raise answer
        found = await service.run(as_they_stand, service, dataset, [event.sha256])
        body = _refusal(event, answer, found)
        return JSONResponse(body.model_dump(mode="json"), answer.http_status)

    @api.post(
        "/v1/datasets/{dataset}/events/batch",
        responses=ERRORS,
        response_model_exclude_unset=True,
    )
    async def say_all(
        dataset: str, batch: BatchIn, caller: Annotated[Caller, Depends(current)]
    ) -> BatchOut:
        """Records events in one transaction; what is refused is refused alone."""
        return await service.run(_batch, service, dataset, batch.events, caller)

    @api.get("/v1/datasets/{dataset}/events", responses=ERRORS)
    async def recent(
        dataset: str,
        author: Annotated[str | None, Query(max_length=200)] = None,
        limit: Annotated[int, Query(ge=1, le=history.MAX_EVENTS)] = 100,
    ) -> list[EventOut]:
        """The last events, or one author's last, newest first."""
        return await service.run(_recent, service, dataset, author, limit)

    return api


def _record(
    service: LabelingService, dataset: str, events: Sequence[EventIn], caller: Caller
) -> list[Recorded | VisionloopError]:
    statements: list[tuple[str, Statement] | VisionloopError] = []
    for event in events:
        try:
            statements.append((event.sha256, event.statement(caller)))
        except InvalidInputError as refusal:
            statements.append(refusal)
    return labels.say_all(service.database, dataset, statements)


def _batch(
    service: LabelingService, dataset: str, events: Sequence[EventIn], caller: Caller
) -> BatchOut:
    answered = list(zip(events, _record(service, dataset, events, caller), strict=True))
    stale = [e.sha256 for e, answer in answered if isinstance(answer, StaleLabelError)]
    found = as_they_stand(service, dataset, stale)
    results = [
        ResultOut(ok=AnswerOut.of(answer))
        if isinstance(answer, Recorded)
        else ResultOut(error=_refusal(event, answer, found))
        for event, answer in answered
    ]
    return BatchOut(results=results)


def _refusal(event: EventIn, refusal: VisionloopError, found: Mapping[str, ItemOut]) -> ConflictOut:
    """`found`: the images of stale labels as they stand now."""
    field = refusal.field if isinstance(refusal, InvalidInputError | StaleLabelError) else ""
    body = ConflictOut(reason=refusal.reason, message=str(refusal), field=field)
    if isinstance(refusal, StaleLabelError):
        body.current = found.get(validation.sha256(event.sha256))
    return body


def _recent(
    service: LabelingService, dataset_name: str, author: str | None, limit: int
) -> list[EventOut]:
    if author is not None:
        author = validation.text(author, "author")
    with service.database.read() as session:
        dataset = datasets.find(session, validation.dataset_name(dataset_name))
        entries = history.recent(session, dataset, author=author, limit=limit)
    return [EventOut.of(entry) for entry in entries]
