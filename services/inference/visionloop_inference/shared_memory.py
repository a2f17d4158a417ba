"""The system shared memory extension: tensors in POSIX shared memory that a client owns.

A client on the same machine registers an object under a name and sends names instead of tensors.
Objects are read and written by pread and pwrite, never mapped: a client can cut its object short at
any moment, and touching a mapped page that is gone kills the process, while a read just comes back
short. The price is 10 us for 150 kB where a mapping takes 2 (47 and 7 for 600 kB); the same bytes
in a message cost 200 and more.

Off unless the server is told otherwise: whoever may register can have this process read and write
any object under /dev/shm that its user may open. Keys are plain names there, links are not
followed, and every access stays within what was registered and what the object still holds.

With several front ends each holds the same regions: `changed` tells the others, and comes back once
they know, so that a region is good wherever the next request arrives.
"""

import contextlib
import os
import stat
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from visionloop.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    UnimplementedError,
)
from visionloop_inference.datatypes import Buffer

FOLDER = Path("/dev/shm")  # noqa: S108 — where POSIX shared memory is
MAX_REGIONS = 256  # each is an open file
MAX_NAME = 255
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


@dataclass(frozen=True, slots=True)
class Region:
    """What a client registered: bytes offset..offset + size of the object `key`, called `name`."""

    name: str
    key: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Change:
    """A region that was added, or one that was removed ("": all of them), or nothing."""

    added: Region | None = None
    removed: str | None = None


Changed = Callable[[Change], Awaitable[None]]


