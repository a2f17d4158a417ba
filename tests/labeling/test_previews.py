"""Previews: upright, in sRGB, without metadata, cached for ever; never the original."""

import asyncio
import io
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image, ImageCms
from support.photographs import encode, photograph
from support.pictures import noise

from visionloop.images import Limits, decode
from visionloop.snapshot import blob_key
from visionloop_labeling.api import make_api
from visionloop_labeling.inspectors import OwnProcess
from visionloop_labeling.previews import Previews, preview_key
from visionloop_labeling.renditions import RECIPES, render
from visionloop_labeling.service import RENDERINGS, LabelingService
from visionloop_labeling.statements import statement

THUMB, VIEW = RECIPES
pytestmark = pytest.mark.anyio
one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
async def client(core) -> AsyncIterator[httpx.AsyncClient]:
    service = LabelingService(core.database, core.store, Limits())
    transport = httpx.ASGITransport(make_api(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://labeling") as made:
        yield made


def china() -> Image.Image:
    return Image.open(io.BytesIO(photograph("china"))).convert("RGB")


def test_a_photograph_is_turned_upright_scaled_and_stripped() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker"
    exif.get_ifd(0x8825)[1] = "N"  # GPS
    data = encode(china().resize((3200, 2135)), "JPEG", exif=exif)
    for recipe, size in ((THUMB, (171, 256)), (VIEW, (1068, 1600))):
        shown = Image.open(io.BytesIO(render(data, recipe, Limits())))
        assert (shown.format, shown.size) == ("WEBP", size)
        assert not shown.getexif()
        assert not {"exif", "icc_profile", "xmp"} & set(shown.info)
        here = Image.fromarray(decode(data)).resize(size, Image.Resampling.LANCZOS)
        assert np.abs(np.asarray(shown, float) - np.asarray(here, float)).mean() < 6


def test_small_images_keep_their_size() -> None:
    assert Image.open(io.BytesIO(render(noise(1), VIEW, Limits()))).size == (40, 40)


def test_a_wide_strip_keeps_a_line() -> None:
    data = encode(china().resize((2000, 20)), "PNG")
    assert Image.open(io.BytesIO(render(data, THUMB, Limits()))).size == (256, 3)


def test_colours_of_a_profile_are_shown_as_meant() -> None:
    """The same numbers with red and green changed places in the profile's space."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = bytearray(srgb)
    at = {srgb[i : i + 4]: i for i in range(132, 132 + 12 * 20, 12)}
    red, green = at[b"rXYZ"], at[b"gXYZ"]
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"
    picture = Image.new("RGB", (64, 64), (230, 20, 20))
    for format_name in ("PNG", "JPEG", "TIFF", "WEBP"):
        plain = encode(picture, format_name)
        tagged = encode(picture, format_name, icc_profile=bytes(swapped))
        middles = [
            Image.open(io.BytesIO(render(data, THUMB, Limits()))).convert("RGB").getpixel((32, 32))
            for data in (plain, tagged)
        ]
        assert middles[0][0] > 200, format_name
        assert middles[1][1] > 200 > 90 > middles[1][0], format_name


def test_a_broken_profile_and_one_of_other_colours_are_as_none() -> None:
    for broken in (b"nonsense", bytes(4000)):
        shown = render(encode(china(), "PNG", icc_profile=broken), THUMB, Limits())
        assert shown == render(encode(china(), "PNG"), THUMB, Limits())


@one_database
async def test_a_browser_gets_it_once_and_never_the_original(core, client) -> None:
    sha256 = core.add(photograph("china"), "a").sha256
    path = f"/v1/datasets/cells/images/{sha256}/preview"
    first = await client.get(path, params={"edge": 256})
    assert (first.status_code, first.headers["content-type"]) == (200, "image/webp")
    assert first.content == core.store.get(preview_key(sha256, THUMB)).data
    assert "immutable" in first.headers["cache-control"]
    assert first.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in first.headers["content-security-policy"]
    core.store.delete(blob_key(sha256))  # what was made is kept
    assert (await client.get(path, params={"edge": 256})).content == first.content
    tag = {"If-None-Match": f'"other", {first.headers["etag"]}'}
    again = await client.get(path, params={"edge": 256}, headers=tag)
    assert (again.status_code, again.content) == (304, b"")
    lost = await client.get(path)  # the other size needs the original
    assert lost.status_code == 412
    assert "lost" in lost.json()["message"]


@one_database
@pytest.mark.parametrize(
    ("dataset", "sha256", "edge", "status"),
    [
        ("cells", "0" * 64, "256", 404),
        ("other", None, "256", 404),
        ("none", None, "256", 404),
        ("cells", None, "257", 400),
        ("cells", None, "x", 422),
        ("cells", "../../secret", "256", 404),
        ("cells", "abc", "256", 400),
    ],
)
async def test_what_is_not_there_or_not_offered(
    core, client, dataset: str, sha256: str | None, edge: str, status: int
) -> None:
    core.create("other")
    found = core.add(noise(1)).sha256
    path = f"/v1/datasets/{dataset}/images/{sha256 or found}/preview?edge={edge}"
    assert (await client.get(path)).status_code == status


@one_database
def test_two_who_look_at_once_get_the_same(core) -> None:
    sha256 = core.add(photograph("china")).sha256
    together = threading.Barrier(2)

    class Slow(OwnProcess):
        def preview(self, image, recipe):
            together.wait(60)
            return super().preview(image, recipe)

    previews = Previews(core.database, core.store, Slow(Limits()))
    got: list[bytes] = []
    lookers = [
        threading.Thread(target=lambda: got.append(previews.make(sha256, THUMB))) for _ in range(2)
    ]
    for looker in lookers:
        looker.start()
    for looker in lookers:
        looker.join()
    assert got[0] == got[1] == core.store.get(preview_key(sha256, THUMB)).data


@one_database
async def test_many_previews_at_once_hold_up_no_label(core) -> None:
    """A page of a grid asks for more previews than there are threads; each waits for a decoder."""
    digests = [core.add(noise(n)).sha256 for n in range(24)]
    loop = asyncio.get_running_loop()
    decode_now, all_busy = threading.Event(), asyncio.Event()
    entered: list[int] = []

    class Slow(OwnProcess):
        def preview(self, image, recipe):
            entered.append(1)
            if len(entered) == RENDERINGS:
                loop.call_soon_threadsafe(all_busy.set)
            assert decode_now.wait(60)
            return super().preview(image, recipe)

    service = LabelingService(core.database, core.store, Limits(), Slow(Limits()))
    loop.set_default_executor(ThreadPoolExecutor(RENDERINGS + 1))
    looking = [asyncio.create_task(service.preview(one, THUMB)) for one in digests]
    async with asyncio.timeout(60):
        await all_busy.wait()
        said = statement(class_name="a", author_kind="human", event_id="", author="ada")
        recorded = await service.submit_event("cells", digests[0], said)
        assert (recorded.applied, len(entered)) == (True, RENDERINGS)
        decode_now.set()
        assert all(await asyncio.gather(*looking))
