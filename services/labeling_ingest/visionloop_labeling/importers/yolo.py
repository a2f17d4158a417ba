"""YOLO text files in an archive: a file of lines beside each image, or in labels/ beside images/.

A line is `class x y width height`, or `class` and the corners of a polygon, all relative to the
image. The names of the classes stand in data.yaml (or any YAML with `names`), classes.txt or
obj.names. Folders and lists of a split are not taken over. An image with an empty text file shows
nothing; one without a file waits for a label, unless the sender says otherwise.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final

import yaml
from sqlalchemy.orm import Session

from visionloop_labeling.annotation import MAX_BOXES, MAX_POINTS, Draft, DraftBox, DraftShape
from visionloop_labeling.importers import documents, names
from visionloop_labeling.importers.archive import Archive, Member
from visionloop_labeling.importers.entries import Entry, SourceError, Step
from visionloop_labeling.importers.frames import Canvas, Frame
from visionloop_labeling.importers.parameters import YoloParameters
from visionloop_labeling.importers.pictures import Pictures
from visionloop_labeling.receipts import Receipt

_MAX_CLASSES: Final = 10_000
_MAX_TEXT: Final = 16 * 2**20  # bytes, of the labels of one image
_MAX_NAMES: Final = 256 * 2**10  # bytes, of the file of class names
_LISTS: Final = ("classes.txt", "obj.names", "classes.names")


class YoloImporter:
    """The images of a YOLO archive, in the archive's order."""

    def __init__(self, archive: Archive, pictures: Pictures, parameters: YoloParameters) -> None:
        self._archive = archive
        self._pictures = pictures
        self._parameters = parameters
        self._images = [
            one
            for one in archive.members
            if names.is_image(one.name) or (one.refusal and not names.is_hidden(one.name))
        ]
        if not any(one.refusal is None for one in self._images):
            raise SourceError("the archive holds no images", reason="no_images")
        self._classes = _classes(archive)
        self.rows = len(self._images)
        whole = [one for one in self._images if one.refusal is None]
        without = sum(1 for one in whole if self._labels_of(one) is None)
        self.remark = f"{without} images have no text file with labels" if without else ""

    def steps(self, start: int) -> Iterator[Step]:
        for ordinal in range(start, self.rows):
            member = self._images[ordinal]
            yield ordinal, member.name, partial(self._entry, member)

    def settle(self, session: Session, receipts: Sequence[Receipt]) -> None:
        """Nothing beside the receipts is kept."""

    def close(self) -> None:
        self._pictures.close()

    def _entry(self, member: Member) -> Entry:
        picture = self._pictures.picture(self._pictures.bytes_of(member))
        return Entry(member.name, picture.image, annotation=self._draft(member, picture.frame))

    def _draft(self, image: Member, frame: Frame) -> Draft | None:
        labels = self._labels_of(image)
        if labels is None:
            return Draft(boxes=()) if self._parameters.unannotated == "empty" else None
        text = _text(self._archive.read(labels, _MAX_TEXT), labels.name)
        canvas = Canvas(frame)
        boxes: list[DraftBox] = []
        shapes: list[DraftShape] = []
        for number, line in enumerate(text.splitlines(), start=1):
            place = f"{labels.name}:{number}"
            parts = line.split()
            if not parts:
                continue
            if len(boxes) + len(shapes) == MAX_BOXES:
                raise SourceError(f"{place} is one box too many", reason="invalid_row")
            name = self._class_named(parts[0], place)
            values = [_relative(part, place) for part in parts[1:]]
            if len(values) == 4:
                boxes.append(_box(name, values, canvas, frame, place))
            else:
                shapes.append(_polygon(name, values, canvas, frame, place))
        return Draft(boxes=None if shapes and not boxes else tuple(boxes), shapes=tuple(shapes))

    def _labels_of(self, image: Member) -> Member | None:
        """The text file of an image: images/a/1.jpg has labels/a/1.txt, or a/1.txt beside it."""
        path = PurePosixPath(image.name).with_suffix(".txt")
        parts = list(path.parts)
        for place in range(len(parts) - 2, -1, -1):
            if parts[place] == "images":
                found = self._archive.find(
                    "/".join((*parts[:place], "labels", *parts[place + 1 :]))
                )
                if found is not None:
                    return found
        return self._archive.find(str(path))

    def _class_named(self, text: str, place: str) -> str:
        number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
        name = self._classes.get(number)
        if name is None:
            raise SourceError(
                f"{place}: class {names.shown(text)} has no name; the archive names classes "
                f"{min(self._classes)} to {max(self._classes)}",
                reason="unknown_class",
                field="class",
            )
        return name


