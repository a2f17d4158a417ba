"""Arrays on disk, one .npy file per (kind, key, image, variant); nothing in it is ever pickled.

The key is a digest of all that decides the array's content, so an entry is never stale, only
unused. Folders of keys that were not touched for the longest time are removed when the cache
outgrows its limit: losing one costs time, never correctness.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from visionloop.errors import CorruptError

DEFAULT_LIMIT_BYTES = 20 * 2**30


def default_folder() -> Path:
    """Where caches go when `--cache` is not given: XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "visionloop" / "training"


def key_of(parts: dict[str, object]) -> str:
    """A digest of what decides an array's content."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class ArrayCache:
    """The arrays of one kind and key, by image digest and variant number."""

    def __init__(self, folder: Path, kind: str, key: str) -> None:
        self.folder = folder / kind / key
        self.folder.mkdir(parents=True, exist_ok=True)
        os.utime(self.folder)  # used now: see `trim`

    def has(self, sha256: str, variant: int = 0) -> bool:
        """Whether the array is there."""
        return self._path(sha256, variant).exists()

    def get(self, sha256: str, variant: int = 0) -> NDArray[np.generic]:
        """The array. Raises CorruptError when the file is gone or torn."""
        path = self._path(sha256, variant)
        try:
            array: NDArray[np.generic] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CorruptError(
                f"cache: {path} cannot be read ({error}); remove {self.folder} and run again"
            ) from error
        return array

    def put(self, sha256: str, array: NDArray[np.generic], variant: int = 0) -> None:
        """Writes the array whole or not at all."""
        path = self._path(sha256, variant)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)
        Path(file.name).replace(path)

    def _path(self, sha256: str, variant: int) -> Path:
        return self.folder / sha256[:2] / f"{sha256}-{variant}.npy"


def trim(folder: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> int:
    """Removes the keys unused for longest until the rest fits; returns the bytes removed."""
    keys = [
        key for kind in folder.iterdir() if kind.is_dir() for key in kind.iterdir() if key.is_dir()
    ]
    sizes = {key: _size(key) for key in keys}
    excess = sum(sizes.values()) - limit_bytes
    removed = 0
    for key in sorted(keys, key=_used):
        if removed >= excess:
            break
        shutil.rmtree(key, ignore_errors=True)
        removed += sizes[key]
    return removed


def _size(folder: Path) -> int:
    """Bytes of the files below; what another run removes or renames meanwhile counts as nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(place, name).stat().st_size
    return total


def _used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
