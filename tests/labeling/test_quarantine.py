"""What looks like an image and cannot be decoded is kept aside, shown, thrown away, tried again."""

import hashlib
import threading
from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy import func, select
from support.pictures import noise

from visionloop.errors import UnavailableError
from visionloop.images import Limits
from visionloop_labeling import quarantine
from visionloop_labeling.api import make_api
from visionloop_labeling.ingest import Ingest
from visionloop_labeling.inspection import Inspection
from visionloop_labeling.inspectors import OwnProcess, UndecodableError
from visionloop_labeling.quarantine import quarantine_key
from visionloop_labeling.schema import Blob, IngestRow, Item, Quarantined
from visionloop_labeling.service import LabelingService

CUT = noise(1)[:-100]
DIGEST = hashlib.sha256(CUT).hexdigest()
FIELDS = {"group": "g", "attributes": {"line": "3"}, "source": "a.png", "author": "ada"}
pytestmark = pytest.mark.anyio
one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
both_databases = pytest.mark.parametrize(
    "database_url",
    ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)],
    indirect=True,
)


def count(core, table) -> int:
    with core.database.read() as session:
        return session.scalar(select(func.count()).select_from(table))


def aside(core) -> list[quarantine.PutAside]:
    with core.database.read() as session:
        return quarantine.page(session, "cells")


class Changing(OwnProcess):
    """An inspector with a fault that an update removes."""

    fault: Exception | None = None

    def inspect(self, image: bytes) -> Inspection:
        if self.fault is not None:
            raise self.fault
        return super().inspect(image)


def test_a_cut_image_is_kept_aside_and_the_row_says_so(core) -> None:
    receipt = core.add(CUT, "a", **FIELDS)
    assert (receipt.outcome, receipt.sha256) == ("quarantined", DIGEST)
    assert (receipt.reason, receipt.field) == ("truncated", "image")
    assert (count(core, Item), count(core, Blob), count(core, IngestRow)) == (0, 0, 1)
    assert core.store.get(quarantine_key(DIGEST)).data == CUT
    assert list(core.store.list("blobs/")) == []
    (kept,) = aside(core)
    assert (kept.sha256, kept.size, kept.reason) == (DIGEST, len(CUT), "truncated")
    assert (kept.source, kept.author, kept.row["label"]) == ("a.png", "ada", "a")
    again = core.add(CUT, "a", **FIELDS, batch="added-1")
    assert (again.outcome, again.replayed) == ("quarantined", True)
    assert count(core, Quarantined) == 1


@one_database
@pytest.mark.parametrize("image", [b"", b"%PDF-1.4", b"not an image", b"<svg xmlns=''/>"])
def test_what_is_no_image_is_not_kept(core, image: bytes) -> None:
    assert core.add(image).outcome == "rejected"
    assert list(core.store.list("quarantine/")) == []
    assert count(core, Quarantined) == 0


@one_database
@pytest.mark.parametrize("reason", ["decoder_crashed", "decode_timeout"])
def test_an_image_that_breaks_decoders_is_kept_until_it_breaks_them_no_more(core, reason) -> None:
    inspector = Changing(Limits())
    ingest = Ingest(core.database, core.store, Limits(), inspector)
    inspector.fault = UndecodableError("it broke the decoder", reason=reason)
    core.ingest = ingest
    receipt = core.add(noise(2), "b", **FIELDS)
    assert (receipt.outcome, receipt.reason) == ("quarantined", reason)
    inspector.fault = None
    row = quarantine.row_of(core.database, core.store, "cells", receipt.sha256)
    assert core.submit(row)[0].outcome == "accepted"
    assert count(core, Quarantined) == 0
    exported = core.labels()[receipt.sha256]
    assert (exported.class_name, exported.group, exported.attributes) == ("b", "g", {"line": "3"})
    assert (exported.source, exported.author) == ("a.png", "ada")
    ingest.close()


@one_database
def test_a_corrected_row_takes_the_place_of_the_quarantined_one(core) -> None:
    assert core.add(CUT, "a", batch="b").outcome == "quarantined"
    assert core.add(noise(1), "a", batch="b").outcome == "accepted"
    assert count(core, IngestRow) == 1
    assert [kept.sha256 for kept in aside(core)] == [DIGEST]  # for people to see


