"""Where kill tests run: every combination of database and store, or one of them as a sample."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROUNDS = int(os.environ.get("KILL_ROUNDS", "0"))  # `make test-kill`: 25; 0: a sample
_MARKS = {"postgres": pytest.mark.postgres, "s3": pytest.mark.s3}


@dataclass(frozen=True)
class Place:
    """The URLs of an empty database and an empty store."""

    database: str
    store: str


def at(database: str, store: str) -> Any:
    """The parameter of a test that takes `place`."""
    marks = [_MARKS[name] for name in (database, store) if name in _MARKS]
    return pytest.param((database, store), marks=marks, id=f"{database}-{store}")


def places(sample: Any = None) -> list[Any]:
    """All four where there is time for them, else the sample."""
    if not ROUNDS:
        return [sample]
    return [at(database, store) for database in ("sqlite", "postgres") for store in ("file", "s3")]


def place_of(request: pytest.FixtureRequest, folder: Path, database: str, store: str) -> Place:
    """The place of these names; what is of files lies in `folder`."""
    url = f"sqlite:///{folder / 'labeling.db'}"
    if database == "postgres":
        url = request.getfixturevalue("postgres_url")
    bucket = f"file://{folder / 'store'}"
    if store == "s3":
        bucket = request.getfixturevalue("s3_url")
    return Place(url, bucket)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """The place that a test asks for by `places`."""
    return place_of(request, tmp_path, *request.param)
