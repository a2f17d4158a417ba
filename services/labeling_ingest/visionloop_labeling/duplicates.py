"""Which images show the same: fingerprints, and the search among a dataset's images.

Three kinds of equal: the same bytes (sha256: one item), the same pixels (another file: an item of
its own in the same group), and alike. Alike means a 64-bit pHash within `MAX_DISTANCE` bits in one
of the eight ways to turn and mirror a picture, confirmed by a correlation of at least
`MIN_CORRELATION` between 64×64 gray thumbnails in that orientation. All eight hashes come from one
DCT: a mirrored image has the odd coefficients negated, a transposed one has them transposed.

Why both: on the 2,624 solar cells of the demo the hash alone chains hundreds into one group. Even
confirmed, pictures of things built alike (clean cells of one module) chain into groups of about 90,
so a group takes no more than `MAX_GROUP` images that way; what is left outside keeps its edge, and
a snapshot never lets two images joined by an edge stand in different splits (see `snapshots`).

The search is a linear scan over hashes in memory, 8 bytes an image: for all eight orientations
0.5 ms among 100,000 images, 18 ms among a million. Every candidate is confirmed, so no likeness is
missed for the company it is in: 10 ms for 512 of them. A fingerprint takes 0.3 ms and 4 KB in the
database. Not found: crops of more than a few per cent, and anything semantic.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_DISTANCE: Final = 8  # bits of 64
MIN_CORRELATION: Final = 0.98
MAX_GROUP: Final = 24  # images joined by likeness; under 1 % of the demo's 2,624
THUMBNAIL_SIDE: Final = 64
MIN_SIDE: Final = 32  # below, there are fewer pixels than the DCT wants: only equal pixels count
MIN_CONTRAST: Final = 2.0  # standard deviation in gray levels; below, the hash is noise

_DCT_SIDE = 32
_HASH_SIDE = 8

Thumbnail = NDArray[np.uint8]  # (64, 64) gray


def _orientations() -> tuple[Callable[[Thumbnail], Thumbnail], ...]:
    turns: list[Callable[[Thumbnail], Thumbnail]] = [
        lambda image: image,
        lambda image: image[:, ::-1],
        lambda image: image[::-1],
        lambda image: image[::-1, ::-1],
    ]
    transposed: list[Callable[[Thumbnail], Thumbnail]] = [
        lambda image: image.T,
        lambda image: image.T[:, ::-1],
        lambda image: image.T[::-1],
        lambda image: image.T[::-1, ::-1],
    ]
    return tuple(turns + transposed)


# What `Fingerprint.hashes[i]` is the hash of: the i-th function applied to the image.
ORIENTATIONS: Final = _orientations()


class DuplicateKind(StrEnum):
    """How an image equals an earlier one; the first that holds."""

    EXACT = "exact"  # the same bytes
    PIXELS = "pixels"
    NEAR = "near"


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """What an image is recognised by. `hashes` (8,) uint64, one an orientation."""

    hashes: NDArray[np.uint64]
    thumbnail: Thumbnail


@dataclass(frozen=True, slots=True)
class Likeness:
    """An earlier image that shows the same. `key` is what the index was given for it."""

    key: int
    distance: int  # bits
    correlation: float
    orientation: int  # index into ORIENTATIONS


def _dct_matrix() -> NDArray[np.float32]:
    columns = np.arange(_DCT_SIDE)
    rows = np.arange(_HASH_SIDE)[:, None]
    cosines = np.cos(np.pi * (2 * columns + 1) * rows / (2 * _DCT_SIDE))
    return cosines.astype(np.float32)  # (8, 32)


_DCT = _dct_matrix()
_ODD_COLUMNS = np.where(np.arange(_HASH_SIDE) % 2, -1, 1).astype(np.float32)[None, :]
_ODD_ROWS = _ODD_COLUMNS.T


def fingerprint(pixels: NDArray[np.uint8]) -> Fingerprint | None:
    """The fingerprint of RGB pixels (height, width, 3), or None for a tiny or a flat image."""
    return fingerprint_of(Image.fromarray(pixels))


def fingerprint_of(picture: Image.Image) -> Fingerprint | None:
    """The same of an RGB picture."""
    if min(picture.size) < MIN_SIDE:
        return None
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    small = picture.resize(side, Image.Resampling.BOX).convert("L")
    thumbnail = np.asarray(small)
    if thumbnail.std() < MIN_CONTRAST:
        return None
    return Fingerprint(_hashes(thumbnail), thumbnail)


def _hashes(thumbnail: Thumbnail) -> NDArray[np.uint64]:
    fold = THUMBNAIL_SIDE // _DCT_SIDE
    gray = thumbnail.reshape(_DCT_SIDE, fold, _DCT_SIDE, fold).mean(axis=(1, 3), dtype=np.float32)
    spectrum = _DCT @ gray @ _DCT.T  # (8, 8), low frequencies
    turned = [
        block * columns * rows
        for block in (spectrum, spectrum.T)
        for rows, columns in (
            (1, 1),
            (1, _ODD_COLUMNS),
            (_ODD_ROWS, 1),
            (_ODD_ROWS, _ODD_COLUMNS),
        )
    ]
    coefficients = np.stack(turned).reshape(8, 64)
    # The first coefficient is the mean brightness, far above the rest: not part of the median.
    median = np.median(coefficients[:, 1:], axis=1, keepdims=True)
    return np.packbits(coefficients > median, axis=1).view(">u8").astype(np.uint64).ravel()


def pack_hash(value: np.uint64) -> bytes:
    """A hash as it is stored: 8 bytes, big-endian."""
    return int(value).to_bytes(8, "big")


def unpack_hashes(stored: Sequence[bytes]) -> NDArray[np.uint64]:
    """Stored hashes (n × 8 bytes) as an array (n,)."""
    return np.frombuffer(b"".join(stored), dtype=">u8").astype(np.uint64)


class HashIndex:
    """The hashes of one dataset's images in memory, each under an integer key. Not thread-safe."""

    def __init__(self) -> None:
        self._hashes = np.empty(1024, dtype=np.uint64)
        self._keys = np.empty(1024, dtype=np.int64)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, keys: Sequence[int], hashes: NDArray[np.uint64]) -> None:
        """Adds images; `hashes` (n,) are of the images as they stand."""
        size = self._size + len(keys)
        if size > len(self._keys):
            room = max(size, 2 * len(self._keys))
            self._hashes = np.resize(self._hashes, room)
            self._keys = np.resize(self._keys, room)
        self._hashes[self._size : size] = hashes
        self._keys[self._size : size] = keys
        self._size = size

    def candidates(self, hashes: NDArray[np.uint64]) -> list[tuple[int, int, int]]:
        """(key, distance, orientation) of the images within MAX_DISTANCE, nearest first.

        `hashes` (8,) are the newcomer's. Of pictures of things built alike there may be thousands.
        """
        if not self._size:
            return []
        known = self._hashes[: self._size]
        distances = np.bitwise_count(known ^ hashes[:, None])  # (8, n) uint8
        if distances.min() > MAX_DISTANCE:  # as with most images
            return []
        nearest = distances.min(axis=0)
        found = np.flatnonzero(nearest <= MAX_DISTANCE)
        found = found[np.argsort(nearest[found], kind="stable")]
        orientations = distances[:, found].argmin(axis=0)
        return [
            (int(self._keys[at]), int(nearest[at]), int(orientation))
            for at, orientation in zip(found, orientations, strict=True)
        ]


