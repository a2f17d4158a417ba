"""Archives made to do harm, or broken by chance: refused with a word for it, nothing unpacked."""

import gzip
import io
import os
import random
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.imports import SMALL, picture, taken, tarred, zipped

from visionloop.errors import InvalidInputError
from visionloop_labeling.importers import tar
from visionloop_labeling.importers.archive import Archive, open_archive
from visionloop_labeling.importers.entries import Entry, SourceError

IMAGE = picture(1)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for uploads; nothing may appear anywhere else under its parent."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    yield inner
    assert {path.name for path in tmp_path.rglob("*")} <= {"a", "b", "x", "x.unpacked"}


def opened(folder: Path, data: bytes) -> Archive:
    path = folder / "x"
    path.write_bytes(data)
    return open_archive(path, SMALL)


def tar_of(*members: tarfile.TarInfo, kind: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)) if member.isreg() else None)
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


UNSAFE = ["/etc/x.png", "../x.png", "a/../../x.png", "C:/x.png", "a\\b.png", "a\nb.png", "x" * 1000]


@pytest.mark.parametrize("name", UNSAFE)
def test_an_entry_with_an_unsafe_name_is_refused_alone(folder: Path, name: str) -> None:
    files = {name: b"x", "good/a.png": IMAGE}
    packed = [tarred(files)] if "\\" in name else [tarred(files), zipped(files)]
    for data in packed:
        archive = opened(folder, data)
        bad, good = archive.members
        assert bad.refusal is not None
        assert bad.refusal.reason == "unsafe_name"
        with pytest.raises(SourceError, match="nothing by it is taken"):
            archive.read(bad, 100)
        assert archive.read(good, 10_000) == IMAGE
        archive.close()
        found = taken("archive", data)
        assert isinstance(found[0], InvalidInputError)
        assert isinstance(found[1], Entry)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b"S"]
)
def test_links_and_devices_in_a_tar_are_refused(folder: Path, kind: bytes) -> None:
    archive = opened(folder, tar_of(member("a.png", kind, "/etc/passwd"), member("b.png")))
    assert [one.refusal and one.refusal.reason for one in archive.members] == ["link", None]
    archive.close()


def test_odd_zip_entries_are_refused(folder: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as writing:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        writing.writestr(link, "/etc/passwd")
        writing.writestr("lzma.png", IMAGE, zipfile.ZIP_LZMA)
        writing.writestr("nested.zip", b"PK")
        writing.writestr("good.png", IMAGE)
    data = bytearray(buffer.getvalue())
    archive = opened(folder, bytes(data))
    reasons = [one.refusal and one.refusal.reason for one in archive.members]
    assert reasons == ["link", "compression", "nested_archive", None]
    archive.close()
    for place in _places(data, b"PK\x01\x02"):  # the mark "encrypted" in every directory entry
        data[place + 8] |= 1
    archive = opened(folder, bytes(data))
    assert archive.members[3].refusal is not None
    assert archive.members[3].refusal.reason == "encrypted"
    archive.close()


def _places(data: bytes, mark: bytes) -> list[int]:
    return [n for n in range(len(data)) if data.startswith(mark, n)]


def test_a_name_that_is_there_twice_counts_once(folder: Path) -> None:
    for data in (
        tar_of(member("a.png"), member("./a.png")),
        zipped({"a.png": b"", "./a.png": b""}),
    ):
        archive = opened(folder, data)
        reasons = [one.refusal and one.refusal.reason for one in archive.members]
        assert reasons == [None, "name_twice"]
        archive.close()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: zipped({"a.png": bytes(64 * 2**20)}), "archive_bomb"),
        (lambda: gzip.compress(tarred({"a.png": bytes(64 * 2**20)}), 9), "archive_bomb"),
        (lambda: gzip.compress(tarred({"a": bytes(40 * 2**20)}) + b"", 1), "archive_bomb"),
        (lambda: _overlapping(), "archive_bomb"),
        (lambda: zipped({f"{n}.png": b"" for n in range(2_001)}), "too_many_entries"),
        (lambda: tarred({f"{n}.png": b"" for n in range(2_001)}), "too_many_entries"),
        (lambda: _claiming_entries(3_000), "too_many_entries"),
        (lambda: b"7z\xbc\xaf\x27\x1c" + bytes(600), "no_archive"),
        (lambda: b"hello", "no_archive"),
        (lambda: b"", "no_archive"),
        (lambda: gzip.compress(b"hello" * 1000), "no_archive"),
        (lambda: gzip.compress(tarred({"a.png": IMAGE}))[:-20], "corrupt_archive"),
        (lambda: zipped({"a.png": IMAGE})[:-30], "corrupt_archive"),
        (lambda: tarred({"a.png": IMAGE})[:1000], "corrupt_archive"),
        (lambda: tarred({"a.txt": b"x"}), "no_images"),
        (lambda: zipped({}), "no_images"),
    ],
)
def test_a_whole_archive_is_refused_before_anything_is_taken(make, reason: str) -> None:
    with pytest.raises(SourceError) as caught:
        taken("archive", make())
    assert caught.value.reason == reason, str(caught.value)


