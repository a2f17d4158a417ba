"""The pages' frame: what is served with which headers, and that stored text stays text."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest
from support.fresh_database import fresh_sqlite
from support.pictures import noise

from visionloop.images import Limits
from visionloop.objectstore import open_store
from visionloop_labeling.api import make_api
from visionloop_labeling.database import open_database
from visionloop_labeling.pages import assets
from visionloop_labeling.pages.plots import round_up
from visionloop_labeling.service import LabelingService

pytestmark = pytest.mark.anyio
HOSTILE = "</script><img src=x onerror=alert(1)>'\"&{{7*7}}"
PAGES = (
    "",
    *("/browse", "/grid", "/review", "/classes", "/imports", "/snapshots", "/quarantine"),
)


@pytest.fixture(scope="module")
async def client(tmp_path_factory, anyio_backend) -> AsyncIterator[httpx.AsyncClient]:
    folder = tmp_path_factory.mktemp("pages")
    database = open_database(fresh_sqlite(folder / "l.db"))
    service = LabelingService(database, open_store(f"file://{folder / 's'}"), Limits())
    transport = httpx.ASGITransport(make_api(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://labeling") as made:
        await made.post("/v1/datasets", json={"name": "d"})
        yield made
    service.close()


async def test_static_files_are_kept_for_ever_under_their_version(client) -> None:
    address = assets.url("style.css")
    found = await client.get(address)
    assert found.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert found.headers["content-type"] == "text/css; charset=utf-8"
    etag = {"If-None-Match": found.headers["etag"]}
    assert (await client.get(address, headers=etag)).status_code == 304
    # Another replica's page asks while an upgrade rolls out: served, and kept by nobody.
    other = await client.get("/static/000000000000/style.css")
    assert (other.status_code, other.headers["cache-control"]) == (200, "no-store")
    for name in ("nothing.css", "../pages/rendering.py", "%2e%2e/service.py"):
        assert (await client.get(f"/static/{assets.VERSION}/{name}")).status_code == 404


async def test_stored_text_is_never_markup(client) -> None:
    files = {"file": (HOSTILE, noise(1), "image/png")}
    fields = {"label": HOSTILE, "author": HOSTILE, "author_kind": "import"}
    made = await client.post("/v1/datasets/d/images", files=files, data=fields)
    assert made.status_code == 201, made.text
    key = (await client.get("/v1/datasets/d/classes")).json()[0]["id"]
    image = f"/images/{made.json()['sha256']}"
    for page in (*PAGES, image, f"/classes?edit={key}"):
        answer = await client.get(f"/datasets/d{page}")
        assert answer.status_code == 200, page
        assert "<img src=x" not in answer.text
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'")
        assert "unsafe" not in policy
        assert not re.search(r"<script(?![^>]*(src=|application/json))", answer.text)
        assert not re.search(r"\s(style|on\w+)=\"", answer.text)
        # Every file that a page names is there.
        for address in re.findall(r'(?:src|href)="(/static/[^"]+)"', answer.text):
            assert (await client.get(address)).status_code == 200, address


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/datasets/nothing", 404),
        ("/datasets/nothing/label", 404),
        ("/datasets/NO", 400),
        ("/datasets/d/browse?state=strange", 400),
        ("/datasets/d/browse?after=strange", 400),
        ("/datasets/d/browse?class_id=strange", 400),
        ("/datasets/d/classes?edit=strange", 404),
        ("/datasets/d/images/strange", 400),
        ("/datasets/d/review?image=strange", 422),
        ("/datasets/d/snapshots?from=strange", 400),
        ("/accounts", 412),
    ],
)
async def test_who_follows_a_wrong_link_reads_a_sentence(client, path: str, status: int) -> None:
    answer = await client.get(path)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert "<h1>" in answer.text
    assert "Traceback" not in answer.text


async def test_a_fault_of_ours_is_a_sentence_too(tmp_path) -> None:
    database = open_database(fresh_sqlite(tmp_path / "l.db"))
    service = LabelingService(database, open_store(f"file://{tmp_path / 's'}"), Limits())
    del service.overviews
    transport = httpx.ASGITransport(make_api(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://labeling") as client:
        await client.post("/v1/datasets", json={"name": "d"})
        page = await client.get("/datasets/d", headers={"Accept": "text/html"})
        assert page.status_code == 500
        assert "the service failed; its log says why" in page.text
        assert ">Try again</a>" in page.text
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
        answer = await client.get("/v1/datasets/d/overview")
        assert (answer.status_code, answer.json()["reason"]) == (500, "internal")
    service.close()


async def test_the_theme_is_the_readers_choice_and_nothing_else(client) -> None:
    for value, shown in (("dark", True), ("light", True), ('"><script>', False)):
        page = (await client.get("/", headers={"Cookie": f"theme={value}"})).text
        assert (f'data-theme="{value}"' in page) is shown


@pytest.mark.parametrize(
    ("value", "top"), [(0, 2), (2, 2), (3, 4), (7, 10), (11, 20), (61, 100), (999_999, 1_000_000)]
)
async def test_an_axis_ends_on_a_number_people_know(value: int, top: int) -> None:
    assert round_up(value) == top
