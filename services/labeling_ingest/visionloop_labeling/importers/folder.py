"""An archive with a folder per class, as for training classifiers: cats/1.jpg, dogs/2.jpg.

The first folder is the class, whatever lies deeper. A single folder around everything is looked
through, and so are the folders of a split (train, val, test): which image stands in which split is
this service's to say, so that near duplicates never stand in two. Images beside the folders have no
class and wait to be labelled.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from sqlalchemy.orm import Session

from visionloop.images import Limits
from visionloop_labeling.importers import names
from visionloop_labeling.importers.archive import Archive, Member
from visionloop_labeling.importers.entries import Entry, SourceError, Step
from visionloop_labeling.importers.parameters import FolderParameters
from visionloop_labeling.receipts import Receipt

SPLITS: Final = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))


class FolderImporter:
    """The rows of an archive with class folders, in the archive's order."""

    def __init__(self, archive: Archive, parameters: FolderParameters, limits: Limits) -> None:
        self._archive = archive
        self._limits = limits
        self._members = [one for one in archive.members if _taken(one)]
        if not self._members:
            raise SourceError("the archive holds no images", reason="no_images")
        self._depth = _class_depth([one.name for one in self._members])
        self._classes = parameters.classes
        self.rows = len(self._members)
        self.remark = passed_over(archive, self._members)

    def steps(self, start: int) -> Iterator[Step]:
        for ordinal in range(start, self.rows):
            member = self._members[ordinal]
            yield ordinal, member.name, partial(self._entry, member)

    def settle(self, session: Session, receipts: Sequence[Receipt]) -> None:
        """Nothing beside the receipts is kept."""

    def close(self) -> None:
        self._archive.close()

    def _entry(self, member: Member) -> Entry:
        image = self._archive.read(member, self._limits.max_bytes)
        folders = member.name.split("/")[:-1]
        named = self._classes and len(folders) > self._depth
        return Entry(member.name, image, label=folders[self._depth] if named else None)


def passed_over(archive: Archive, taken: Sequence[Member], *, used: int = 0) -> str:
    """A remark on the files that are not among `taken`; `used` of them were read otherwise."""
    seen = {member.name for member in taken}
    others = [
        one.name
        for one in archive.members
        if one.name not in seen and not names.is_hidden(one.name)
    ]
    if len(others) <= used:
        return ""
    return f"{len(others) - used} files that are no images by their names were passed over"


def _taken(member: Member) -> bool:
    # What is refused gets a receipt that says why; what is no image by its name is passed over.
    return names.is_image(member.name) or (
        member.refusal is not None and not names.is_hidden(member.name)
    )


def _class_depth(files: list[str]) -> int:
    """How many folders lie around the class folders."""
    folders = [name.split("/")[:-1] for name in files]
    depth = 0
    if len({tuple(path[:1]) for path in folders}) == 1 and all(len(path) > 1 for path in folders):
        depth = 1  # one folder around everything
    if all(len(path) > depth + 1 and path[depth].lower() in SPLITS for path in folders):
        depth += 1
    return depth
