"""How a version comes to be: its content is fixed, its files sent and read back, then its marker.

    models/<model>/versions/<n>/claim.json      whose number it is (`version_numbers`)
    models/<model>/versions/<n>/content.json    which files it will have, put-if-absent
    models/<model>/versions/<n>/bundle.json     written last: the version is there

A number belongs to one run, but two processes may take themselves for that run: one that was
believed dead, and the one that was started in its place. Were both to send their files, those of
the slower one would replace what the faster one has proven and published. So whoever publishes says
first which files it has. Who has the very same ones may go on beside it, or after it was killed:
the same bytes under the same keys do no harm. Anybody else is refused before a byte is sent. The
price is one small object a version.
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from visionloop.bundle import Bundle
from visionloop.bundle_files import CONTENT, MARKER, check_local_files, check_names
from visionloop.disk_space import is_full
from visionloop.errors import ConflictError, DiskFullError, VisionloopError
from visionloop.failpoints import failpoint
from visionloop.objectstore import ObjectStore
from visionloop.objectstore.transfers import in_parallel
from visionloop.record import Record, Sha256, parse_record, record_bytes
from visionloop.version_files import fetch_files
from visionloop.version_numbers import VersionNumbers


class Content(Record):
    """The content of content.json: one digest of the names, sizes and digests of all files."""

    files_sha256: Sha256

    @classmethod
    def of(cls, bundle: Bundle) -> "Content":
        """What the bundle lists."""
        lines = [f"{one.sha256} {one.size} {name}\n" for name, one in sorted(bundle.files.items())]
        return cls(files_sha256=hashlib.sha256("".join(lines).encode()).hexdigest())


def publish(store: ObjectStore, numbers: VersionNumbers, bundle: Bundle, folder: Path) -> None:
    """As `ModelRepository.publish`; `numbers` are those of the bundle's model."""
    check_names(bundle)
    check_local_files(bundle, folder)
    start = numbers.folder(bundle.version)
    _check_free(numbers, bundle)
    began = _fix_content(store, start, bundle)
    try:
        in_parallel(lambda name: store.upload(folder / name, start + name), bundle.files)
        with TemporaryDirectory(prefix=".published-", dir=folder) as copy:
            fetch_files(store, start, bundle, Path(copy))
        failpoint("publish.files_uploaded")
        _mark(store, start, bundle)
    except (DiskFullError, OSError) as error:
        full = isinstance(error, DiskFullError) or is_full(error)
        # Files that another process began with may be those that it publishes just now.
        if full and began and not numbers.is_published(bundle.version):
            _take_back(store, start, bundle)
        raise


def _check_free(numbers: VersionNumbers, bundle: Bundle) -> None:
    """Raises ConflictError for a version that is there, and for another run's number.

    Looked at before the files are sent: those of a published version must stay as they are.
    """
    if numbers.is_published(bundle.version):
        raise _published(bundle)
    if not numbers.claimed(bundle.version, bundle.run_id):
        owner = numbers.owner(bundle.version)
        raise ConflictError(
            f"version {bundle.version} of model {bundle.model!r} is claimed by run {owner}, "
            f"not by {bundle.run_id}"
        )


def _fix_content(store: ObjectStore, start: str, bundle: Bundle) -> bool:
    """From now on it can have these files only. Raises ConflictError where it has others.

    Returns whether this process said so first.
    """
    ours, key = Content.of(bundle), start + CONTENT
    try:
        store.put_if_absent(key, record_bytes(ours))
    except ConflictError:
        if parse_record(Content, store.get(key).data, f"{store.url}/{key}") != ours:
            raise ConflictError(
                f"version {bundle.version} of model {bundle.model!r} is being published with other "
                f"files by another process of run {bundle.run_id}, or was until that one was "
                "killed; nothing of it was changed. Publish under a new run id, which gets a "
                "number of its own"
            ) from None
        return False
    return True


def _mark(store: ObjectStore, start: str, bundle: Bundle) -> None:
    try:
        store.put_if_absent(start + MARKER, record_bytes(bundle))
    except ConflictError:
        raise _published(bundle) from None


def _published(bundle: Bundle) -> ConflictError:
    return ConflictError(
        f"version {bundle.version} of model {bundle.model!r} is published already; versions "
        "never change. Claim a new number"
    )


def _take_back(store: ObjectStore, start: str, bundle: Bundle) -> None:
    """Frees the room of a version that never came to be, as far as that goes."""
    for name in bundle.files:  # content.json stays: others may be sending such files just now
        with suppress(VisionloopError):
            store.delete(start + name)
