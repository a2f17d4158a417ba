"""Feedback of apps that could not take effect: looked through, taken again, thrown away."""

from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from visionloop.errors import InvalidInputError
from visionloop.feedback import LONGEST_CLASS_ID, MOST_CLASS_IDS
from visionloop.objectstore.keys import MAX_KEY_BYTES
from visionloop_labeling import refused_feedback
from visionloop_labeling.api.errors import ERRORS
from visionloop_labeling.api.resources import RequestBody
from visionloop_labeling.feedback_retaking import Naming
from visionloop_labeling.refused_feedback import RefusedFeedback
from visionloop_labeling.service import LabelingService


class RefusedFeedbackOut(BaseModel):
    """A feedback that was put aside, why, and what it says, as far as it can be read.

    `shown`: the classes that the app says the image shows; null where it only said "wrong".
    """

    id: str
    reason: str
    message: str
    at: datetime
    dataset: str
    prediction_id: str
    shown: list[str] | None
    note: str
    caller: str
    received: datetime | None

    @classmethod
    def of(cls, refused: RefusedFeedback) -> "RefusedFeedbackOut":
        """From what lies in the store."""
        said = refused.header
        shown = None if said is None else said.shown
        return cls(
            id=refused.name,
            reason=refused.reason,
            message=refused.message,
            at=refused.at,
            dataset=refused.dataset,
            prediction_id="" if said is None else said.prediction_id,
            shown=None if shown is None else list(shown),
            note="" if said is None else said.note,
            caller="" if said is None else said.caller,
            received=None if said is None else said.received,
        )


class RefusedFeedbackPage(BaseModel):
    """Some of it; `next` is the `after` of the next page, null at the end. It may come short."""

    items: list[RefusedFeedbackOut]
    next: str | None


_Dataset = Annotated[str, Query(max_length=100)]
_Said = Annotated[
    str, Query(max_length=LONGEST_CLASS_ID, description="What apps call a class of the dataset.")
]
_AS_SAID: Final[dict[str, str]] = {}


class RetryIn(RequestBody):
    """How to take it again."""

    classes: Annotated[
        dict[str, Annotated[str, Field(min_length=1, max_length=LONGEST_CLASS_ID)]],
        Field(
            max_length=MOST_CLASS_IDS,
            description="What the app said, and the id or name of the class that is meant.",
            examples=[{"Tea pot": "teapot"}],
        ),
    ] = _AS_SAID


class RetryAllIn(RequestBody):
    """How to take all of it again."""

    meant: Annotated[
        str,
        Field(
            max_length=LONGEST_CLASS_ID,
            description="With `said`: the id or name of the class that is meant.",
        ),
    ] = ""


class TakenOut(BaseModel):
    """What became of a feedback: labelled, reported (called wrong), outdated (kept in the
    history, for something newer was said of the image) or repeated (known already)."""

    outcome: str


class RetakenOut(BaseModel):
    """How many took effect, how many still cannot, and the `after` of the next call, where time was
    up before all were looked at."""

    taken: int
    left: int
    next: str | None


class ThrownAwayOut(BaseModel):
    """How much was thrown away, and the `after` of the next call, where time was up before all was
    looked at."""

    thrown_away: int
    next: str | None


def routes(service: LabelingService) -> APIRouter:
    """Refused feedback."""
    api = APIRouter(prefix="/v1/feedback/refused", tags=["feedback"], responses=ERRORS)

    @api.get("")
    async def list_refused(
        after: Annotated[str, Query(max_length=MAX_KEY_BYTES)] = "",
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> RefusedFeedbackPage:
        """Feedback that could not take effect, by id."""
        found, following = await service.run(
            lambda: refused_feedback.page(service.store, after=after, limit=limit)
        )
        return RefusedFeedbackPage(
            items=[RefusedFeedbackOut.of(one) for one in found],
            next=following or None,
        )

    @api.post("/retry")
    async def retry_all(
        dataset: _Dataset = "",
        said: _Said = "",
        after: Annotated[str, Query(max_length=MAX_KEY_BYTES)] = "",
        how: RetryAllIn | None = None,
    ) -> RetakenOut:
        """Takes all of it again, as after a class was added; with `said` only what names this,
        which is no class of the dataset. What still cannot be used stays."""
        meant = "" if how is None else how.meant
        naming = _naming(dataset, said) if dataset or said or meant else None
        found = await service.run(service.refused_feedback.retry_all, after, naming, meant)
        return RetakenOut(taken=found.taken, left=found.left, next=found.next or None)

    @api.delete("")
    async def throw_all_away(
        dataset: _Dataset,
        said: _Said,
        after: Annotated[str, Query(max_length=MAX_KEY_BYTES)] = "",
    ) -> ThrownAwayOut:
        """Removes for good all that was put aside because it names this class, which the dataset
        does not have."""
        naming = _naming(dataset, said)
        found = await service.run(service.refused_feedback.throw_away_all, naming, after)
        return ThrownAwayOut(thrown_away=found.taken, next=found.next or None)

    @api.post("/{feedback_id}/retry")
    async def retry(feedback_id: str, how: RetryIn | None = None) -> TakenOut:
        """Takes it again, now that the cause is gone; 412 with the reason where it is not.

        A class that the dataset calls otherwise can be told in `classes`.
        """
        meant = {} if how is None else how.classes
        return TakenOut(
            outcome=await service.run(service.refused_feedback.retry, feedback_id, meant)
        )

    @api.delete("/{feedback_id}", status_code=204)
    async def throw_away(feedback_id: str) -> None:
        """Removes it for good."""
        await service.run(refused_feedback.remove, service.store, feedback_id)

    return api


def _naming(dataset: str, said: str) -> Naming:
    """Raises InvalidInputError for half of it: all of it would be taken instead, or nothing."""
    if not (dataset and said):
        raise InvalidInputError(
            "give dataset and said together: a class is missing in one dataset",
            field="said" if dataset else "dataset",
        )
    return Naming(dataset, said)
