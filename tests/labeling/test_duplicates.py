"""Fingerprints on real pictures: copies are found, others are not, groups stay small."""

import hashlib
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sqlalchemy import select
from support.photographs import photograph
from support.pictures import encoded, noise, opened, png, solar_cells

from visionloop.images import decode
from visionloop_labeling.duplicates import (
    MAX_GROUP,
    MIN_CORRELATION,
    ORIENTATIONS,
    HashIndex,
    confirm,
    fingerprint,
    pack_hash,
    unpack_hashes,
)
from visionloop_labeling.schema import ImageGroup, Item, NearDuplicate

CELLS = solar_cells()
PHOTOGRAPHS = ("flower", "china", "cat", "coffee", "coins")
COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "the same": png,
    "JPEG at quality 60": lambda image: encoded(image, "JPEG", quality=60),
    "half the size": lambda image: png(image.resize((image.width // 2, image.height // 2))),
    "brighter": lambda image: png(ImageEnhance.Brightness(image).enhance(1.15)),
    "mirrored": lambda image: png(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "upside down": lambda image: png(image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)),
    "rotated by 90°": lambda image: png(image.transpose(Image.Transpose.ROTATE_90)),
    "rotated by 180°": lambda image: png(image.transpose(Image.Transpose.ROTATE_180)),
    "rotated by 270°": lambda image: png(image.transpose(Image.Transpose.ROTATE_270)),
    "transposed": lambda image: png(image.transpose(Image.Transpose.TRANSPOSE)),
    "transversed and JPEG": lambda image: encoded(
        image.transpose(Image.Transpose.TRANSVERSE), "JPEG", quality=75
    ),
}


def index_of(*images: bytes) -> tuple[HashIndex, dict[int, bytes]]:
    index, thumbnails = HashIndex(), {}
    for key, image in enumerate(images):
        found = fingerprint(decode(image))
        assert found is not None
        index.add([key], found.hashes[:1])
        thumbnails[key] = found.thumbnail.tobytes()
    return index, thumbnails


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_finds_its_original_and_nothing_else(copy: str) -> None:
    originals = [png(opened(photograph(name)).convert("RGB")) for name in PHOTOGRAPHS]
    originals += [CELLS[number][0].read_bytes() for number in (0, 700, 1500)]
    index, thumbnails = index_of(*originals)
    for key, original in enumerate(originals):
        newcomer = fingerprint(decode(COPIES[copy](opened(original).convert("RGB"))))
        assert newcomer is not None
        found = confirm(newcomer, index.candidates(newcomer.hashes), thumbnails)
        assert [likeness.key for likeness in found] == [key]
        assert found[0].correlation >= MIN_CORRELATION


def test_hash_and_thumbnail_are_turned_alike() -> None:
    picture = decode(photograph("cat"))
    found = fingerprint(picture)
    assert found is not None
    for orientation, turn in enumerate(ORIENTATIONS):
        turned = np.ascontiguousarray(np.stack([turn(picture[..., c]) for c in range(3)], axis=-1))
        again = fingerprint(turned)
        assert again is not None
        # What the original predicts for this orientation is what the turned picture has.
        assert int(found.hashes[orientation] ^ again.hashes[0]).bit_count() <= 2


def test_tiny_and_flat_images_have_no_fingerprint() -> None:
    assert fingerprint(np.zeros((31, 400, 3), dtype=np.uint8)) is None
    assert fingerprint(np.full((64, 64, 3), 128, dtype=np.uint8)) is None


def test_index_keeps_all_hashes_while_it_grows() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 3000, dtype=np.uint64)
    index = HashIndex()
    for start in range(0, 3000, 700):
        part = hashes[start : start + 700]
        index.add(range(start, start + len(part)), part)
    assert len(index) == 3000
    for key in (0, 1023, 1024, 2999):
        assert index.candidates(np.repeat(hashes[key], 8))[0] == (key, 0, 0)
    flipped = hashes[5] ^ np.uint64(0b1011)
    assert index.candidates(np.repeat(flipped, 8))[0] == (5, 3, 0)


def test_hashes_are_stored_and_read_alike() -> None:
    hashes = np.random.default_rng(1).integers(0, 2**64, 20, dtype=np.uint64)
    assert (unpack_hashes([pack_hash(value) for value in hashes]) == hashes).all()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_groups_of_solar_cells_stay_small_and_no_pair_crosses_a_snapshot(core) -> None:
    """The stretch of the real cells where likeness chains most; every pair is accounted for."""
    chosen = CELLS[1140:1370]
    receipts = core.submit_all(
        (path.read_bytes(), "defective" if defect >= 0.5 else "intact")
        for path, defect, _ in chosen
    )
    assert {receipt.outcome for receipt in receipts} == {"accepted"}
    with core.database.read() as session:
        sizes = Counter(session.scalars(select(Item.group_id)))
        stored = dict(session.execute(select(ImageGroup.id, ImageGroup.size)).tuples().all())
        pairs = session.execute(select(NearDuplicate.later_id, NearDuplicate.earlier_id)).all()
        digests = dict(session.execute(select(Item.id, Item.sha256)).tuples().all())
    assert stored == dict(sizes)
    assert _largest_chain(pairs) > 2 * MAX_GROUP  # or the cap is not put to the test
    assert 1 < max(sizes.values()) <= MAX_GROUP

    cut = core.cut()
    rows = {row.sha256: row for row in core.rows(cut)}
    assert len(rows) + cut.left_out["shows_the_same"] == len(chosen)
    assert len(rows) > 0.85 * len(chosen)
    for later, earlier in pairs:
        together = {rows[one].split for one in (digests[later], digests[earlier]) if one in rows}
        assert len(together) < 2


def test_a_group_is_full_at_its_limit(core) -> None:
    """Small changes of one photograph are all alike; the cap still holds."""
    flower = opened(photograph("flower")).resize((160, 107))
    receipts = core.submit_all(
        (encoded(flower, "JPEG", quality=40 + number), "flower") for number in range(MAX_GROUP + 6)
    )
    assert len({receipt.sha256 for receipt in receipts}) == MAX_GROUP + 6
    with core.database.read() as session:
        sizes = sorted(Counter(session.scalars(select(Item.group_id))).values())
    assert sizes == [6, MAX_GROUP]


def _largest_chain(pairs) -> int:
    root: dict[int, int] = {}

    def find(one: int) -> int:
        while root.setdefault(one, one) != one:
            one = root[one]
        return one

    for first, second in pairs:
        root[find(first)] = find(second)
    return max(Counter(find(one) for one in list(root)).values())


def test_no_likeness_is_missed_for_the_company_it_is_in(core, monkeypatch) -> None:
    monkeypatch.setattr("visionloop_labeling.neighbours._PAGE", 2)
    original = opened(noise(1, side=64))
    copies = [png(original, compress_level=level) for level in range(5)]
    spotted = original.copy()
    spotted.putpixel((1, 1), (0, 0, 0))
    for copy in copies:
        core.add(copy)
    newcomer = core.add(png(spotted))
    with core.database.read() as session:
        item = session.scalar(select(Item.id).where(Item.sha256 == newcomer.sha256))
        edges = session.scalars(select(NearDuplicate).where(NearDuplicate.later_id == item)).all()
    assert len(edges) == len({hashlib.sha256(copy).hexdigest() for copy in copies}) >= 3
    index = HashIndex()
    index.add(range(2000), np.zeros(2000, np.uint64))
    assert len(index.candidates(np.zeros(8, np.uint64))) == 2000
