"""Refused feedback: what apps said that could not be used, why, and what to do about it."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from visionloop.errors import InvalidInputError, NotFoundError
from visionloop.objectstore.keys import MAX_KEY_BYTES
from visionloop_labeling import datasets, refused_feedback, validation
from visionloop_labeling.api.feedback import RefusedFeedbackOut
from visionloop_labeling.classes import ClassBook
from visionloop_labeling.database import Database
from visionloop_labeling.feedback_classes import Offered, UnknownClass, unknown
from visionloop_labeling.pages.errors import PageRoute
from visionloop_labeling.pages.rendering import render
from visionloop_labeling.service import LabelingService

_SHOWN: Final = 50
_OFFERED: Final = 1000  # classes of a dataset; any other can be typed


@dataclass(frozen=True, slots=True)
class _Missing:
    """The classes that these feedbacks name and their datasets do not have."""

    of: dict[str, list[UnknownClass]] = field(default_factory=dict)  # by the feedback's id
    offered: dict[str, list[str]] = field(default_factory=dict)  # a dataset's, to choose from
    times: Counter[tuple[str, UnknownClass]] = field(
        default_factory=Counter
    )  # by the dataset's name

    @property
    def often(self) -> list[tuple[str, UnknownClass, int]]:
        """Those that several name, the most often named first: (dataset, class, times)."""
        return [(*named, times) for named, times in self.times.most_common() if times > 1]


def routes(service: LabelingService) -> APIRouter:
    """The page."""
    api = APIRouter(include_in_schema=False, route_class=PageRoute)

    @api.get("/feedback")
    async def page(
        request: Request, after: Annotated[str, Query(max_length=MAX_KEY_BYTES)] = ""
    ) -> Response:
        refused, following = await service.run(
            lambda: refused_feedback.page(service.store, after=after, limit=_SHOWN)
        )
        found = [RefusedFeedbackOut.of(one) for one in refused]
        return render(
            request,
            "feedback.html",
            found=found,
            missing=await service.run(_missing, service.database, found),
            after=after,
            next=following,
        )

    return api


def _missing(database: Database, found: Sequence[RefusedFeedbackOut]) -> _Missing:
    missing = _Missing()
    of_class = [one for one in found if one.reason == "unknown_class" and one.dataset]
    with database.read() as session:
        for name in {one.dataset for one in of_class}:
            with suppress(InvalidInputError, NotFoundError):  # it is gone since
                dataset = datasets.find(session, validation.dataset_name(name))
                book = ClassBook(session, dataset)
                offered = Offered(book)
                missing.offered[name] = offered.words[:_OFFERED]
                for one in of_class:
                    if one.dataset == name:
                        missing.of[one.id] = unknown(book, offered, one.shown or ())
                        missing.times.update((name, named) for named in missing.of[one.id])
    return missing
