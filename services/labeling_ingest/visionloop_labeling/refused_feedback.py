"""Feedback that could not take effect, kept until a person has seen why.

    inbox/refused/<uuid>         as the app sent it
    inbox/refused/<uuid>.json    RefusedFeedback: the reason, and the feedback's own first line

An app was told "stored" when the service had only looked at what it could see: a version that is no
longer loaded, a class that the dataset lacks are found out later. So nothing is dropped: an
administrator reads the reason, removes the cause (adds the class), and has it taken again.
"""

import heapq
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import Field

from visionloop.errors import CorruptError, InvalidInputError, NotFoundError, VisionloopError
from visionloop.feedback import FOLDER, Feedback, FeedbackHeader
from visionloop.objectstore import ObjectStore
from visionloop.objectstore.keys import check_key
from visionloop.objectstore.transfers import in_parallel
from visionloop.record import Record, parse_record

REFUSED: Final = "inbox/refused/"
_READ_AHEAD: Final = 64  # reasons


class RefusedFeedback(Record):
    """The object beside a feedback that was put aside. `reason` is one word."""

    format_version: Literal[1] = 1
    kind: Literal["visionloop.refused-feedback"] = "visionloop.refused-feedback"
    key: str  # where it lay
    reason: Annotated[str, Field(min_length=1)]
    message: str
    at: datetime
    # Of the model's version; "" where that is not known.
    dataset: str = ""
    # None where it cannot be read.
    header: FeedbackHeader | None = None

    @property
    def name(self) -> str:
        """What it is asked for by: the feedback's UUID, as far as it has one."""
        return self.key.removeprefix(FOLDER)


def put_aside(
    store: ObjectStore,
    key: str,
    data: bytes,
    error: VisionloopError,
    *,
    feedback: Feedback | None = None,
    dataset: str = "",
) -> str:
    """Copies it out of the inbox, with the reason beside it; gives the copy's key."""
    why = RefusedFeedback(
        key=key,
        reason=error.reason,
        message=str(error),
        at=datetime.now(UTC),
        dataset=dataset,
        header=None if feedback is None else feedback.header,
    )
    aside = REFUSED + key.removeprefix(FOLDER)
    store.put(aside, data)
    store.put(f"{aside}.json", why.model_dump_json(indent=1).encode())
    return aside


def page(
    store: ObjectStore, *, after: str = "", limit: int = 100
) -> tuple[list[RefusedFeedback], str]:
    """What was put aside, by name, behind `after`; and the `after` of the next page, "" at the end.

    What is taken again meanwhile is missing, so a page may come short.
    """
    shown = heapq.nsmallest(limit, (name for name in names(store) if name > after))
    found = in_parallel(lambda name: _read(store, name), shown)
    return [one for one in found if one is not None], shown[-1] if len(shown) == limit else ""


def each(store: ObjectStore, after: str = "") -> Iterator[RefusedFeedback]:
    """All that was put aside, by name, behind `after`; what is taken again meanwhile is passed
    over."""
    behind = sorted(name for name in names(store) if name > after)
    for start in range(0, len(behind), _READ_AHEAD):
        found = in_parallel(lambda name: _read(store, name), behind[start : start + _READ_AHEAD])
        yield from (one for one in found if one is not None)


def content(store: ObjectStore, name: str) -> bytes:
    """A feedback as it came. Raises NotFoundError."""
    try:
        return store.get(REFUSED + _checked(name)).data
    except NotFoundError as error:
        raise NotFoundError(f"no feedback {name} was refused, or it was taken again") from error


def remove(store: ObjectStore, name: str) -> None:
    """Throws it away. Raises NotFoundError."""
    content(store, name)
    # What lists it goes first: torn in between, nothing is left that can only fail.
    store.delete(f"{REFUSED}{name}.json")
    store.delete(REFUSED + name)


def names(store: ObjectStore) -> Iterator[str]:
    """What was put aside, by name, in no order."""
    for stat in store.list(REFUSED):
        if stat.key.endswith(".json"):
            yield stat.key.removeprefix(REFUSED).removesuffix(".json")


def _read(store: ObjectStore, name: str) -> RefusedFeedback | None:
    """None where it was taken again just now."""
    key = f"{REFUSED}{name}.json"
    try:
        return parse_record(RefusedFeedback, store.get(key).data, key)
    except NotFoundError:
        return None
    except CorruptError as error:
        return RefusedFeedback(
            key=FOLDER + name, reason=error.reason, message=str(error), at=datetime.now(UTC)
        )


def _checked(name: str) -> str:
    try:
        check_key(REFUSED + name)
    except InvalidInputError:
        raise NotFoundError(f"there is no feedback {name[:80]!a}") from None
    return name
