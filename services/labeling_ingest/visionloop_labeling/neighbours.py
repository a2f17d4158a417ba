"""The near duplicates of a newcomer among a dataset's images, in step with the database.

The hashes of committed images are kept in memory and caught up at the start of each transaction by
their position, so another replica's images are seen as soon as they are committed. What a
transaction has not committed yet lives in an overlay of its own and dies with it.
"""

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from sqlalchemy import select
from sqlalchemy.orm import Session

from visionloop_labeling.duplicates import (
    Fingerprint,
    HashIndex,
    Likeness,
    confirm,
    unpack_hashes,
)
from visionloop_labeling.schema import Blob, Dataset, Item

Candidate: TypeAlias = tuple[int, int, int]  # key, distance, orientation
_PAGE: Final = 512  # candidates whose thumbnails are in memory at once: 10 MB


class Neighbourhood:
    """One transaction's view of a dataset's fingerprints."""

    def __init__(self, session: Session, committed: HashIndex) -> None:
        self._session = session
        self._committed = committed
        self._overlay = HashIndex()
        self._thumbnails: dict[int, bytes] = {}  # of the images in the overlay

    def alike(self, newcomer: Fingerprint) -> list[Likeness]:
        """The near duplicates, most alike first; keys are item ids."""
        found = self._committed.candidates(newcomer.hashes)
        found += self._overlay.candidates(newcomer.hashes)
        alike = [one for page in _pages(found) for one in self._confirmed(newcomer, page)]
        return sorted(alike, key=lambda found: (-found.correlation, found.key))

    def _confirmed(self, newcomer: Fingerprint, found: Sequence[Candidate]) -> list[Likeness]:
        keys = [key for key, _, _ in found]
        thumbnails = {key: self._thumbnails[key] for key in keys if key in self._thumbnails}
        if stored := [key for key in keys if key not in thumbnails]:
            query = (
                select(Item.id, Blob.thumbnail)
                .join(Blob, Blob.sha256 == Item.sha256)
                .where(Item.id.in_(stored))
            )
            thumbnails.update(self._session.execute(query).tuples().all())
        return confirm(newcomer, found, thumbnails)

    def add(self, item_id: int, fingerprint: Fingerprint) -> None:
        """Makes an image of this transaction known to the rows after it."""
        self._overlay.add([item_id], fingerprint.hashes[:1])
        self._thumbnails[item_id] = fingerprint.thumbnail.tobytes()


class Neighbours:
    """The hashes of all datasets' committed images. Callers hold the dataset's lock."""

    def __init__(self) -> None:
        self._indexes: dict[int, tuple[HashIndex, int]] = {}

    def of(self, session: Session, dataset: Dataset) -> Neighbourhood:
        """The dataset's neighbourhood, caught up with what has been committed."""
        index, position = self._indexes.get(dataset.id, (HashIndex(), 0))
        query = (
            select(Item.id, Blob.phash)
            .join(Blob, Blob.sha256 == Item.sha256)
            .where(Item.dataset_id == dataset.id, Item.position > position, Blob.phash != b"")
        )
        rows = session.execute(query).tuples().all()
        if rows:
            index.add([item for item, _ in rows], unpack_hashes([phash for _, phash in rows]))
        self._indexes[dataset.id] = (index, dataset.last_position)
        return Neighbourhood(session, index)


def _pages(found: Sequence[Candidate]) -> Iterator[Sequence[Candidate]]:
    for start in range(0, len(found), _PAGE):
        yield found[start : start + _PAGE]
