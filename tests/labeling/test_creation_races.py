"""Several who make the same thing at once: one makes it, and every other one is told, or shares it.

On Postgres each request has a connection of its own. So that all of them have looked before any
has written, the test holds what they are after until every one of them waits for it, and lets go.
"""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session
from support.labeling_site import Site, open_site, password_of
from support.pictures import noise
from support.postgres import PostgresServer

from visionloop_labeling import accounts, datasets
from visionloop_labeling.accounts import Role
from visionloop_labeling.schema import Account, ApiToken, Dataset, ImportJob
from visionloop_labeling.tokens import MOST_PER_ACCOUNT

AT_ONCE = 5  # a thread each, of the six that a machine of two cores gives
PATIENCE = 30.0  # seconds; only a broken lock makes a test wait so long
KINDS = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
pytestmark = pytest.mark.anyio
_WAITING = text(
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
# Within a transaction the server would go on showing what it showed first.
_LOOK_AGAIN = text("SELECT pg_stat_clear_snapshot()")


class GivenUpError(Exception):
    """Who held it makes nothing after all."""


@pytest.fixture(scope="module", params=KINDS)
async def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncIterator[Site]:
    """One for all tests on a database; each makes what has another name."""
    folder, url = tmp_path_factory.mktemp("races"), ""
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.url(server.create(request.getfixturevalue("migrated_postgres")))
    async with open_site(folder, database_url=url) as made:
        yield made


async def all_at_once(
    site: Site, held: Callable[[Session], object], *requests: Awaitable[httpx.Response]
) -> list[httpx.Response]:
    """The answers to requests that all wait for what `held` takes."""
    database = site.service.database
    if database.single_process:  # nobody looks while another one writes
        return list(await asyncio.gather(*requests))
    with contextlib.suppress(GivenUpError), database.write() as session:
        held(session)
        asked = [asyncio.ensure_future(one) for one in requests]
        end = time.monotonic() + PATIENCE
        while session.scalar(_WAITING) < len(asked) and time.monotonic() < end:
            await asyncio.sleep(0.01)
            session.execute(_LOOK_AGAIN)
        raise GivenUpError
    return list(await asyncio.gather(*asked))


def statuses(answers: list[httpx.Response]) -> Counter[int]:
    return Counter(one.status_code for one in answers)


def hold_dataset(session: Session) -> None:
    datasets.find(session, "d", lock=True)


async def test_an_account_is_made_once(site: Site) -> None:
    roles = [Role.LABELLER, Role.REVIEWER, Role.SERVICE, Role.LABELLER, Role.REVIEWER]
    async with site.client(site.token("root")) as client:
        answers = await all_at_once(
            site,
            lambda session: accounts.add(session, "new", Role.ADMIN),
            *(client.post("/v1/accounts", json={"name": "new", "role": one}) for one in roles),
        )
    assert statuses(answers) == {201: 1, 409: AT_ONCE - 1}
    [made] = [one.json() for one in answers if one.status_code == 201]
    refused = next(one.json() for one in answers if one.status_code == 409)
    assert refused["message"] == "there is an account new already; names are never used again"
    with site.service.database.read() as session:
        [stored] = session.scalars(select(Account).where(Account.name == "new"))
        assert stored.role == made["role"]  # nobody was told of another one's


async def test_a_dataset_is_made_once_and_only_with_its_own_settings(site: Site) -> None:
    tasks = ["detection", "multi_label", "classification", "multi_label", "detection"]
    async with site.client(site.token("root")) as client:
        bodies = [{"name": "e", "settings": {"task": task}} for task in tasks]
        answers = await all_at_once(
            site,
            lambda session: datasets.create(session, "e"),
            *(client.post("/v1/datasets", json=body) for body in bodies),
        )
    taken = {one.json()["settings"]["task"] for one in answers if one.status_code == 200}
    assert len(taken) == 1
    assert statuses(answers)[200] == tasks.count(taken.pop())
    assert statuses(answers)[409] == AT_ONCE - statuses(answers)[200]


async def test_the_pages_form_makes_a_dataset_for_one_of_those_who_send_it(site: Site) -> None:
    client = await site.browser("root")
    form = {"name": "f", "csrf": client.headers.pop("X-CSRF-Token")}
    answers = await all_at_once(
        site,
        lambda session: datasets.create(session, "f"),
        *(client.post("/datasets", data=form) for _ in range(AT_ONCE)),
    )
    assert statuses(answers) == {303: 1, 409: AT_ONCE - 1}
    refused = next(one.text for one in answers if one.status_code == 409)
    assert "there is a dataset &#34;f&#34; already; choose another name" in refused
    with site.service.database.read() as session:
        assert session.scalar(select(func.count()).where(Dataset.name == "f")) == 1


async def test_a_class_is_made_once(site: Site) -> None:
    async with site.client(site.token("rita")) as client:
        answers = await all_at_once(
            site,
            hold_dataset,
            *(client.post("/v1/datasets/d/classes", json={"name": "cat"}) for _ in range(AT_ONCE)),
        )
        listed = (await client.get("/v1/datasets/d/classes")).json()
    assert statuses(answers) == {201: 1, 409: AT_ONCE - 1}
    assert [one["name"] for one in listed].count("cat") == 1


async def test_attributes_are_those_of_one_who_set_them(site: Site) -> None:
    kinds = ["number", "choice", "colour", "number", "choice"]
    async with site.client(site.token("rita")) as client:
        url = "/v1/datasets/d/attributes"
        answers = await all_at_once(
            site,
            hold_dataset,
            *(client.put(url, json=[{"name": "size", "kind": kind}]) for kind in kinds),
        )
        [stored] = (await client.get(url)).json()
    # Its kind never changes, so who says another one is refused.
    assert statuses(answers) == {
        200: kinds.count(stored["kind"]),
        409: AT_ONCE - kinds.count(stored["kind"]),
    }


async def test_an_account_never_has_more_tokens_than_it_may(site: Site) -> None:
    site.add("busy", Role.ADMIN)
    for _ in range(MOST_PER_ACCOUNT - 1):
        site.token("busy", anew=True)
    async with site.client(site.token("busy")) as client:  # one is left
        answers = await all_at_once(
            site,
            lambda session: accounts.find(session, "busy", lock=True),
            *(client.post("/v1/tokens", json={"name": "t"}) for _ in range(AT_ONCE)),
        )
    assert statuses(answers) == {201: 1, 412: AT_ONCE - 1}
    with site.service.database.read() as session:
        mine = (
            select(func.count()).select_from(ApiToken).join(Account).where(Account.name == "busy")
        )
        assert session.scalar(mine) == MOST_PER_ACCOUNT


async def test_an_import_that_is_sent_twice_is_one(site: Site) -> None:
    def begin(client: httpx.AsyncClient, content: bytes) -> Awaitable[httpx.Response]:
        form = {"kind": (None, "csv"), "parameters": (None, json.dumps({}))}
        return client.post(
            "/v1/datasets/d/imports",
            files={**form, "file": ("labels.csv", content)},
            headers={"Idempotency-Key": "once"},
        )

    files = [b"image,label\na.png,cat\n"] * 3 + [b"image,label\nb.png,cat\n"] * 2
    async with site.client(site.token("root")) as client:
        answers = await all_at_once(
            site, hold_dataset, *(begin(client, content) for content in files)
        )
    jobs = Counter(one.json()["id"] for one in answers if one.status_code == 202)
    assert len(jobs) == 1  # the others with the same file share it, those with another are refused
    assert sorted([jobs.total(), statuses(answers)[409]]) == [2, 3]
    with site.service.database.read() as session:
        assert session.scalar(select(func.count()).select_from(ImportJob)) == 1


async def test_a_snapshot_of_the_same_labels_is_new_to_one_alone(site: Site) -> None:
    async with site.client(site.token("root")) as client:
        form = {"label": "cat"}
        for number in range(2):
            files = {"file": (f"{number}.png", noise(number))}
            answer = await client.post("/v1/datasets/d/images", data=form, files=files)
            assert answer.status_code == 201, answer.text
        url = "/v1/datasets/d/snapshots"
        answers = await asyncio.gather(*(client.post(url) for _ in range(AT_ONCE)))
        listed = (await client.get(url)).json()
    assert len({one.json()["id"] for one in answers}) == 1
    assert sorted(one.json()["created"] for one in answers) == [False] * (AT_ONCE - 1) + [True]
    assert len(listed) == 1


async def test_of_two_who_change_a_password_from_the_same_one_only_the_first_does(
    site: Site,
) -> None:
    browsers = [await site.browser("rita") for _ in range(2)]
    answers = await all_at_once(
        site,
        lambda session: accounts.find(session, "rita", lock=True),
        *(
            browser.post(
                "/v1/session/password",
                json={"old": password_of("rita"), "new": f"another long one {number}"},
            )
            for number, browser in enumerate(browsers)
        ),
    )
    assert statuses(answers) == {204: 1, 401: 1}
    [new] = [n for n, one in enumerate(answers) if one.status_code == 204]
    async with site.client() as client:
        said = {"name": "rita", "password": f"another long one {new}"}
        assert (await client.post("/v1/session", json=said)).status_code == 200
