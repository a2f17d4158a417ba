"""What a labeling service's database and store hold, read from outside the program, and whether
every half is there with its other half."""

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, create_engine, make_url, text

from visionloop.objectstore import ObjectStore
from visionloop.snapshot import blob_key


@dataclass(frozen=True)
class Facts:
    """One moment of a service with one dataset."""

    blobs: dict[str, str]  # digest -> state
    items: list[str]  # digests in the order of their positions
    positions: list[int]
    sequences: list[int]  # of label events
    event_ids: list[str]
    heads: int
    split_counts: int
    dataset: tuple[int, ...]  # last_position, last_sequence, labelled
    rows: dict[tuple[str, int], tuple[str, str]]  # (batch, ordinal) -> (outcome, digest)
    quarantined: set[str]
    groups: dict[int, tuple[int, int]]  # id -> (the size it says, the items it has)
    problems: list[Any]
    objects: set[str]  # keys below blobs/
    put_aside: set[str]  # keys below quarantine/
    previews: set[str]


def facts(url: str, store: ObjectStore) -> Facts:
    """Reads the database first: what it names is in the store by then, what it does not may come.

    One snapshot of the database, so that a commit that a killed service's server still finishes is
    seen whole or not at all.
    """
    engine = engine_of(url)
    try:
        with engine.connect() as connection, connection.begin():

            def ask(query: str) -> list[Any]:
                return [tuple(row) for row in connection.execute(text(query))]

            def column(query: str) -> list[Any]:
                return [row[0] for row in ask(query)]

            rows = ask(
                "SELECT b.name, r.ordinal, r.outcome, r.sha256 FROM ingest_row r "
                "JOIN ingest_batch b ON b.id = r.batch_id"
            )
            sized = ask(
                "SELECT g.id, g.size, (SELECT count(*) FROM item i WHERE i.group_id = g.id) "
                "FROM image_group g"
            )
            found = {
                "blobs": dict(ask("SELECT sha256, state FROM blob")),
                "items": column("SELECT sha256 FROM item ORDER BY position"),
                "positions": column("SELECT position FROM item ORDER BY position"),
                "sequences": column("SELECT sequence FROM label_event ORDER BY sequence"),
                "event_ids": column("SELECT event_id FROM label_event"),
                "heads": column("SELECT count(*) FROM label_head")[0],
                "split_counts": int(column("SELECT sum(images) FROM split_count")[0] or 0),
                "dataset": (
                    *ask("SELECT last_position, last_sequence, labelled FROM dataset"),
                    (0, 0, 0),
                )[0],
                "rows": {(batch, n): (outcome, sha) for batch, n, outcome, sha in rows},
                "quarantined": set(column("SELECT sha256 FROM quarantined")),
                "groups": {key: (size, items) for key, size, items in sized},
                "problems": _problems(ask) if engine.dialect.name == "sqlite" else [],
            }
    finally:
        engine.dispose()
    return Facts(
        **found,
        objects={stat.key for stat in store.list("blobs/")},
        put_aside={stat.key for stat in store.list("quarantine/")},
        previews={stat.key for stat in store.list("derived/")},
    )


def engine_of(url: str) -> Engine:
    """For reading beside the program: one state of the database to a transaction."""
    parsed = make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        return create_engine(parsed, isolation_level="REPEATABLE READ")
    return create_engine(parsed)


def _problems(ask: Any) -> list[Any]:
    integrity = [row for row in ask("PRAGMA integrity_check") if row != ("ok",)]
    return ask("PRAGMA foreign_key_check") + integrity


def check_whole(found: Facts) -> None:
    """Nothing half-visible. Every answered row that is neither refused nor put aside has a label.

    Objects that no row names yet are allowed: they are what a kill may leave.
    """
    assert set(found.blobs.values()) <= {"stored"}
    assert {blob_key(sha256) for sha256 in found.blobs} <= found.objects
    assert set(found.items) <= set(found.blobs)
    assert len(found.items) == len(set(found.items))
    assert found.positions == list(range(1, len(found.items) + 1))
    assert found.sequences == list(range(1, len(found.sequences) + 1))
    assert len(found.event_ids) == len(set(found.event_ids))
    labelled = [key for key, (outcome, _) in found.rows.items() if outcome in _IN]
    assert len(found.sequences) == len(labelled)
    assert {sha for outcome, sha in found.rows.values() if outcome in _IN} == set(found.items)
    assert found.dataset == (len(found.items), len(found.sequences), len(found.items))
    assert found.heads == len(found.items) == found.split_counts
    aside = {sha for outcome, sha in found.rows.values() if outcome == "quarantined"}
    assert aside == found.quarantined
    assert {_quarantine_key(sha256) for sha256 in aside} <= found.put_aside
    assert all(size == items > 0 for size, items in found.groups.values())
    assert found.problems == []


_IN = ("accepted", "duplicate")


def check_bytes(found: Facts, store: ObjectStore) -> None:
    """Every object under a digest has exactly those bytes, every preview is a whole WebP."""
    for key in found.objects | found.put_aside:
        assert hashlib.sha256(store.get(key).data).hexdigest() == key.rpartition("/")[2]
    for key in found.previews:
        data = store.get(key).data
        assert data[8:12] == b"WEBP"
        assert len(data) == 8 + int.from_bytes(data[4:8], "little")


def _quarantine_key(sha256: str) -> str:
    return f"quarantine/sha256/{sha256[:2]}/{sha256[2:4]}/{sha256}"
