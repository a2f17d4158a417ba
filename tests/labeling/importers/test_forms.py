"""Forms with many files: taken apart while they arrive, whatever their names and pieces are."""

import asyncio
import hashlib
import random
import tempfile
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from fastapi import Request
from hypothesis import given, settings
from hypothesis import strategies as st
from support.imports import bound, picture, taken

from visionloop.errors import InvalidInputError, UnavailableError
from visionloop_labeling.api import import_forms
from visionloop_labeling.api.import_forms import Wish, read_wish
from visionloop_labeling.api.spool import Spool
from visionloop_labeling.importers.album import Album
from visionloop_labeling.importers.entries import SourceError

IMAGES = {"kind": "images"}
CSV = {"kind": "csv"}
Files = Sequence[tuple[bytes, bytes]]  # names and contents


def form(files: Files, fields: dict[str, str] = IMAGES, boundary: bytes = b"edge") -> bytes:
    """A form's body, its files first."""
    parts = [
        b'Content-Disposition: form-data; name="file"; filename="%s"\r\n\r\n%s' % part
        for part in files
    ]
    parts += [
        f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
        for name, value in fields.items()
    ]
    opened = b"".join(b"--%s\r\n%s\r\n" % (boundary, part) for part in parts)
    return opened + b"--%s--\r\n" % boundary


def pieces(body: bytes, cuts: Iterable[int]) -> list[bytes]:
    """The body, cut at these places."""
    places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    return [body[a:b] for a, b in pairwise(places)]


def read(folder: Path, body: Iterable[bytes], boundary: bytes = b"edge") -> Wish:
    """What the service makes of a request with this body."""
    rest = iter(body)

    async def receive() -> dict[str, object]:
        piece = next(rest, None)
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    kind = b"multipart/form-data; boundary=" + boundary
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind)]}
    return asyncio.run(read_wish(Request(scope, receive), folder))


def contents(wish: Wish) -> list[tuple[str, bytes]]:
    """The files of a form, read back."""
    assert wish.upload is not None
    album = Album(wish.upload.path)
    try:
        return [(page.name, album.read(page, 2**30)) for page in album.pages]
    finally:
        album.close()


file_names = st.binary(max_size=300).map(
    lambda name: name.translate(None, b'\r\n"').rstrip(b"\\")
) | st.sampled_from([b"a.jpg", b"../../a.jpg", b"/etc/passwd", b"..", b".", "猫.jpg".encode()])


@settings(deadline=None, max_examples=30)
@given(
    files=st.lists(st.tuples(file_names, st.binary(min_size=1, max_size=400)), min_size=1),
    cuts=st.lists(st.integers(0, 2**20), max_size=8),
    edge=st.text("abcxyz", min_size=1, max_size=20).map(lambda text: b"-~" + text.encode()),
)
def test_every_file_is_kept_under_a_harmless_name(
    files: Files, cuts: list[int], edge: bytes
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        wish = read(Path(folder), pieces(form(files, boundary=edge), cuts), edge)
        assert wish.upload is not None
        kept = contents(wish)
        stored = wish.upload.path.read_bytes()
        assert {path.name for path in Path(folder).rglob("*")} == {"upload"}
    assert [data for _, data in kept] == [data for _, data in files]
    for name, _ in kept:
        assert name.isprintable()
        assert 0 < len(name) <= 200
        assert not set(name) & set("/\\")
        assert name.strip(".")
    assert stored == bound(*kept)  # depends on nothing but names and contents
    assert (wish.upload.sha256, wish.upload.size) == (
        hashlib.sha256(stored).hexdigest(), len(stored),
    )  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_broken_forms_are_refused_in_words(seed: int) -> None:
    """Cut off, or with bytes changed: refused as input, or a form with all that is left of it."""
    chance = random.Random(seed)
    whole = form([(b"a.jpg", b"12345" * 20), (b"b.jpg", b"67890" * 20)])
    broken = bytearray(whole)
    for _ in range(chance.randint(0, 3)):
        broken[chance.randrange(len(broken))] = chance.randrange(256)
    if chance.random() < 0.5:
        del broken[chance.randrange(len(broken) - 4) :]
    with tempfile.TemporaryDirectory() as folder, suppress(InvalidInputError):
        wish = read(Path(folder), [bytes(broken)])
        assert wish.kind == "images"
        assert len(contents(wish)) <= 2
        assert len(broken) == len(whole)


def endless() -> Iterator[bytes]:
    """A form that goes on for ever; reading all of it would not end."""
    while True:
        yield b'--edge\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nx\r\n'


def test_the_limit_on_files_is_told_while_they_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_forms, "MAX_FILES", 3)
    assert len(contents(read(tmp_path, [form([(b"a", b"1")] * 3)]))) == 3
    with pytest.raises(InvalidInputError, match=r"file: .* more than 3 files.* limit") as refused:
        read(tmp_path, endless())
    assert refused.value.field == "file"


