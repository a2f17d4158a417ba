"""The store in a folder: what a laptop uses, and a cluster with one shared file system.

Every write is a new file under `.visionloop/unfinished/` that is synced and then renamed (or, for
put-if-absent, hard-linked) to its key: readers see the old object or the new one, and a killed
writer leaves nothing that a listing shows. Writers of one key take turns through a lock file, which
is what makes compare-and-swap atomic between processes; readers never lock. The price: two fsyncs
a write, hard links needed, and no object may be named like another one's folder (`a` and `a/b`).

An etag names one write (inode, time in ns, size), so stat and list never read contents; each write
of a key gets a later time than the one it replaces, even within one tick of the clock.
Symbolic links below the root are never followed.
"""

import errno
import fcntl
import hashlib
import os
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from visionloop.disk_space import room_for
from visionloop.errors import (
    ConfigurationError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    VisionloopError,
)
from visionloop.objectstore.base import ObjectStat, StoredObject
from visionloop.objectstore.keys import RESERVED_NAME, check_key, check_prefix
from visionloop.objectstore.local import (
    CHUNK_BYTES,
    check_content,
    remove_abandoned,
    sync_folder,
    written_whole,
)
from visionloop.objectstore.probe import probe_conditional_writes


class FileStore:
    """An ObjectStore in `root`, which is made when it is missing."""

    def __init__(self, root: Path) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._root = root.resolve(strict=True)
        except (FileExistsError, NotADirectoryError):
            raise ConfigurationError(
                f"file://{root}: a file is in the way; a store is a folder", field="store"
            ) from None
        except OSError as error:
            raise _translated(error, f"cannot make the folder {root} of the store") from error
        self._unfinished = self._root / RESERVED_NAME / "unfinished"
        self._locks = self._root / RESERVED_NAME / "locks"
        remove_abandoned(self._unfinished.glob("*"))

    @property
    def url(self) -> str:
        return f"file://{quote(str(self._root))}"

    def get(self, key: str) -> StoredObject:
        with self._open(key) as file:
            return StoredObject(key, file.read(), _etag(os.fstat(file.fileno())))

    def put(self, key: str, data: bytes) -> str:
        with (
            self._writing(key, len(data)) as path,
            self._new_file(data) as (new, file),
            self._lock(key),
        ):
            return self._replace(new, file, path)

    def put_if_absent(self, key: str, data: bytes) -> str:
        with self._writing(key, len(data)) as path, self._new_file(data) as (new, file):
            etag = _etag(os.fstat(file.fileno()))
            try:
                path.hardlink_to(new)  # atomic: fails when the name is taken, no window
            except FileExistsError:
                # Callers take this for "it is there, for good": its writer may not be so far yet.
                sync_folder(path.parent)
                raise ConflictError(f"{self.url}/{key} exists already") from None
            except PermissionError as error:
                if error.errno == errno.EPERM:  # Linux's word for "this file system has no links"
                    raise OSError(errno.EOPNOTSUPP, "no hard links here") from error
                raise
            sync_folder(path.parent)
            return etag

    def compare_and_swap(self, key: str, data: bytes, etag: str | None) -> str:
        if etag is None:
            return self.put_if_absent(key, data)
        with (
            self._writing(key, len(data)) as path,
            self._new_file(data) as (new, file),
            self._lock(key),
        ):
            try:
                current = _etag(path.lstat())
            except FileNotFoundError:
                raise ConflictError(f"{self.url}/{key} went away since it was read") from None
            if current != etag:
                raise ConflictError(f"{self.url}/{key} changed since it was read")
            return self._replace(new, file, path)

    def stat(self, key: str) -> ObjectStat:
        path = self._path(key)
        with _translating(f"{self.url}/{key}"):
            return _object_stat(key, _status(path))

    def list(self, prefix: str = "") -> Iterator[ObjectStat]:
        folder = check_prefix(prefix).rpartition("/")[0]
        path = self._path(f"{folder}/_").parent if folder else self._root
        yield from self._walk(path, f"{folder}/" if folder else "", prefix)

    def list_folders(self, prefix: str) -> Iterator[str]:
        if prefix and not check_prefix(prefix).endswith("/"):
            raise InvalidInputError(f"prefix {prefix!r} must end in /", field="prefix")
        folder = self._path(f"{prefix}_").parent
        for entry in _entries(folder):
            if entry.is_dir(follow_symlinks=False) and any(
                self._walk(Path(entry.path), f"{prefix}{entry.name}/", "")
            ):
                yield entry.name

    def download(self, key: str, path: Path, *, sha256: str | None, size: int | None = None) -> str:
        digest = hashlib.sha256()
        count = 0
        with (
            self._open(key) as source,
            _translating(f"{path}"),
            written_whole(path, size) as target,
        ):
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                count += len(chunk)
                target.write(chunk)
            check_content(
                f"{self.url}/{key}",
                size=count,
                sha256=digest.hexdigest(),
                expected_size=size,
                expected_sha256=sha256,
            )
        return digest.hexdigest()

    def upload(self, path: Path, key: str) -> str:
        try:
            source = path.open("rb")
        except FileNotFoundError:
            raise NotFoundError(f"{path} is not there") from None
        with (
            source,
            self._writing(key, os.fstat(source.fileno()).st_size) as target,
            self._new_file(source) as (new, file),
            self._lock(key),
        ):
            return self._replace(new, file, target)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _translating(f"{self.url}/{key}"):
            if not path.parent.is_dir():
                return
            with self._lock(key):
                path.unlink(missing_ok=True)

    def probe(self, folder: str = "") -> None:
        probe_conditional_writes(self, folder)

    def _path(self, key: str) -> Path:
        """The file of a key. Raises PermissionDeniedError when a symbolic link is on the way."""
        path = self._root / check_key(key)
        if self._leads_away(key):
            raise PermissionDeniedError(
                f"{self.url}/{key} leads through a symbolic link; links in a store are not followed"
            )
        return path

    def _leads_away(self, key: str) -> bool:
        """Whether a folder of the key, or its file, is a symbolic link."""
        path = str(self._root)
        for name in key.split("/"):
            path = f"{path}/{name}"
            try:
                if stat.S_ISLNK(os.lstat(path).st_mode):
                    return True
            except OSError:
                return False  # nothing is there, or whoever opens it will be told what is
        return False

    @contextmanager
    def _open(self, key: str) -> Iterator[BinaryIO]:
        path = self._path(key)
        with _translating(f"{self.url}/{key}"):
            _status(path)
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                yield file

    @contextmanager
    def _writing(self, key: str, size: int) -> Iterator[Path]:
        """The path of a key whose folder is there, and the errors of the file system in words.

        `size` in bytes is what will be written.
        """
        path = self._path(key)
        with (
            _translating(f"{self.url}/{key}"),
            room_for(path, wanted=size, setting="--store"),
        ):
            self._make_folder(path.parent)
            try:
                yield path
            except IsADirectoryError:
                raise FileExistsError(errno.EEXIST, "other objects have it as folder") from None

    @contextmanager
    def _new_file(self, content: bytes | BinaryIO) -> Iterator[tuple[Path, BinaryIO]]:
        """A synced file that no listing shows; gone when the block ends, unless it was renamed."""
        self._make_folder(self._unfinished)
        new = self._unfinished / uuid.uuid4().hex
        try:
            with new.open("xb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    while chunk := content.read(CHUNK_BYTES):
                        file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
                yield new, file
        finally:
            new.unlink(missing_ok=True)

    def _replace(self, new: Path, file: BinaryIO, path: Path) -> str:
        """Renames `new` to `path` under the key's lock, with a later time than what it replaces."""
        try:
            earliest = path.lstat().st_mtime_ns + 1
        except FileNotFoundError:
            earliest = 0
        written = max(time.time_ns(), earliest)
        os.utime(file.fileno(), ns=(written, written))
        etag = _etag(os.fstat(file.fileno()))
        new.replace(path)
        sync_folder(path.parent)
        return etag

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        """One writer at a time, over threads and processes; the kernel frees it when one dies.

        256 lock files serve all keys: two keys may share one, and only wait for one another. flock
        belongs to the open file, so threads of one process exclude each other as well.
        """
        self._make_folder(self._locks)
        shard = hashlib.sha256(key.encode()).hexdigest()[:2]
        with (self._locks / shard).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # By name: closing alone frees nothing while a child lives that was forked meanwhile
                fcntl.flock(file, fcntl.LOCK_UN)

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)

    def _walk(self, folder: Path, start: str, prefix: str) -> Iterator[ObjectStat]:
        """Objects below `folder`, whose keys begin with `start`, in the byte order of keys."""
        for entry in _entries(folder):
            key = start + entry.name
            if entry.is_dir(follow_symlinks=False):
                if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                    yield from self._walk(Path(entry.path), f"{key}/", prefix)
            elif entry.is_file(follow_symlinks=False) and key.startswith(prefix):
                try:
                    yield _object_stat(key, entry.stat(follow_symlinks=False))
                except FileNotFoundError:
                    continue  # deleted while we were listing


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    """What a folder holds, in the order of keys; nothing when it went away."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if e.name != RESERVED_NAME), key=_order)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _translated(error, f"cannot list {folder}") from error


def _order(entry: "os.DirEntry[str]") -> bytes:
    """Sorts a folder where its keys belong: `a-b` comes before `a/b`, as in S3."""
    return os.fsencode(entry.name) + (b"/" if entry.is_dir(follow_symlinks=False) else b"")


def _status(path: Path) -> os.stat_result:
    """The status of an object's file; what is not a plain file is no object."""
    try:
        status = path.lstat()
    except NotADirectoryError:
        raise FileNotFoundError(errno.ENOENT, "no such file") from None
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError(errno.ENOENT, "no plain file")
    return status


def _etag(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


def _object_stat(key: str, status: os.stat_result) -> ObjectStat:
    modified = datetime.fromtimestamp(status.st_mtime, UTC)
    return ObjectStat(key, status.st_size, _etag(status), modified)


@contextmanager
def _translating(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _translated(error, what) from error


def _translated(error: OSError, what: str) -> VisionloopError:
    reason = error.strerror or type(error).__name__
    match error:
        case FileNotFoundError():
            return NotFoundError(f"{what} is not there")
        case PermissionError():
            return PermissionDeniedError(
                f"{what}: {reason}; check owner and mode of the folder (user id {os.geteuid()})"
            )
        case FileExistsError() | NotADirectoryError():
            return InvalidInputError(
                f"{what}: an object and a folder cannot share one name ({reason})", field="key"
            )
    if error.errno in (errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK, errno.ENOSYS):
        return ConfigurationError(
            f"{what}: {reason}; the store needs one file system that has hard links", field="store"
        )
    return UnavailableError(f"{what}: {reason}; check the disk and the mount")
