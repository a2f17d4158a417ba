"""What an importer hands on: numbered steps, each of which gives one row or says why there is none.

A step is cheap to make and may be dear to take (reading a picture out of an archive, fetching a
URL), so several are taken at a time. Its ordinal is its idempotency key: the same source gives the
same ordinals, however often and from wherever it is read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from pydantic import ValidationError
from sqlalchemy.orm import Session

from visionloop.errors import InvalidInputError
from visionloop_labeling.annotation import Draft
from visionloop_labeling.receipts import Receipt


class SourceError(InvalidInputError):
    """Something in an imported source is not taken; `reason` is a stable word for it."""

    def __init__(self, message: str, *, reason: str, field: str = "file") -> None:
        super().__init__(message, field=field)
        self._reason = reason

    @property
    def reason(self) -> str:
        return self._reason


@dataclass(frozen=True, slots=True)
class Entry:
    """One row as the source has it. Without bytes, `sha256` names an image that is there.

    `remark` tells what was changed on the way (a turned box); it ends up in the receipt.
    """

    source: str
    image: bytes = b""
    sha256: str = ""
    label: str | None = None
    annotation: Draft | None = None
    group: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    remark: str = ""
    refusal: InvalidInputError | None = None


# An ordinal, the source for people, and what gives the row. It raises InvalidInputError, or
# pydantic's ValidationError, where there is none to give.
Step: TypeAlias = tuple[int, str, Callable[[], Entry]]


def take(step: Step) -> Entry:
    """The row of a step, or its refusal as a row."""
    _, source, given = step
    try:
        return given()
    except InvalidInputError as refusal:
        return Entry(source, refusal=refusal)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        words = f"the annotation's {field or 'content'}: {first['msg']}"
        return Entry(source, refusal=SourceError(words, reason="invalid_row", field=field[:80]))


class Importer(Protocol):
    """An opened source."""

    @property
    def rows(self) -> int:
        """How many rows there are."""
        ...

    @property
    def remark(self) -> str:
        """What people should know about the whole source: files passed over, folders ignored."""
        ...

    def steps(self, start: int) -> Iterator[Step]:
        """The steps from ordinal `start` on, in the order of ordinals."""
        ...

    def settle(self, session: Session, receipts: Sequence[Receipt]) -> None:
        """Called in the transaction that moves the checkpoint past these receipts."""
        ...

    def close(self) -> None:
        """Lets go of files."""
        ...