@one_database
def test_a_refusal_of_the_rest_of_the_row_keeps_nothing(core) -> None:
    assert core.add(CUT, "a\tb").outcome == "rejected"
    assert core.add(CUT, "a", dataset="none").outcome == "rejected"
    assert count(core, Quarantined) == 0


@pytest.fixture
async def client(core) -> AsyncIterator[httpx.AsyncClient]:
    service = LabelingService(core.database, core.store, Limits())
    transport = httpx.ASGITransport(make_api(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://labeling") as made:
        yield made


@one_database
async def test_an_admin_looks_tries_and_throws_away(core, client) -> None:
    for number in range(3):
        core.add(noise(number)[:-100], "a")
    path = "/v1/datasets/cells/quarantine"
    first = (await client.get(path, params={"limit": 2})).json()
    rest = (await client.get(path, params={"limit": 2, "after": first["next"]})).json()
    found = [one["sha256"] for one in first["items"] + rest["items"]]
    assert found == sorted(found)
    assert len(found) == 3
    assert rest["next"] is None
    tried = await client.post(f"{path}/{found[0]}/retry")
    assert (tried.status_code, tried.json()["outcome"]) == (200, "quarantined")
    assert (await client.delete(f"{path}/{found[0]}")).status_code == 204
    assert {stat.key for stat in core.store.list("quarantine/")} == {
        quarantine_key(sha256) for sha256 in found[1:]
    }
    assert (await client.delete(f"{path}/{found[0]}")).status_code == 404
    assert (await client.post(f"{path}/{found[0]}/retry")).status_code == 404
    assert (await client.get("/v1/datasets/none/quarantine")).status_code == 404


@one_database
async def test_one_image_by_http_is_refused_and_kept(core, client) -> None:
    answer = await client.post(
        "/v1/datasets/cells/images", files={"file": ("a.png", CUT, "image/png")}
    )
    assert (answer.status_code, answer.json()["reason"]) == (400, "truncated")
    assert [kept.sha256 for kept in aside(core)] == [DIGEST]


@one_database
def test_bytes_that_two_datasets_put_aside_stay_for_the_other(core) -> None:
    core.create("other")
    core.add(CUT)
    core.add(CUT, dataset="other")
    quarantine.remove(core.database, core.store, "cells", DIGEST)
    assert core.store.get(quarantine_key(DIGEST)).data == CUT
    quarantine.remove(core.database, core.store, "other", DIGEST)
    assert list(core.store.list("quarantine/")) == []


@both_databases
@pytest.mark.parametrize("dataset", ["cells", "other"])
def test_bytes_that_come_anew_while_they_are_thrown_away_are_kept(
    core, monkeypatch, dataset: str
) -> None:
    core.create("other")
    core.add(CUT)
    writes, delete = threading.Event(), core.store.delete
    write = core.ingest.write
    monkeypatch.setattr(core.ingest, "write", lambda rows: (writes.set(), write(rows))[1])
    again = threading.Thread(target=core.add, args=(CUT,), kwargs={"dataset": dataset})

    def delete_later(key: str) -> None:
        again.start()
        assert writes.wait(30)
        delete(key)

    monkeypatch.setattr(core.store, "delete", delete_later)
    quarantine.remove(core.database, core.store, "cells", DIGEST)
    again.join()
    assert quarantine.row_of(core.database, core.store, dataset, DIGEST).image == CUT


@one_database
def test_what_the_store_does_not_delete_is_not_thrown_away(core, monkeypatch) -> None:
    core.add(CUT)

    def away(key: str) -> None:
        raise UnavailableError("away")

    with monkeypatch.context() as failing:
        failing.setattr(core.store, "delete", away)
        with pytest.raises(UnavailableError):
            quarantine.remove(core.database, core.store, "cells", DIGEST)
    quarantine.remove(core.database, core.store, "cells", DIGEST)
    assert (aside(core), list(core.store.list("quarantine/"))) == ([], [])


@both_databases
def test_every_digest_can_be_held(core) -> None:
    with core.database.write() as session:
        quarantine.hold(session, [first + DIGEST[8:] for first in ("80000000", "f" * 8, "0" * 8)])
