"""From what a table says of an image to the image: a name in the archive, a URL, a digest.

Tools write the path of an image as it was on their disk, so a name is looked for as it stands, then
beside the table that names it, then by its last parts, as long as these fit one file only. A name
that fits two is refused: a guess would label the wrong picture.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote

from visionloop.images import Limits
from visionloop_labeling.importers import names
from visionloop_labeling.importers.archive import Archive, Member
from visionloop_labeling.importers.entries import SourceError
from visionloop_labeling.safe_fetch import SafeFetcher

_URL: Final = ("http://", "https://")


class Pictures:
    """Finds images. Without an archive only URLs can be had."""

    def __init__(self, archive: Archive | None, fetcher: SafeFetcher, limits: Limits) -> None:
        self._archive = archive
        self._fetcher = fetcher
        self._limits = limits
        members = () if archive is None else archive.members
        self.members = [one for one in members if names.is_image(one.name)]
        self._by_last_name = defaultdict[str, list[Member]](list)
        for member in self.members:
            self._by_last_name[PurePosixPath(member.name).name].append(member)

    def named(self, name: str, *, beside: str = "") -> Member:
        """The file of this name; `beside` is the folder of the table that names it.

        Raises SourceError when there is none, or more than one that could be meant.
        """
        spelled = PurePosixPath(unquote(name) if "%" in name else name)
        for wanted in _spellings(name, spelled, beside):
            found = None if self._archive is None else self._archive.find(wanted)
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
            if self._archive is not None
            else f"{names.shown(name)} came without its image: send an archive (ZIP, TAR) with "
            "the images and this file in it, or name images by URL or sha256",
            reason="no_such_image",
        )

    def read(self, reference: str, *, beside: str = "") -> bytes:
        """The image that a reference (a URL or a name) means. Raises InvalidInputError."""
        if reference.startswith(_URL):
            return self._fetcher.fetch(reference)
        return self.bytes_of(self.named(reference, beside=beside))

    def bytes_of(self, member: Member) -> bytes:
        """A file's bytes. Raises SourceError."""
        if self._archive is None:
            raise SourceError("there is no archive", reason="no_such_image")
        return self._archive.read(member, self._limits.max_bytes)

    def close(self) -> None:
        """Lets go of files and threads."""
        self._fetcher.close()
        if self._archive is not None:
            self._archive.close()

    def _alike(self, name: PurePosixPath) -> list[Member]:
        """The files with the same last name that share the most folders with it."""
        alike = self._by_last_name.get(name.name, [])
        parts = name.parts
        for shared in range(2, len(parts) + 1):
            closer = [m for m in alike if PurePosixPath(m.name).parts[-shared:] == parts[-shared:]]
            if not closer:
                break
            alike = closer
        return alike


def _spellings(name: str, unquoted: PurePosixPath, beside: str) -> Iterable[str]:
    for plain in (name, str(unquoted)):
        relative = plain.removeprefix("./").lstrip("/")
        yield relative
        if beside:
            joined = PurePosixPath(beside, relative)
            yield str(joined)
            if ".." in joined.parts:
                yield _resolved(joined)


def _resolved(path: PurePosixPath) -> str:
    """Without `..` steps; looked up in an archive only, so climbing finds nothing."""
    kept: list[str] = []
    for part in path.parts:
        if part == "..":
            kept = kept[:-1]
        else:
            kept.append(part)
    return "/".join(kept)