def _box(name: str, values: list[float], canvas: Canvas, frame: Frame, place: str) -> DraftBox:
    x, y, width, height = values
    size = (width * frame.width, height * frame.height)
    corner = (x * frame.width - size[0] / 2, y * frame.height - size[1] / 2)
    return canvas.box(name, corner, size, place)


def _polygon(
    name: str, values: list[float], canvas: Canvas, frame: Frame, place: str
) -> DraftShape:
    if len(values) % 2 or not 6 <= len(values) <= 2 * MAX_POINTS:
        raise SourceError(
            f"{place} has {len(values)} numbers after the class; a box has 4, a polygon an even "
            "count from 6 on",
            reason="invalid_row",
            field=place,
        )
    points = zip(values[::2], values[1::2], strict=True)
    return canvas.polygon(name, [(x * frame.width, y * frame.height) for x, y in points], place)


def _relative(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise documents.wrong(text, place, "a number") from None
    return documents.number(value, place)


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SourceError(f"{names.shown(name)} is not UTF-8", reason="invalid_row") from None


def _classes(archive: Archive) -> dict[int, str]:
    """The names of classes by number, from the file nearest to the archive's root."""
    plain = [one for one in archive.members if one.refusal is None]
    by_depth = sorted(plain, key=lambda one: one.name.count("/"))
    for member in by_depth:
        if member.name.lower().endswith((".yaml", ".yml")):
            classes = _from_yaml(archive.read(member, _MAX_NAMES), member.name)
            if classes:
                return classes
    for member in by_depth:
        if PurePosixPath(member.name).name.lower() in _LISTS:
            lines = _text(archive.read(member, _MAX_NAMES), member.name).splitlines()
            return _checked(dict(enumerate(line.strip() for line in lines)), member.name)
    raise SourceError(
        "the archive does not name its classes: put in data.yaml (with names), classes.txt or "
        "obj.names",
        reason="no_classes",
    )


def _from_yaml(data: bytes, name: str) -> dict[int, str] | None:
    text = _text(data, name)
    if "<<" in text:  # merges of merges grow without bound, and no tool writes any here
        raise SourceError(f"{names.shown(name)} has YAML merges (<<)", reason="no_classes")
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as error:
        first = " ".join(str(error).split())[:200]
        raise SourceError(
            f"{names.shown(name)} is not YAML: {first}", reason="no_classes"
        ) from None
    listed: Any = document.get("names") if isinstance(document, dict) else None
    if isinstance(listed, list):
        return _checked(dict(enumerate(listed)), name)
    return _checked(listed, name) if isinstance(listed, dict) else None


def _checked(listed: dict[Any, Any], name: str) -> dict[int, str]:
    """Class names by number; plain numbers and words that YAML takes for values are text."""
    classes: dict[int, str] = {}
    for number, value in listed.items():
        text = str(value).strip() if isinstance(value, str | int | float) else ""
        if not isinstance(number, int) or not 0 <= number < 10**9 or len(text) > 200:
            raise SourceError(
                f"{names.shown(name)}: {names.shown(str(number))} is not the number of a class, or "
                "its name is too long",
                reason="no_classes",
            )
        if text:
            classes[number] = text
    if not classes or len(classes) > _MAX_CLASSES:
        raise SourceError(
            f"{names.shown(name)} names {len(classes)} classes; 1 to {_MAX_CLASSES:,} are taken",
            reason="no_classes",
        )
    return classes
