"""What a million images do to labeling-ingest: the next image, a cut, and who waits for it.

    python -m bench.labeling_scale

The tables are filled directly (no image exists, thumbnails are empty): 70 % of the images are
labelled, in 20 classes, 2 % of them by apps and still without a split; 4 % stand in groups of four;
20,000 pairs of near duplicates, of which some cross splits. Beside them a dataset of 1,000 images,
whose queries must not notice. For each database, in a process of its own:

- next image: `queue.lease` and `queue.item_outs` in a transaction of their own, 1 and 8 images;
- a first cut (which gives the apps' groups to train), and one that finds nothing new: seconds, the
  process's peak memory, the longest time that it held the write lock;
- what a person waits for a label that is written meanwhile, beside what it takes alone. Cut and
  labels share one interpreter here, so this holds the wait for that as well;
- the plans of the queue's and the cut's queries: none reads a large table from end to end for the
  small dataset, and the queue's runs along its index in both.

Environment: ITEMS (1000000), DATABASES (sqlite,postgres), OUTPUT (build/bench), which gets
labeling_scale.json. A million images take 3 GB of disk in TMPDIR and some minutes.
"""

import hashlib
import json
import multiprocessing
import os
import platform
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from bench.query_plans import Plan, captured, explained
from visionloop.objectstore import open_store
from visionloop_labeling import datasets, labels, queue, snapshots
from visionloop_labeling.annotation import Draft
from visionloop_labeling.database import Database, open_database
from visionloop_labeling.fold import AuthorKind, ItemState
from visionloop_labeling.labels import Statement
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support.postgres import running_postgres

CLASSES: Final = 20
SMALL: Final = 1000  # images of the other dataset
LEAST: Final = 20_000  # images; all measures together take some 10,000 of them from the queue
# Near duplicates are of all datasets: where they are few they may be read as a whole.
LARGE_TABLES: Final = frozenset({"item", "blob", "image_group", "label_head", "label_event"})
_ENOUGH: Final = 500_000  # images; with fewer, a scan is a sound choice of the planner
_NOW: Final = "2026-01-01 00:00:00.000000"
_ROUNDS: Final = 200


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


class Locks:
    """How long the threads of this process hold write transactions."""

    def __init__(self) -> None:
        self.held: dict[int, list[float]] = {}

    @contextmanager
    def measured(self, database: Database) -> Iterator[None]:
        original = database.write

        @contextmanager
        def write() -> Iterator[Session]:
            with original() as session:
                start = time.perf_counter()
                yield session
            taken = time.perf_counter() - start
            self.held.setdefault(threading.get_ident(), []).append(taken)

        database.write = write  # type: ignore[method-assign]
        try:
            yield
        finally:
            database.write = original  # type: ignore[method-assign]


def measure(url: str, folder: str, items: int) -> dict[str, Any]:
    """All figures of one database. Runs in a process of its own: peak memory is the process's."""
    database = open_database(url)
    store = open_store(f"file://{folder}/store")
    report: dict[str, Any] = {"next_image": next_images(database)}
    alone = label_times(database, stop=None)
    report["label_alone"] = spread(alone)
    before = peak_bytes()
    report["cuts"] = [cut(database, store) for _ in range(2)]
    report["peak_bytes"] = {"before": before, "after": peak_bytes()}
    report["plans"] = plans(database, store, tiny=items < _ENOUGH)
    database.close()
    return report


def next_images(database: Database) -> dict[str, Any]:
    """Milliseconds to lease and describe 1 and 8 images, and for each dataset."""
    found = {}
    for name, rounds in (("big", _ROUNDS), ("small", 20)):
        for count in (1, 8):
            times = []
            for _ in range(rounds):
                start = time.perf_counter()
                lease(database, name, count)
                times.append(time.perf_counter() - start)
            found[f"{name}, {count} at a time"] = spread(times)
    return found


def lease(database: Database, name: str, count: int) -> None:
    """What the page asks for."""
    with database.write() as session:
        dataset = datasets.find(session, name)
        now = datetime.now(UTC)
        items = queue.lease(session, dataset, "bench", count, ItemState.OPEN, now)
        if len(queue.item_outs(session, dataset, items)) != count:
            raise SystemExit(f"{name} has no {count} images left to label")


