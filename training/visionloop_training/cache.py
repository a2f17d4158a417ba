"""Arrays on disk, one .npy file per (kind, key, image, variant); nothing in it is ever pickled.

The key is a digest of all that decides the array's content, so an entry is never stale, only
unused. When the cache outgrows its limit, keys go that nobody has used for a day, oldest first:
losing one costs time, never correctness, and what another run is reading just now stays.

A disk that takes no more ends no run that can do without it: first the keys go that nobody has used
for a day, oldest first; then arrays stay in memory, up to MEMORY_BYTES, and are lost with the
process. Where other processes must find them on the disk (`shared`), that ends the run.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visionloop.disk_space import bytes_in_words, is_full, room_for
from visionloop.errors import CorruptError, DiskFullError, UnavailableError
from visionloop.objectstore.local import put_whole

DEFAULT_LIMIT_BYTES = 20 * 2**30
MEMORY_BYTES = 512 * 2**20  # of a key's arrays that the disk did not take
UNUSED_SECONDS = 24 * 3600.0  # after which nobody is still reading a key's arrays
_TOUCH_SECONDS = 3600.0  # a key's time is written at most so often while it is in use
SETTING = "--cache"
KINDS = ("pixels", "activations", "embeddings")
MODELS = "models"  # the folder of versions' files: models/<model>/<version>
_log = logging.getLogger(__name__)


def default_folder() -> Path:
    """Where caches go when `--cache` is not given: XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "visionloop" / "training"


def key_of(parts: dict[str, object]) -> str:
    """A digest of what decides an array's content."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class ArrayCache:
    """The arrays of one kind and key, by image digest and variant number.

    `shared`: other processes read what this one puts, so memory is no place for it.
    """

    def __init__(self, folder: Path, kind: str, key: str, *, shared: bool = False) -> None:
        self.folder = folder / kind / key
        self._root = folder
        self._shared = shared
        self._kept: dict[str, NDArray[np.generic]] = {}  # in memory, by file name
        self._kept_bytes = 0
        self._touched = time.monotonic()
        with contextlib.suppress(OSError):  # a disk that takes nothing is met by `put`
            self.folder.mkdir(parents=True, exist_ok=True)
        touch(self.folder)

    def has(self, sha256: str, variant: int = 0) -> bool:
        """Whether the array is there."""
        path = self._path(sha256, variant)
        return path.name in self._kept or path.exists()

    def get(self, sha256: str, variant: int = 0) -> NDArray[np.generic]:
        """The array. Raises CorruptError when the file is gone or torn."""
        path = self._path(sha256, variant)
        kept = self._kept.get(path.name)
        if kept is not None:
            return kept
        self._say_used()
        try:
            array: NDArray[np.generic] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CorruptError(
                f"cache: {path} cannot be read ({error}); remove {self.folder} and run again"
            ) from error
        return array

    def put(self, sha256: str, array: NDArray[np.generic], variant: int = 0) -> None:
        """Writes the array whole or not at all; keeps it in memory where the disk is full.

        Raises DiskFullError where neither will do.
        """
        self._say_used()
        path = self._path(sha256, variant)
        # Encoded here: numpy writes past Python, and its error of a full disk has no number.
        encoded = io.BytesIO()
        np.save(encoded, np.ascontiguousarray(array), allow_pickle=False)
        data = encoded.getbuffer()
        try:
            with room_for(self.folder, wanted=len(data), setting=SETTING):
                self._write(path, data)
        except DiskFullError as error:
            self._keep(path.name, array, error)
        except OSError as error:
            words = (
                f"cannot write {self.folder}: {error.strerror}; name another folder by {SETTING}"
            )
            self._keep(path.name, array, UnavailableError(words))

    def _say_used(self) -> None:
        """Now and then, for the `trim` of another run: computing may take days, too."""
        if time.monotonic() - self._touched > _TOUCH_SECONDS:
            self._touched = time.monotonic()
            touch(self.folder)

    def _write(self, path: Path, data: memoryview) -> None:
        """Makes room where there is none. Raises OSError, and leaves nothing then."""
        while True:
            try:
                put_whole(path, data)
                return
            except OSError as error:
                if not (is_full(error) and self._remove_unused()):
                    raise

    def _remove_unused(self) -> bool:
        """Frees the room of the key that was unused for longest, if there is one."""
        long_ago = time.time() - UNUSED_SECONDS
        others = [
            key
            for kind in KINDS
            for key in (self._root / kind).glob("*")
            if key != self.folder and _used(key) < long_ago
        ]
        if not others:
            return False
        oldest = min(others, key=_used)
        _log.info("the cache's disk is full: removing features unused for a day, %s", oldest)
        shutil.rmtree(oldest, ignore_errors=True)
        return not oldest.exists()

    def _keep(self, name: str, array: NDArray[np.generic], failure: UnavailableError) -> None:
        """Keeps the array in memory; raises `failure` where that will not do."""
        if self._shared or self._kept_bytes + array.nbytes > MEMORY_BYTES:
            raise failure
        if not self._kept:
            limit = bytes_in_words(MEMORY_BYTES)
            _log.warning("%s; until then features stay in memory, up to %s", failure, limit)
        self._kept[name] = array
        self._kept_bytes += array.nbytes

    def _path(self, sha256: str, variant: int) -> Path:
        return self.folder / sha256[:2] / f"{sha256}-{variant}.npy"


def touch(entry: Path) -> None:
    """Says that it is used now, so that `trim` leaves it where it is."""
    with contextlib.suppress(OSError):
        os.utime(entry)


def trim(folder: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> int:
    """Removes what was unused for longest until the rest fits; returns the bytes removed.

    What was used within a day stays, however much it is: another run may be reading it.
    """
    # Of what is kept by key or digest each is one; of models, each version of each.
    entries = [
        entry
        for kind in folder.iterdir()
        if kind.is_dir()
        for entry in kind.glob("*/*" if kind.name == MODELS else "*")
    ]
    sizes = {entry: _size(entry) for entry in entries}
    excess = sum(sizes.values()) - limit_bytes
    long_ago = time.time() - UNUSED_SECONDS
    removed = 0
    for entry in sorted(entries, key=_used):
        if removed >= excess or _used(entry) >= long_ago:
            break
        _remove(entry)
        removed += sizes[entry]
    return removed


def _remove(entry: Path) -> None:
    if entry.is_dir():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            entry.unlink()


def _size(entry: Path) -> int:
    """Bytes of a file, or of those below; what is removed meanwhile counts as nothing."""
    total = 0
    below = (Path(place, name) for place, _, names in os.walk(entry) for name in names)
    for path in below if entry.is_dir() else (entry,):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _used(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return 0.0
