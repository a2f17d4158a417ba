"""Labeling-ingest's tables filled directly: a large dataset and a small one beside it.

No image exists and thumbnails are empty; every row is what ingest and people would have written.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from visionloop_labeling import datasets
from visionloop_labeling.database import open_database
from visionloop_labeling.schema import (
    Blob,
    Dataset,
    ImageGroup,
    Item,
    LabelClass,
    LabelEvent,
    LabelHead,
    NearDuplicate,
    Table,
)

CLASSES: Final = 20
SMALL: Final = 1000  # images of the dataset beside the large one
_NOW: Final = "2026-01-01 00:00:00.000000"


class Rows:
    """The rows of one synthetic dataset; ids begin above `first`."""

    def __init__(self, dataset: int, images: int, first: int, seed: int) -> None:
        self.dataset = dataset
        self.images = images
        self._first = first
        self._random = random.Random(seed)  # noqa: S311 - not for secrets

    def _ids(self) -> range:
        return range(self._first + 1, self._first + self.images + 1)

    def _group_of(self, image: int) -> int:
        """Every hundredth four images share the group of the first."""
        return image - image % 4 if image % 100 < 4 and image - image % 4 > self._first else image

    def labelled(self, image: int) -> bool:
        return image % 10 < 7

    def by_app(self, image: int) -> bool:
        return image % 100 in (51, 52)  # alone in their groups

    def blobs(self) -> Iterator[dict[str, Any]]:
        for image in self._ids():
            digest = hashlib.sha256(b"%d" % image).hexdigest()
            yield {
                "sha256": digest, "state": "stored", "size": 200_000, "media_type": "image/jpeg",
                "width": 1600, "height": 1200, "pixel_sha256": digest, "phash": b"",
                "thumbnail": b"", "created": _NOW,
            }  # fmt: skip

    def groups(self) -> Iterator[dict[str, Any]]:
        sizes: dict[int, int] = {}
        for image in self._ids():
            group = self._group_of(image)
            sizes[group] = sizes.get(group, 0) + 1
        for group, size in sizes.items():
            given = self.labelled(group) and not self.by_app(group)
            split = self._random.choices(("train", "val", "test"), (7, 1, 2))[0] if given else None
            yield {
                "id": group, "dataset_id": self.dataset, "key": f"g-{group:024d}", "split": split,
                "size": size,
            }  # fmt: skip

    def items(self) -> Iterator[dict[str, Any]]:
        for place, image in enumerate(self._ids(), start=1):
            state = "open"
            if self.labelled(image) and not self.by_app(image):
                state = "review" if image % 100 == 60 else "labelled"
            yield {
                "id": image, "dataset_id": self.dataset, "position": place,
                "sha256": hashlib.sha256(b"%d" % image).hexdigest(),
                "group_id": self._group_of(image), "attributes": '{"line": "3"}',
                "source": f"camera-{image % 7}/{image}.jpg", "created": _NOW, "state": state,
                "priority": self._random.random(), "why": '{"reason": "uncertain"}',
            }  # fmt: skip

    def events(self) -> Iterator[dict[str, Any]]:
        for image, sequence in self._sequences():
            yield {
                "id": image, "event_id": f"{image:036d}", "dataset_id": self.dataset,
                "sequence": sequence, "item_id": image, "kind": "label", **self._said(image),
                "author": f"person-{image % 5}", "applied": True, "at": _NOW,
            }  # fmt: skip

    def heads(self) -> Iterator[dict[str, Any]]:
        for image, sequence in self._sequences():
            yield {
                "item_id": image, "event_row_id": image, "sequence": sequence,
                **self._said(image), "disputed": image % 100 == 60,
            }  # fmt: skip

    def pairs(self) -> Iterator[dict[str, Any]]:
        for number in range(self.images // 50):
            later = self._first + 2 + number * 50 % (self.images - 1)
            yield {
                "later_id": later, "earlier_id": later - 1, "distance": 3, "correlation": 0.99,
                "orientation": 0,
            }  # fmt: skip

    def _sequences(self) -> Iterator[tuple[int, int]]:
        sequence = 0
        for image in self._ids():
            if self.labelled(image):
                sequence += 1
                yield image, sequence

    def _said(self, image: int) -> dict[str, Any]:
        number = image * 7919 % CLASSES
        return {
            "annotation": json.dumps({"classes": [f"class-{number}"]}),
            "class_id": (self.dataset - 1) * CLASSES + number + 1,
            "author_kind": "app" if self.by_app(image) else "human",
        }


def fill(url: str, items: int) -> None:
    """Makes the tables and fills them."""
    database = open_database(url)
    for number, (name, images) in enumerate((("big", items), ("small", SMALL)), start=1):
        rows = Rows(number, images, 0 if number == 1 else items, seed=number)
        labelled = sum(image % 10 < 7 for image in range(images))
        dataset = {
            "id": number, "name": name, "created": _NOW, "last_position": images,
            "settings": datasets.DatasetSettings().model_dump_json(),
            "last_sequence": images, "labelled": labelled,
        }  # fmt: skip
        classes = (
            {
                "id": (number - 1) * CLASSES + n + 1, "dataset_id": number, "key": f"class-{n}",
                "name": f"class-{n}", "place": n,
            }
            for n in range(CLASSES)
        )  # fmt: skip
        for table, values in (
            (Dataset, iter([dataset])), (LabelClass, classes), (Blob, rows.blobs()),
            (ImageGroup, rows.groups()), (Item, rows.items()), (LabelEvent, rows.events()),
            (LabelHead, rows.heads()), (NearDuplicate, rows.pairs()),
        ):  # fmt: skip
            # A transaction for each: SQLite's log of all together would be read slower and slower.
            with database.write() as session:
                _bulk(session, table, values)
    with database.write() as session:
        _end_of_fill(session)
        session.execute(text("ANALYZE"))
    database.close()


def _bulk(session: Session, table: type[Table], rows: Iterator[Mapping[str, Any]]) -> None:
    """Many rows the quick way of each database; what a row leaves out has its default."""
    columns = list(table.__table__.columns)
    names = [column.name for column in columns]
    defaults = {column.name: _default(column) for column in columns}
    cursor = session.connection().connection.cursor()
    values = ([{**defaults, **row}[name] for name in names] for row in rows)
    listed = ", ".join(f'"{name}"' for name in names)
    if session.get_bind().dialect.name == "sqlite":
        cursor.execute("PRAGMA cache_size = -1000000")  # the keys of images come in no order
        marks = ", ".join("?" * len(names))
        cursor.executemany(
            f"INSERT INTO {table.__tablename__} ({listed}) VALUES ({marks})",  # noqa: S608
            values,
        )
        return
    with cursor.copy(f"COPY {table.__tablename__} ({listed}) FROM STDIN") as copy:
        for row in values:
            copy.write_row(row)


def _default(column: Any) -> Any:
    if column.default is None:
        return None
    return "{}" if column.default.is_callable else column.default.arg


def _end_of_fill(session: Session) -> None:
    if session.get_bind().dialect.name == "postgresql":
        for table in (Dataset, LabelClass, ImageGroup, Item, LabelEvent):
            name = table.__tablename__
            session.execute(
                text(
                    f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), "  # noqa: S608
                    f"(SELECT max(id) FROM {name}))"
                )
            )