def confirm(
    newcomer: Fingerprint,
    candidates: Sequence[tuple[int, int, int]],
    thumbnails: dict[int, bytes],
) -> list[Likeness]:
    """Of the candidates, those whose stored thumbnail correlates; most alike first."""
    if not candidates:
        return []
    packed = b"".join(thumbnails[key] for key, _, _ in candidates)
    known = _centred(np.frombuffer(packed, np.uint8).reshape(len(candidates), -1))  # (n, 4096)
    lengths = np.sqrt(np.einsum("np,np->n", known, known))
    orientations = np.array([orientation for _, _, orientation in candidates])
    likenesses = np.zeros(len(candidates))
    for orientation in np.unique(orientations):
        ours = _centred(ORIENTATIONS[orientation](newcomer.thumbnail).reshape(1, -1))[0]
        rows = np.flatnonzero(orientations == orientation)
        norms = lengths[rows] * np.sqrt(ours @ ours)
        likenesses[rows] = (known[rows] @ ours) / np.where(norms > 0, norms, np.inf)
    alike = [
        Likeness(key, distance, float(likeness), orientation)
        for (key, distance, orientation), likeness in zip(candidates, likenesses, strict=True)
        if likeness >= MIN_CORRELATION
    ]
    return sorted(alike, key=lambda found: (-found.correlation, found.key))


def _centred(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, 4096), each of mean 0."""
    values = thumbnails.astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    return values