def label_times(database: Database, stop: threading.Event | None) -> list[float]:
    """Seconds of each label that a person gives, one after the other."""
    with database.read() as session:
        query = select(Item.sha256).where(Item.dataset_id == 1, Item.state == "open")
        digests = session.scalars(query.limit(5000)).all()
    times = []
    for number, digest in enumerate(digests):
        if stop.is_set() if stop is not None else number == _ROUNDS:
            break
        start = time.perf_counter()
        said = Statement(AuthorKind.HUMAN, "bench", annotation=Draft(classes=("class-1",)))
        labels.submit(database, "big", digest, said)
        times.append(time.perf_counter() - start)
        if stop is not None:
            time.sleep(0.02)  # a very quick person
    return times


def cut(database: Database, store: Any) -> dict[str, Any]:
    """One cut, while somebody labels."""
    locks = Locks()
    stop = threading.Event()
    meanwhile: list[float] = []
    labeller = threading.Thread(
        target=lambda: meanwhile.extend(label_times(database, stop)), daemon=True
    )
    with locks.measured(database):
        labeller.start()
        start = time.perf_counter()
        done = snapshots.cut(database, store, "big")
        seconds = time.perf_counter() - start
        stop.set()
        labeller.join()
    held = locks.held.get(threading.get_ident(), [])
    return {
        "seconds": round(seconds, 2),
        "created": done.created,
        "images": sum(done.manifest.split_images.values()),
        "left_out": done.left_out,
        "write_locks": len(held),
        "longest_write_lock_ms": round(max(held, default=0.0) * 1000, 1),
        "write_lock_ms_in_all": round(sum(held) * 1000, 1),
        "labels_meanwhile": spread(meanwhile),
    }


def plans(database: Database, store: Any, *, tiny: bool) -> dict[str, Any]:
    """The plans, checked."""
    report: dict[str, Any] = {}
    for name in ("big", "small"):
        with captured() as queries:
            lease(database, name, 1)
        found = explained(database, queries)
        [leasing] = [plan for plan in found if "leased_until" in plan.sql and "LIMIT" in plan.sql]
        if "ix_item_queue" not in leasing.text:
            raise SystemExit(f"the queue of {name} does not run along its index:\n{leasing.text}")
        report[f"queue of {name}"] = shown(leasing)
    with captured() as queries:
        snapshots.cut(database, store, "small")
    found = explained(database, queries, tiny=tiny)
    for plan in found:
        if plan.scanned & LARGE_TABLES:
            raise SystemExit(f"a cut of a small dataset reads {plan.scanned}:\n{plan.text}")
    report["cut of small"] = [shown(plan) for plan in found]
    return report


def shown(plan: Plan) -> dict[str, Any]:
    return {"sql": " ".join(plan.sql.split())[:300], "plan": plan.text.splitlines()}


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """Milliseconds."""
    if len(seconds) < 2:
        return {"count": len(seconds)}
    return {
        "count": len(seconds),
        "p50_ms": round(median(seconds) * 1000, 2),
        "p99_ms": round(quantiles(seconds, n=100)[98] * 1000, 2),
        "longest_ms": round(max(seconds) * 1000, 2),
    }


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def place(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'labeling.db'}"
        return
    # As it comes, but for memory as a small server has it; and it syncs to disk, as SQLite does.
    with running_postgres(shared_buffers="512MB", fsync="on", full_page_writes="on") as server:
        yield server.url(server.create())


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """In a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def main() -> None:
    """Runs all and writes the report."""
    items = int(os.environ.get("ITEMS", "1000000"))
    if items < LEAST:
        raise SystemExit(f"ITEMS is {items}; at least {LEAST} are needed to measure with")
    output = Path(os.environ.get("OUTPUT", "build/bench")) / "labeling_scale.json"
    report: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "items": items,
        "databases": {},
    }
    for kind in os.environ.get("DATABASES", "sqlite,postgres").split(","):
        with tempfile.TemporaryDirectory() as folder, place(kind, Path(folder)) as url:
            start = time.perf_counter()
            apart(fill, url, items)
            filled = round(time.perf_counter() - start, 1)
            print(f"{kind}: filled in {filled} s", flush=True)
            found = {"fill_seconds": filled, **apart(measure, url, folder, items)}
        report["databases"][kind] = found
        print(json.dumps({name: found[name] for name in found if name != "plans"}, indent=2))
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {output}")


if __name__ == "__main__":
    main()
