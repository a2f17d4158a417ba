"""From what a table says of an image to the image: a name in the archive, a URL, a digest.

Tools write the path of an image as it was on their disk, so a name is looked for as it stands, then
beside the table that names it, then by its last parts, as long as these fit one file only. A name
that fits two is refused: a guess would label the wrong picture. Where a table comes without images,
a name that is a digest (our own exports name files so) means an image that the dataset has.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, TypeAlias
from urllib.parse import unquote

from visionloop.images import Limits
from visionloop_labeling.importers import names
from visionloop_labeling.importers.archive import Archive, Member
from visionloop_labeling.importers.entries import SourceError
from visionloop_labeling.importers.frames import Frame, frame_of
from visionloop_labeling.safe_fetch import SafeFetcher

# The oriented size (width, height) of an image that the dataset has.
Known: TypeAlias = Callable[[str], tuple[int, int] | None]
_URL: Final = ("http://", "https://")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Picture:
    """An image: its bytes, or the digest of one that is there."""

    frame: Frame
    image: bytes = b""
    sha256: str = ""


class Pictures:
    """Finds images. Without an archive only URLs and digests can be had."""

    def __init__(
        self, archive: Archive | None, fetcher: SafeFetcher, known: Known, limits: Limits
    ) -> None:
        self.archive = archive
        self._fetcher = fetcher
        self._known = known
        self._limits = limits
        members = () if archive is None else archive.members
        self.members = [one for one in members if names.is_image(one.name)]
        self._by_last_name = defaultdict[str, list[Member]](list)
        for member in self.members:
            self._by_last_name[PurePosixPath(member.name).name].append(member)

    def find(self, reference: str, *, beside: str = "") -> Picture:
        """The image that a URL, a name or a digest means, with its frame; `beside` is the folder
        of the table that names it. Raises InvalidInputError."""
        digest = PurePosixPath(reference).stem.lower()
        if not self.members and not reference.startswith(_URL) and _DIGEST.fullmatch(digest):
            size = self._known(digest)
            if size is not None:
                return Picture(Frame(*size), sha256=digest)
        return self.picture(self.read(reference, beside=beside))

    def picture(self, image: bytes) -> Picture:
        """An image with its frame. Raises ImageError."""
        return Picture(frame_of(image, self._limits), image)

    def read(self, reference: str, *, beside: str = "") -> bytes:
        """The bytes that a URL or a name means. Raises InvalidInputError."""
        if reference.startswith(_URL):
            return self._fetcher.fetch(reference)
        return self.bytes_of(self.named(reference, beside=beside))

    def bytes_of(self, member: Member) -> bytes:
        """A file's bytes. Raises SourceError."""
        if self.archive is None:
            raise SourceError("there is no archive", reason="no_such_image")
        return self.archive.read(member, self._limits.max_bytes)

    def named(self, name: str, *, beside: str = "") -> Member:
        """The file of this name. Raises SourceError when there is none, or more than one that
        could be meant."""
        spelled = PurePosixPath(unquote(name) if "%" in name else name)
        for wanted in _spellings(name, spelled, beside):
            found = None if self.archive is None else self.archive.find(wanted)
            if found is not None:
                return found
        alike = self._alike(spelled)
        if len(alike) == 1:
            return alike[0]
        if alike:
            raise SourceError(
                f"{names.shown(name)} may be {names.shown(alike[0].name)} or "
                f"{names.shown(alike[1].name)}; name images by their whole path in the archive",
                reason="ambiguous_name",
            )
        raise SourceError(
            f"{names.shown(name)} is not in the archive"
            if self.members
            else f"{names.shown(name)} came without its image: send an archive (ZIP, TAR) with "
            "the images and this file in it, or name images by URL or sha256",
            reason="no_such_image",
        )

    def close(self) -> None:
        """Lets go of files and threads."""
        self._fetcher.close()
        if self.archive is not None:
            self.archive.close()

    def _alike(self, name: PurePosixPath) -> list[Member]:
        """The files with the same last name that share the most folders with it."""
        alike = self._by_last_name.get(name.name, [])
        for shared in range(2, len(name.parts) + 1):
            end = name.parts[-shared:]
            closer = [m for m in alike if PurePosixPath(m.name).parts[-shared:] == end]
            if not closer:
                break
            alike = closer
        return alike


def _spellings(name: str, unquoted: PurePosixPath, beside: str) -> Iterable[str]:
    for plain in (name, str(unquoted)):
        relative = plain.removeprefix("./").lstrip("/")
        if beside:
            yield _resolved(PurePosixPath(beside, relative))
        yield _resolved(PurePosixPath(relative))


def _resolved(path: PurePosixPath) -> str:
    """Without `..` steps; looked up in an archive only, so climbing finds nothing."""
    kept: list[str] = []
    for part in path.parts:
        if part == "..":
            kept = kept[:-1]
        else:
            kept.append(part)
    return "/".join(kept)
