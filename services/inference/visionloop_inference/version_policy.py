"""Which versions are loaded beside those that the aliases mean.

    aliases         none
    latest:N        the N newest
    all             every published one
    specific:1,3    these, where they are published

Requests reach them by their number. Each loaded version holds its memory, so `all` is for small
models and short histories.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from visionloop.errors import ConfigurationError

_VERSION = "[1-9][0-9]{0,8}"
_FORM = re.compile(rf"aliases|all|latest:([1-9][0-9]{{0,3}})|specific:({_VERSION}(?:,{_VERSION})*)")


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """`latest` newest versions (None: all) or the `specific` ones."""

    latest: int | None = 0
    specific: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ConfigurationError."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ConfigurationError(
                f"--version-policy is {text}; it must be aliases, all, latest:N or specific:N,N, "
                "as latest:2 or specific:3,7",
                field="version_policy",
            )
        if match[2]:
            return cls(specific=frozenset(map(int, match[2].split(","))))
        return cls(None if text == "all" else int(match[1] or 0))

    @property
    def needs_versions(self) -> bool:
        """Whether the published versions must be known."""
        return self.latest is None or self.latest > 0 or bool(self.specific)

    def wanted(self, published: Sequence[int]) -> list[int]:
        """Of the published versions (ascending), those to load whatever the aliases say."""
        if self.specific:
            return [number for number in published if number in self.specific]
        if self.latest is None:
            return list(published)
        return list(published[-self.latest :]) if self.latest else []