def _overlapping() -> bytes:
    """Fifty entries that share one file's bytes."""
    data = bytearray(zipped({"a.png": os.urandom(50_000)}))
    start = data.rindex(b"PK\x01\x02")
    end = data.rindex(b"PK\x05\x06")
    entry = bytes(data[start:end])
    directory = b"".join(entry.replace(b"a.png", b"%05d" % n) for n in range(50))
    tail = bytearray(data[end:])
    struct.pack_into("<HHL", tail, 8, 50, 50, len(directory))
    return bytes(data[:start]) + directory + bytes(tail)


def _claiming_entries(count: int) -> bytes:
    """A directory of very many entries, of which the end of the file tells nothing."""
    data = zipped({f"{n}": b"" for n in range(count)})
    end = data.rindex(b"PK\x05\x06")
    tail = bytearray(data[end:])
    struct.pack_into("<HH", tail, 8, 1, 1)
    return data[:end] + bytes(tail)


def test_an_extended_header_of_many_records_is_read_in_one_pass(folder: Path) -> None:
    records = b"4 a\n" * (2**20 // 4)
    header = tarfile.TarInfo("h")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    data = header.tobuf(tarfile.USTAR_FORMAT) + records + tar_of(member("a.png", size=3))
    began = time.process_time()
    assert [one.name for one in opened(folder, data).members] == ["a.png"]
    assert time.process_time() - began < 3.0  # of quadratic time it would be half a minute


def test_a_tar_header_that_claims_much_memory_gets_none(folder: Path) -> None:
    for kind in (b"L", b"x", b"K"):
        header = member("x", kind, size=2**40).tobuf(tarfile.GNU_FORMAT)
        tracemalloc.start()
        with pytest.raises(SourceError, match="limit is"):
            opened(folder, header + bytes(1024))
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_are_read_as_tarfile_writes_them(folder: Path, kind: int) -> None:
    name = "/".join(["folder-with-a-name"] * 7) + "/" + "ü" * 20 + ".png"
    archive = opened(folder, tar_of(member(name, size=5), member("b.png", size=1), kind=kind))
    assert [(one.name, one.size) for one in archive.members] == [(name, 5), ("b.png", 1)]
    archive.close()


def test_a_zip_entry_larger_than_it_says_is_refused(folder: Path) -> None:
    data = bytearray(zipped({"a.png": bytes(100_000)}))
    size = struct.pack("<L", 100_000)
    while (place := data.find(size)) >= 0:
        data[place : place + 4] = struct.pack("<L", 10)
    archive = opened(folder, bytes(data))
    with pytest.raises(SourceError) as caught:
        archive.read(archive.members[0], 50)
    assert caught.value.reason == "corrupt_archive"
    archive.close()


CASES = int(os.environ.get("FUZZ_CASES", "500"))
SEEDS = [
    zipped({"s/a/1.png": IMAGE, "s/b/2.png": picture(2), "s/x.txt": b"x"}),
    tarred({"s/a/1.png": IMAGE, "s/b/2.png": picture(2)}),
    tarred({"s/a/1.png": IMAGE, f"s/b/{'l' * 120}.png": picture(2)}, "w:gz"),
    zipped({"data.yaml": b"names: [a, b]", "images/1.png": IMAGE, "labels/1.txt": b"0 .5 .5 1 1"}),
    zipped({"a.png": IMAGE, "t.csv": b"path,label\na.png,cat\nb.png,dog\n"}),
]
KINDS_OF_SEEDS = ["archive", "archive", "archive", "yolo", "csv"]


def test_mutated_archives_give_rows_or_typed_refusals() -> None:
    """Cut, flipped, spliced, lengths replaced: never anything but rows or InvalidInputError."""
    chance = random.Random(4)
    ends = {"rows": 0, "refused": 0}
    for number in range(CASES):
        seed = number % len(SEEDS)
        data = _mutated(bytearray(SEEDS[seed]), chance)
        try:
            taken(KINDS_OF_SEEDS[seed], data)
            ends["rows"] += 1
        except InvalidInputError:
            ends["refused"] += 1
    assert min(ends.values()) > CASES / 20


def _mutated(data: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data))
        match chance.randrange(5):
            case 0:
                data[place] ^= 1 << chance.randrange(8)
            case 1:
                data[place : place + 4] = chance.choice(
                    [b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"]
                )
            case 2:
                del data[place : place + chance.randint(1, 40)]
            case 3:
                other = chance.randrange(len(data))
                data[place:place] = data[other : other + 60]
            case 4 if chance.random() < 0.3:
                del data[place:]
        if not data:
            break
    return bytes(data)


def test_tar_reading_agrees_with_tarfile(folder: Path) -> None:
    files = {f"d/{n}.bin": bytes([n]) * n * 100 for n in range(40)}
    path = folder / "x"
    path.write_bytes(tarred(files))
    with path.open("rb") as file:
        found = {r.name: b"".join(tar.pieces(file, r, 333)) for r in tar.records(file)}
    assert found == files