def test_a_second_file_of_another_kind_is_refused_as_soon_as_it_comes(tmp_path: Path) -> None:
    kind = b'--edge\r\nContent-Disposition: form-data; name="kind"\r\n\r\ncsv\r\n'

    def begun() -> Iterator[bytes]:
        yield kind
        yield from endless()

    with pytest.raises(InvalidInputError, match="an import of kind csv takes one"):
        read(tmp_path, begun())


def test_one_file_of_another_kind_stays_as_it_came(tmp_path: Path) -> None:
    wish = read(tmp_path, pieces(form([(b"dir/t.csv", b"path\na.jpg\n")], CSV), [50, 120]))
    assert wish.upload is not None
    assert (wish.upload.name, wish.upload.path.read_bytes()) == ("t.csv", b"path\na.jpg\n")
    assert wish.upload.sha256 == hashlib.sha256(b"path\na.jpg\n").hexdigest()


def test_a_field_in_which_nothing_was_chosen_is_no_file(tmp_path: Path) -> None:
    assert [name for name, _ in contents(read(tmp_path, [form([(b"", b""), (b"a", b"1")])]))] == [
        "a"
    ]
    with pytest.raises(InvalidInputError, match="kind images needs a file"):
        read(tmp_path / "other", [form([(b"", b"")])])


def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    piece = bytes(2**16)

    def body() -> Iterator[bytes]:
        for _ in range(4):
            yield b'--edge\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
            yield from [piece] * 128  # 8 MiB
            yield b"\r\n"
        yield form([])

    tracemalloc.start()
    try:
        wish = read(tmp_path, body())
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()
    assert wish.upload is not None
    assert wish.upload.size > 32 * 2**20


def test_a_full_disk_is_told_as_one() -> None:
    spool = Spool(Path("/dev/full"))
    spool.begin("a.jpg")
    with pytest.raises(UnavailableError, match="has no room for the file"):
        spool.write(bytes(2**20))
    spool = Spool(Path("/dev/full"))
    spool.begin("a.jpg")
    spool.write(b"small")  # waits in a buffer
    with pytest.raises(UnavailableError, match="has no room for the file"):
        spool.bound()


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 100, bound(("a", b"1"))[1:]])
def test_what_is_no_album_is_refused(data: bytes) -> None:
    with pytest.raises(SourceError, match="no album of images") as refused:
        taken("images", data)
    assert refused.value.reason == "corrupt_upload"


def test_an_image_that_is_too_large_is_refused_alone(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(bound(("small.png", b"12"), ("large.png", b"1234")))
    album = Album(path)
    small, large = album.pages
    assert album.read(small, 3) == b"12"
    with pytest.raises(SourceError, match=r'"large.png" has 4 bytes; the limit is 3'):
        album.read(large, 3)
    album.close()


def test_all_images_of_a_form_get_its_class() -> None:
    images = [picture(1), picture(2)]
    rows = taken("images", bound(("a.png", images[0]), ("a.png", images[1])), label="cats")
    assert [(row.source, row.image, row.label) for row in rows] == [
        ("a.png", images[0], "cats"), ("a.png", images[1], "cats"),
    ]  # fmt: skip
    [row] = taken("images", bound(("a.png", images[0])))
    assert row.label is None
