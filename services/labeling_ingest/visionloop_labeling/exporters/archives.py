"""What exports with images share: bytes from the store, the list of what has no place in them."""

import csv
import hashlib
import io
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Final

from visionloop.errors import CorruptError, NotFoundError
from visionloop.objectstore import ObjectStore
from visionloop.snapshot import blob_key
from visionloop_labeling.exports import ExportedLabel

_AHEAD: Final = 8  # images in memory


def with_images(
    store: ObjectStore, labels: Iterable[ExportedLabel]
) -> Iterator[tuple[ExportedLabel, bytes]]:
    """Each label with its image, fetched ahead and verified.

    Raises CorruptError for an image that the store lost or altered.
    """
    waiting = iter(labels)
    coming: deque[tuple[ExportedLabel, Future[bytes]]] = deque()
    threads = ThreadPoolExecutor(_AHEAD, thread_name_prefix="export")
    try:
        while True:
            for label in islice(waiting, _AHEAD - len(coming)):
                coming.append((label, threads.submit(_image, store, label.sha256)))
            if not coming:
                return
            label, image = coming.popleft()
            yield label, image.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _image(store: ObjectStore, sha256: str) -> bytes:
    try:
        data = store.get(blob_key(sha256)).data
    except NotFoundError:
        raise CorruptError(f"image {sha256} is no longer in the store; restore it") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CorruptError(f"image {sha256} was altered in the store; restore it")
    return data


class NotExported:
    """Images, or parts of their labels, that the format cannot hold."""

    def __init__(self) -> None:
        self._table = io.StringIO(newline="")
        self._writer = csv.writer(self._table)
        self._writer.writerow(("sha256", "what"))
        self._any = False

    def note(self, label: ExportedLabel, what: str) -> None:
        """`what` of this image is not in the export."""
        self._writer.writerow((label.sha256, what))
        self._any = True

    def entries(self, name: str) -> Iterator[tuple[str, bytes]]:
        """The list as an entry of the archive, where it holds anything."""
        if self._any:
            yield name, self._table.getvalue().encode()
