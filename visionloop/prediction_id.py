"""The id of one prediction, which any program of the suite reads without a lookup.

    solar-cells:7:1795420800123:9f86d081884c7d65:4be1c07a
    model      :v:unix ms      :image's sha256  :random

Feedback names the prediction by it, so a correction finds its model version and its image even when
the service that made it is gone. It is not a secret and proves nothing: whoever reads one must
treat it as input from outside. 16 of the 64 hex digits of the digest tell apart the images of one
dataset (a chance of 1 in 10^7 that any two of a million collide), not those of an attacker.
"""

import re
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from visionloop.errors import InvalidInputError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Milliseconds have at most 15 digits (the year 9999), versions at most 9.
_PATTERN = re.compile(
    r"(?P<model>[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?)"
    r":(?P<version>[1-9][0-9]{0,8})"
    r":(?P<milliseconds>0|[1-9][0-9]{0,14})"
    r":(?P<digest>[0-9a-f]{16})"
    r":(?P<nonce>[0-9a-f]{8})"
)
_LAST_MILLISECOND = 253_402_300_799_999


@dataclass(frozen=True, slots=True)
class PredictionId:
    """`digest` is the first 16 hex digits of the image's sha256, `nonce` 8 random ones.

    Raises InvalidInputError when a part is not of the form that the text allows.
    """

    model: str
    version: int
    milliseconds: int  # since 1970, UTC
    digest: str
    nonce: str

    def __post_init__(self) -> None:
        if not _PATTERN.fullmatch(str(self)) or self.milliseconds > _LAST_MILLISECOND:
            raise _invalid(str(self))

    @classmethod
    def new(cls, model: str, version: int, sha256: str) -> Self:
        """The id of a prediction made now of the image with this digest (64 hex digits)."""
        now = time.time_ns() // 1_000_000
        return cls(model, version, now, sha256[:16], secrets.token_hex(4))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads an id from outside. Raises InvalidInputError."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise _invalid(text)
        return cls(
            match["model"],
            int(match["version"]),
            int(match["milliseconds"]),
            match["digest"],
            match["nonce"],
        )

    @property
    def made(self) -> datetime:
        """When the prediction was made, UTC, to the millisecond."""
        return _EPOCH + timedelta(milliseconds=self.milliseconds)

    def __str__(self) -> str:
        return f"{self.model}:{self.version}:{self.milliseconds}:{self.digest}:{self.nonce}"


def _invalid(text: str) -> InvalidInputError:
    return InvalidInputError(
        f"prediction_id is {text[:160]!r}; it must be model:version:milliseconds:digest:nonce, "
        "exactly as a recognition answered it",
        field="prediction_id",
    )
