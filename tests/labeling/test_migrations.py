"""A database of the version before is brought up to date with all that is in it, on each kind."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, MetaData, select

from visionloop_labeling import datasets, labels
from visionloop_labeling.annotation import Annotation
from visionloop_labeling.database import Database, migrate, open_database
from visionloop_labeling.engines import connect
from visionloop_labeling.fold import fold
from visionloop_labeling.labels import AuthorKind, Statement
from visionloop_labeling.schema import Item, LabelClass, LabelEvent, LabelHead, Table

THEN = datetime(2025, 5, 1, 12, tzinfo=UTC)
CAT, DOG = 1, 2
HUMAN, IMPORT, APP = "human", "import", "app"
# The events of each image: (author kind, class, whether it became the label). By an event from a
# row that disagrees, and by one that may not replace the label, the label is disputed.
IMAGES: list[list[tuple[str, int, bool]]] = [
    [],
    [(HUMAN, CAT, True)],
    [(IMPORT, DOG, True), (IMPORT, CAT, True)],
    [(IMPORT, CAT, True), (HUMAN, DOG, True)],
    [(APP, CAT, True)],
    [(HUMAN, CAT, True), (APP, DOG, False)],
]
DISPUTED = {3, 6}
STATES = ["open", "labelled", "review", "labelled", "open", "review"]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'old.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def upgraded(empty_url: str) -> Iterator[Database]:
    """One that was of revision 0001 until it was opened."""
    engine, lock = connect(empty_url)
    migrate(engine, "0001")
    with engine.begin() as connection:
        _fill(connection, _inserter(engine))
    engine.dispose()
    if lock is not None:
        lock.close()
    opened = open_database(empty_url)
    yield opened
    opened.close()


def test_the_tables_are_those_of_a_new_database(upgraded: Database) -> None:
    with upgraded.read() as session:
        context = MigrationContext.configure(session.connection())
        assert compare_metadata(context, Table.metadata) == []


def test_labels_become_annotations_and_images_find_their_place(upgraded: Database) -> None:
    with upgraded.read() as session:
        items = session.scalars(select(Item).order_by(Item.position)).all()
        assert [item.state for item in items] == STATES
        assert [item.why for item in items] == [
            {"reason": "disputed"} if item.id in DISPUTED else {} for item in items
        ]
        heads = {head.item_id: head.annotation for head in session.scalars(select(LabelHead))}
        assert heads == {
            2: {"classes": ["cat"]},
            3: {"classes": ["cat"]},
            4: {"classes": ["dog"]},
            5: {"classes": ["cat"]},
            6: {"classes": ["cat"]},
        }
        dataset = datasets.find(session, "old")
        counted = (dataset.items_labelled, dataset.items_in_review, dataset.items_skipped)
        assert counted == (2, 2, 0)
        assert dataset.preferences == {}
        classes = session.scalars(select(LabelClass).order_by(LabelClass.place)).all()
        assert [(one.key, one.state) for one in classes] == [("cat", "active"), ("dog", "active")]


def test_folding_the_old_events_anew_gives_the_labels_there_are(upgraded: Database) -> None:
    with upgraded.read() as session:
        for item in session.scalars(select(Item)):
            query = select(LabelEvent).where(LabelEvent.item_id == item.id)
            standing = fold(session.scalars(query.order_by(LabelEvent.sequence)).all())
            head = session.get(LabelHead, item.id)
            assert standing.sequence == (0 if head is None else head.sequence)
            assert standing.disputed == (head is not None and head.disputed)
            assert standing.state(outdated=False) == item.state


def test_work_goes_on_where_it_was(upgraded: Database) -> None:
    said = Statement(AuthorKind.HUMAN, "ann", annotation=Annotation(classes=("dog",)))
    recorded = labels.submit(upgraded, "old", "6" * 64, said)
    assert (recorded.sequence, recorded.applied, recorded.state) == (9, True, "labelled")


def _inserter(engine: Engine) -> Callable[..., None]:
    tables = MetaData()
    tables.reflect(engine)

    def insert(connection: Connection, table: str, *rows: dict[str, Any]) -> None:
        connection.execute(tables.tables[table].insert(), list(rows))

    return insert


def _fill(connection: Connection, insert: Callable[..., None]) -> None:
    """The database gives the ids, counting from 1: so an event's is its sequence."""
    insert(
        connection,
        "dataset",
        {
            "name": "old", "created": THEN, "last_sequence": 8, "last_position": 6,
            "labelled": 5,
            "settings": {"ratios": {"train": 0.8, "val": 0.1, "test": 0.1}},
        },
    )  # fmt: skip
    names = ("cat", "dog")
    insert(
        connection,
        "label_class",
        *({"dataset_id": 1, "key": name, "name": name} for name in names),
    )
    sequence = 0
    for item, events in enumerate(IMAGES, start=1):
        _add_image(connection, insert, item)
        head = None
        for kind, class_id, applied in events:
            sequence += 1
            event = {
                "event_id": f"00000000-0000-0000-0000-{sequence:012}",
                "dataset_id": 1, "sequence": sequence, "item_id": item, "class_id": class_id,
                "author_kind": kind, "author": "", "base_sequence": None, "applied": applied,
                "at": THEN,
            }  # fmt: skip
            insert(connection, "label_event", event)
            head = event if applied else head
        if head is not None:
            kept = {name: head[name] for name in ("item_id", "sequence", "class_id", "author_kind")}
            row = {**kept, "event_row_id": head["sequence"], "disputed": item in DISPUTED}
            insert(connection, "label_head", row)


def _add_image(connection: Connection, insert: Callable[..., None], item: int) -> None:
    insert(
        connection,
        "blob",
        {
            "sha256": str(item) * 64, "state": "stored", "size": 9, "media_type": "image/png",
            "width": 40, "height": 30, "pixel_sha256": str(item) * 64, "phash": b"",
            "thumbnail": b"", "foreign": False, "created": THEN,
        },
    )  # fmt: skip
    insert(
        connection,
        "image_group",
        {
            "dataset_id": 1, "key": f"g-{item}", "split": "train" if item > 1 else None,
            "split_sequence": 1 if item > 1 else None, "size": 1,
        },
    )  # fmt: skip
    insert(
        connection,
        "item",
        {
            "dataset_id": 1, "position": item, "sha256": str(item) * 64,
            "group_id": item, "declared_group": "", "attributes": {}, "source": "", "created": THEN,
        },
    )  # fmt: skip