class Regions:
    """The registered regions of this process."""

    def __init__(self, changed: Changed | None = None) -> None:
        self._open: dict[str, tuple[Region, int]] = {}  # and its descriptor
        self._changed = changed

    async def register(self, name: str, key: str, offset: int, size: int) -> None:
        """Raises ConflictError for a name in use, InvalidInputError, NotFoundError and
        PermissionDeniedError for an object that cannot be used so."""
        region = Region(name, key, offset, size)
        self.add(region)
        try:
            await self._tell(Change(added=region))
        except BaseException:
            if self._open.get(name, (None,))[0] is region:  # and not somebody else's by now
                self.remove(name)
            raise

    async def unregister(self, name: str) -> None:
        """Forgets a region; "" is all of them. One that is not there is none the less forgotten."""
        self.remove(name)
        await self._tell(Change(removed=name))

    async def catch_up(self, names: Iterable[str]) -> None:
        """Makes sure that these are not merely on their way from another front end.

        The channel keeps its order: an answer comes after all that was said before.
        """
        if any(name not in self._open for name in names):
            await self._tell(Change())

    async def _tell(self, change: Change) -> None:
        if self._changed is not None:
            await self._changed(change)

    def status(self, name: str) -> list[Region]:
        """The region of this name; "" is all. Raises NotFoundError."""
        if not name:
            return [region for region, _ in self._open.values()]
        return [self._find(name)[0]]

    # What another process was told.

    def add(self, region: Region) -> None:
        """Takes a region up. Raises as `register` does."""
        _check(region)
        if region.name in self._open:
            raise ConflictError(
                f"shared memory region {region.name!r} is registered already; unregister it first"
            )
        if len(self._open) >= MAX_REGIONS:
            raise InvalidInputError(
                f"{MAX_REGIONS} regions of shared memory are registered, which is the limit; "
                "unregister some",
                field="name",
            )
        self._open[region.name] = (region, _opened(region))

    def remove(self, name: str) -> None:
        """Forgets the region of this name; "" is all."""
        for gone in [name] if name else list(self._open):
            if gone in self._open:
                os.close(self._open.pop(gone)[1])

    def replace(self, regions: Iterable[Region]) -> None:
        """These are the regions now. Those that are open stay so; one whose object is gone by now
        is left out."""
        wanted = {region.name: region for region in regions}
        for region, _ in tuple(self._open.values()):
            if wanted.get(region.name) == region:
                del wanted[region.name]
            else:
                self.remove(region.name)
        for region in wanted.values():
            with contextlib.suppress(NotFoundError, InvalidInputError, PermissionDeniedError):
                self.add(region)

    # What requests do.

    def read(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes at `offset` of a region. Raises NotFoundError, and InvalidInputError for
        what the region, or its object by now, does not hold."""
        region, fd = self._within(name, offset, size)
        data = os.pread(fd, size, region.offset + offset)
        if len(data) != size:
            raise _cut_short(region, region.offset + offset + len(data))
        return data

    def write(self, name: str, offset: int, data: Buffer) -> None:
        """Puts bytes at `offset` of a region. Raises as `read` does."""
        region, fd = self._within(name, offset, len(data))
        place = region.offset + offset
        there = os.fstat(fd).st_size
        if place + len(data) > there:  # writing would make the object longer
            raise _cut_short(region, there)
        try:
            written = os.pwrite(fd, data, place)
        except OSError as error:
            raise InvalidInputError(
                f"shared memory region {name!r} cannot be written: {error.strerror}",
                field="shared_memory_region",
            ) from error
        if written != len(data):
            raise InvalidInputError(
                f"shared memory region {name!r} took {written} of {len(data)} bytes: the machine's "
                "shared memory is full",
                field="shared_memory_region",
            )

    def _within(self, name: str, offset: int, size: int) -> tuple[Region, int]:
        region, fd = self._find(name)
        if offset < 0 or size < 0 or offset + size > region.size:
            raise InvalidInputError(
                f"{size} bytes at offset {offset} go beyond the shared memory region {name!r} of "
                f"{region.size} bytes",
                field="shared_memory_byte_size",
            )
        return region, fd

    def _find(self, name: str) -> tuple[Region, int]:
        found = self._open.get(name)
        if found is None:
            raise NotFoundError(f"no shared memory region {name[:100]!r} is registered")
        return found

    def close(self) -> None:
        self.remove("")


def no_shared_memory() -> UnimplementedError:
    """The answer of a server that was not told to offer it."""
    return UnimplementedError(
        "shared memory is not offered by this server; it is opened by --shared-memory at start"
    )


def _check(region: Region) -> None:
    if not 1 <= len(region.name) <= MAX_NAME:
        raise InvalidInputError(
            f"name is {len(region.name)} characters long; it must be 1 to {MAX_NAME}", field="name"
        )
    key = region.key.removeprefix("/")
    plain = key not in ("", ".", "..") and "/" not in key and "\0" not in key
    if not plain or len(key.encode(errors="replace")) > MAX_NAME:
        raise InvalidInputError(
            f"key {region.key[:100]!r} is no name of a shared memory object: a slash and 1 to "
            f"{MAX_NAME} other characters, as '/images'",
            field="key",
        )
    if region.size < 1:
        raise InvalidInputError(
            f"byte_size is {region.size}; it must be 1 or more", field="byte_size"
        )
    if region.offset < 0:
        raise InvalidInputError(f"offset is {region.offset}; it must be 0 or more", field="offset")


def _opened(region: Region) -> int:
    """A descriptor of the object, which is as large as the region says."""
    try:
        fd = os.open(FOLDER / region.key.removeprefix("/"), _FLAGS)
    except FileNotFoundError:
        raise NotFoundError(
            f"there is no shared memory object {region.key!r} on this server's machine (or not in "
            "its container)"
        ) from None
    except PermissionError:
        raise PermissionDeniedError(
            f"shared memory object {region.key!r} may not be read and written by this server's user"
        ) from None
    except (OSError, UnicodeError) as error:
        raise InvalidInputError(f"key {region.key!r} cannot be opened: {error}", field="key") from (
            error
        )
    there = os.fstat(fd)
    if stat.S_ISREG(there.st_mode) and region.offset + region.size <= there.st_size:
        return fd
    os.close(fd)
    if not stat.S_ISREG(there.st_mode):
        raise InvalidInputError(f"key {region.key!r} is no shared memory object", field="key")
    raise InvalidInputError(
        f"{region.size} bytes at offset {region.offset} go beyond the shared memory object "
        f"{region.key!r} of {there.st_size} bytes",
        field="byte_size",
    )


def _cut_short(region: Region, there: int) -> InvalidInputError:
    return InvalidInputError(
        f"the shared memory object {region.key!r} of region {region.name!r} has become shorter: it "
        f"ends at byte {there}, the region at {region.offset + region.size}",
        field="shared_memory_region",
    )
