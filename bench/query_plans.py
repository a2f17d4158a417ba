"""How a database would run the queries that some code sends: captured as they go, explained after.

    with captured() as queries:
        ...
    for plan in explained(database, queries):
        print(plan.sql, plan.text, plan.scanned)

`scanned` names the tables that are read from end to end. A database of few rows would read them so
whatever indexes there are, so with `tiny` Postgres is told to avoid scans and sorts where it can:
what is still scanned or sorted then has no index that serves.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, event, text

from visionloop_labeling.database import Database


@dataclass(frozen=True, slots=True)
class Query:
    """A statement with its parameters, as the driver gets them."""

    sql: str
    parameters: Any


@dataclass(frozen=True, slots=True)
class Plan:
    """What the database would do."""

    sql: str
    text: str
    scanned: frozenset[str]


@contextmanager
def captured() -> Iterator[list[Query]]:
    """The SELECTs that are sent while the block runs, each text once."""
    found: dict[str, Query] = {}
    queries: list[Query] = []

    def note(_connection: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        if sql.startswith("SELECT") and sql not in found:
            found[sql] = Query(sql, parameters)
            queries.append(found[sql])

    # Reads and writes go through engines of their own, so all are listened to.
    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield queries
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def explained(database: Database, queries: Sequence[Query], *, tiny: bool = False) -> list[Plan]:
    """The plan of each query. With `tiny` Postgres avoids what an index can spare it."""
    with database.read() as session:
        connection = session.connection()
        sqlite = connection.dialect.name == "sqlite"
        if not sqlite and tiny:
            session.execute(text("SET LOCAL enable_seqscan = off"))
            session.execute(text("SET LOCAL enable_sort = off"))
        cursor = connection.connection.cursor()
        plans = []
        for query in queries:
            locking = re.sub(r"\s+FOR UPDATE.*$", "", query.sql, flags=re.DOTALL)
            command = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
            cursor.execute(f"{command} {query.sql if sqlite else locking}", query.parameters)
            lines = [str(row[-1]) for row in cursor.fetchall()]
            plans.append(Plan(query.sql, "\n".join(lines), _scanned(lines, query.sql, sqlite)))
        session.rollback()
        return plans


def _scanned(lines: Sequence[str], sql: str, sqlite: bool) -> frozenset[str]:
    if not sqlite:
        found = (re.search(r"Seq Scan on (\w+)", line) for line in lines)
        return frozenset(match[1] for match in found if match)
    aliases = {alias: table for table, alias in re.findall(r"(\w+) AS (\w+)", sql)}
    # SQLite says SCAN for a walk along an index as well, and then which one.
    found = (re.match(r"SCAN (\w+)(?! USING)\s*$", line.strip()) for line in lines)
    return frozenset(aliases.get(match[1], match[1]) for match in found if match)
