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

import json
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from bench.labeling_tables import fill
from bench.query_plans import Plan, captured, explained
from visionloop.objectstore import open_store
from visionloop_labeling import datasets, labels, queue, snapshots
from visionloop_labeling.annotation import Draft
from visionloop_labeling.database import Database, open_database
from visionloop_labeling.fold import AuthorKind, ItemState
from visionloop_labeling.labels import Statement
from visionloop_labeling.schema import (
    Item,
)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support.postgres import running_postgres

LEAST: Final = 20_000  # images; all measures together take some 10,000 of them from the queue
# Near duplicates are of all datasets: where they are few they may be read as a whole.
LARGE_TABLES: Final = frozenset({"item", "blob", "image_group", "label_head", "label_event"})
_ENOUGH: Final = 500_000  # images; with fewer, a scan is a sound choice of the planner
_ROUNDS: Final = 200


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
