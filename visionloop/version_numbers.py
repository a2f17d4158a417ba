"""The version numbers of a model: who may use which, and which of them are published.

    models/<model>/versions/<n>/claim.json     put-if-absent by one run
    models/<model>/versions/<n>/bundle.json    written last: the version is there

Numbers only grow and are never used twice; one that was claimed and never published stays unused.
Looking at a number costs one question to the store, however many files its version has.
"""

import re
from collections.abc import Collection
from datetime import UTC, datetime

from pydantic import Field

from visionloop.bundle import MODEL_NAME_PATTERN
from visionloop.bundle_files import CLAIM, MARKER
from visionloop.errors import ConflictError, InvalidInputError, NotFoundError
from visionloop.objectstore import ObjectStore
from visionloop.objectstore.transfers import in_parallel
from visionloop.record import Record, parse_record, record_bytes

RUN_ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}"
VERSION_PATTERN = r"[1-9][0-9]{0,8}"


class Claim(Record):
    """The content of claim.json: which run a version number belongs to."""

    run_id: str = Field(pattern=f"^{RUN_ID_PATTERN}$")
    at: datetime


class VersionNumbers:
    """The numbers of one model. Raises InvalidInputError for a name that is none."""

    def __init__(self, store: ObjectStore, model: str) -> None:
        self._store = store
        self._folder = f"models/{checked_name(model)}/versions/"

    def folder(self, number: int) -> str:
        """The start of the keys of a version's files."""
        if number < 1:
            raise InvalidInputError(f"version {number} must be 1 or more", field="version")
        return f"{self._folder}{number}/"

    def all(self) -> list[int]:
        """All numbers that were ever claimed, ascending."""
        folders = self._store.list_folders(self._folder)
        return sorted(int(name) for name in folders if re.fullmatch(VERSION_PATTERN, name))

    def published(self, known: Collection[int] = ()) -> list[int]:
        """Those of versions that are there, ascending. `known` ones were there before, and are not
        looked at again: nothing takes a version back."""
        numbers = self.all()
        unknown = [number for number in numbers if number not in known]
        found = dict(zip(unknown, in_parallel(self.is_published, unknown), strict=True))
        return [number for number in numbers if found.get(number, True)]

    def any_published(self) -> bool:
        """Whether there is a version, looking from the newest number on."""
        return any(self.is_published(number) for number in reversed(self.all()))

    def is_published(self, number: int) -> bool:
        """Whether the version's marker is there."""
        try:
            self._store.stat(self.folder(number) + MARKER)
        except NotFoundError:
            return False
        return True

    def claim(self, run_id: str) -> int:
        """The number that the run has, or else the next free one, which it has from now on."""
        if not re.fullmatch(RUN_ID_PATTERN, run_id):
            raise InvalidInputError(
                f"run id {run_id!r} must be 1 to 128 letters, digits or ._:-", field="run_id"
            )
        taken = self.all()
        for number, owner in zip(taken, in_parallel(self.owner, taken), strict=True):
            if owner == run_id:
                return number
        number = max(taken, default=0) + 1
        while not self.claimed(number, run_id):
            number += 1  # another run was faster
        return number

    def claimed(self, number: int, run_id: str) -> bool:
        """Claims this very number for the run; False when it is another run's."""
        claim = Claim(run_id=run_id, at=datetime.now(UTC))
        try:
            self._store.put_if_absent(self.folder(number) + CLAIM, record_bytes(claim))
        except ConflictError:
            return self.owner(number) == run_id
        return True

    def owner(self, number: int) -> str | None:
        """The run that claimed the number; None when nobody did."""
        key = self.folder(number) + CLAIM
        try:
            return parse_record(Claim, self._store.get(key).data, key).run_id
        except NotFoundError:
            return None


def checked_name(model: str) -> str:
    """The name of a model. Raises InvalidInputError that says what a name is."""
    if not re.fullmatch(MODEL_NAME_PATTERN, model):
        raise InvalidInputError(
            f"model name {model!r} must be 1 to 63 of a-z, 0-9, - and _, with a letter or digit at "
            "both ends",
            field="model",
        )
    return model
