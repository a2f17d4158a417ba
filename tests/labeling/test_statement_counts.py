"""How many statements a page, a list or a batch sends does not grow with what it shows.

Two datasets with the same kinds of things in them, of which one has four times as many: images,
classes, events, snapshots, imports. What is asked of the one is asked of the other, and counted.
"""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, event, select
from support.labeling_site import Site, open_site
from support.pictures import noise

from visionloop_labeling import datasets, snapshots
from visionloop_labeling.annotation import Draft
from visionloop_labeling.receipts import ImageRow, Way
from visionloop_labeling.schema import Item, LabelClass, Prediction
from visionloop_labeling.taxonomy import Taxonomy

SIZES = {"few": 4, "many": 16}
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Statements that are sent while the block runs, by their beginnings."""
    sent: Counter[str] = Counter()

    def note(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        sent[" ".join(sql.split())[:120]] += 1

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(Engine, "before_cursor_execute", note)


@pytest.fixture
async def site(database_url: str, tmp_path: Path, anyio_backend: str) -> AsyncIterator[Site]:
    async with open_site(tmp_path, database_url=database_url, with_accounts=False) as made:
        for name, size in SIZES.items():
            await asyncio.to_thread(fill, made, name, size)
        yield made


def soft(number: int) -> Draft:
    return Draft(probabilities={f"class-{number}": 0.75, f"unlikely-{number}": 0.25})


def fill(site: Site, name: str, size: int) -> None:
    """Half of the images are labelled, softly, each with classes of its own; some were merged."""
    database = site.service.database
    with database.write() as session:
        datasets.create(session, name)
    ingest = site.service.ingest
    seed = 1000 * size
    more = {"author_kind": "import", "way": Way.GRPC}
    rows = [
        ImageRow(name, "b", n, noise(seed + n), annotation=soft(n) if n % 2 else None, **more)
        for n in range(2 * size)
    ]
    ingest.commit([ingest.prepare(row) for row in rows])
    with database.write() as session:
        dataset = datasets.find(session, name, lock=True)
        classes = Taxonomy(session, dataset, "ann")
        for n in range(size // 2):
            classes.merge(
                classes.existing(f"class-{4 * n + 1}"), classes.existing(f"class-{4 * n + 3}")
            )
    with database.write() as session:
        dataset = datasets.find(session, name)
        mine = session.scalars(select(Item).where(Item.dataset_id == dataset.id)).all()
        first = session.scalar(select(LabelClass).where(LabelClass.key == "class-1"))
        said = {"model": "m", "version": 1, "scores": [["class-1", 0.9]], "class_id": first.id}
        figures = {"probability": 0.9, "margin": 0.8, "sure": True, "at": datetime.now(UTC)}
        session.add_all(Prediction(item_id=item.id, **said, **figures) for item in mine)
    snapshots.cut(database, site.service.store, name)


READ = [
    "/datasets/{d}",
    "/datasets/{d}/label",
    "/datasets/{d}/grid",
    "/datasets/{d}/review",
    "/datasets/{d}/browse",
    "/datasets/{d}/browse?state=labelled",
    "/datasets/{d}/classes",
    "/datasets/{d}/snapshots",
    "/datasets/{d}/imports",
    "/datasets/{d}/quarantine",
    "/v1/datasets/{d}/images?limit=200",
    "/v1/datasets/{d}/images?limit=200&state=labelled",
    "/v1/datasets/{d}/queue?n=64",
    "/v1/datasets/{d}/events?limit=1000",
    "/v1/datasets/{d}/classes",
    "/v1/datasets/{d}/classes/history",
    "/v1/datasets/{d}/overview",
    "/v1/datasets/{d}/imports",
    "/v1/datasets/{d}/quarantine",
    "/v1/datasets/{d}/snapshots",
    "/v1/datasets/{d}/labels.csv",
    "/v1/datasets/{d}/export?format=csv",
]


async def test_pages_and_lists_ask_as_often_for_many_as_for_few(site: Site) -> None:
    grown: dict[str, dict[str, tuple[int, int]]] = {}
    async with site.client() as client:
        for path in READ:
            sent: dict[str, Counter[str]] = {}
            for name in SIZES:
                with counted() as sent[name]:
                    answer = await client.get(path.format(d=name))
                assert answer.status_code == 200, (path, answer.text[:500])
            few, many = (sent[name] for name in SIZES)
            if few.total() != many.total():
                grown[path] = {
                    sql: (few[sql], many[sql]) for sql in few | many if few[sql] != many[sql]
                }
    assert grown == {}


async def test_the_list_of_datasets_is_two_queries(site: Site) -> None:
    async with site.client() as client:
        for path in ("/", "/v1/datasets"):
            with counted() as sent:
                answer = await client.get(path)
            assert answer.status_code == 200
            assert sum(n for sql, n in sent.items() if sql.startswith("SELECT")) == 2, sent
        listed = {one["name"]: one for one in (await client.get("/v1/datasets")).json()}
    assert [len(listed[name]["classes"]) for name in ("d", *SIZES)] == [0, 8, 32]
    assert listed["few"]["classes"][0] == {"id": "class-1", "name": "class-1"}


async def say(client: httpx.AsyncClient, name: str, **fields: object) -> tuple[list[Any], int]:
    """One event on every open image, in one batch: the results, and how many statements it took."""
    page = (await client.get(f"/v1/datasets/{name}/images?state=open&limit=200")).json()
    events = [
        {
            "event_id": str(uuid.uuid4()), "sha256": one["sha256"],
            "annotation": {"classes": ["class-3"]}, "suggested_by": "m:1", "suggestion": "rejected",
            **fields,
        }
        for one in page["items"]
    ]  # fmt: skip
    with counted() as sent:
        answer = await client.post(f"/v1/datasets/{name}/events/batch", json={"events": events})
    return answer.json()["results"], sent.total()


async def test_a_batch_of_labels_is_recorded_in_a_few_statements_for_all(site: Site) -> None:
    async with site.client() as client:
        taken = {}
        for name, size in SIZES.items():
            results, taken[name] = await say(client, name, base_sequence=0)
            assert len([one for one in results if "ok" in one]) == size
    assert taken["few"] == taken["many"] < 20


async def test_what_a_batch_conflicts_with_is_told_in_a_few_statements_for_all(site: Site) -> None:
    async with site.client() as client:
        taken = {}
        for name, size in SIZES.items():
            results, taken[name] = await say(client, name, base_sequence=7)
            conflicts = [one["error"] for one in results]
            assert {one["reason"] for one in conflicts} == {"conflict"}
            assert len({one["current"]["sha256"] for one in conflicts}) == size
    assert taken["few"] == taken["many"]


async def test_a_manifest_is_read_from_the_store_once(site: Site, monkeypatch) -> None:
    asked: Counter[str] = Counter()
    get = site.service.store.get

    def counting(key: str, *given: Any, **more: Any) -> Any:
        asked[key] += key.endswith("manifest.json")
        return get(key, *given, **more)

    monkeypatch.setattr(site.service.store, "get", counting)
    async with site.client() as client:
        for path in ("/datasets/few", "/datasets/few", "/v1/datasets/few/snapshots"):
            assert (await client.get(path)).status_code == 200
        assert asked.total() == 1
        await client.post(
            "/v1/datasets/few/labels", json={"sha256": await _first(client), "label": "class-3"}
        )
        assert (await client.post("/v1/datasets/few/snapshots")).status_code == 200
        asked.clear()
        listed = (await client.get("/v1/datasets/few/snapshots")).json()
    assert (len(listed), asked.total()) == (2, 1)


async def _first(client: httpx.AsyncClient) -> str:
    page = (await client.get("/v1/datasets/few/images?state=open&limit=1")).json()
    return page["items"][0]["sha256"]
