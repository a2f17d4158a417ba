"""The stored renditions of images: found, or made on the first look and kept.

A rendition is named by its recipe and the digest of its image, so it never changes and may be
cached for ever; it may be deleted at any time and is made again. Making one is a decode in a worker
process (see `inspectors`): 10 to 150 ms for the first who looks. Ingest does not make them, because
most images of a large import are never looked at.
"""

from typing import Final

from sqlalchemy import select

from visionloop.errors import ConflictError, CorruptError, NotFoundError
from visionloop.failpoints import failpoint
from visionloop.objectstore import ObjectStore
from visionloop.snapshot import blob_key
from visionloop.telemetry import labeling as metrics
from visionloop_labeling import datasets, validation
from visionloop_labeling.database import Database
from visionloop_labeling.inspectors import Inspector
from visionloop_labeling.renditions import Recipe
from visionloop_labeling.schema import Item

FOLDER: Final = "derived/"


def preview_key(sha256: str, recipe: Recipe) -> str:
    """Where the rendition of an image is stored. `sha256` has been validated."""
    return f"{FOLDER}{recipe.name}/{sha256[:2]}/{sha256[2:4]}/{sha256}.webp"


class Previews:
    """The previews of one program. Safe to use from several threads."""

    def __init__(self, database: Database, store: ObjectStore, inspector: Inspector) -> None:
        self._database = database
        self._store = store
        self._inspector = inspector

    def check(self, dataset: str, sha256: str) -> str:
        """The digest in its canonical spelling. Raises NotFoundError if the dataset lacks it."""
        digest = validation.sha256(sha256)
        with self._database.read() as session:
            found = datasets.find(session, validation.dataset_name(dataset))
            query = select(Item.id).where(Item.dataset_id == found.id, Item.sha256 == digest)
            if session.scalar(query) is None:
                raise NotFoundError(f'dataset "{dataset}" has no image {digest}')
        return digest

    def stored(self, sha256: str, recipe: Recipe) -> bytes | None:
        """The rendition of an image that `check` has found, as WebP; None where none is kept.

        Raises UnavailableError.
        """
        try:
            data = self._store.get(preview_key(sha256, recipe)).data
        except NotFoundError:
            return None
        metrics.PREVIEWS.labels("stored").inc()
        return data

    def make(self, sha256: str, recipe: Recipe) -> bytes:
        """The same, made and kept.

        Raises CorruptError when the store has lost the image or its bytes cannot be decoded any
        more, and UnavailableError.
        """
        key = preview_key(sha256, recipe)
        try:
            image = self._store.get(blob_key(sha256)).data
        except NotFoundError as error:
            metrics.PREVIEWS.labels("refused").inc()
            raise CorruptError(
                f"the store has lost the bytes of image {sha256}; send the image again"
            ) from error
        rendition = self._inspector.preview(image, recipe)
        failpoint("preview.rendered")
        try:
            self._store.put_if_absent(key, rendition)
        except ConflictError:
            pass  # somebody looked at the same moment
        failpoint("preview.stored")
        metrics.PREVIEWS.labels("rendered").inc()
        return rendition
