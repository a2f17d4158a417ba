"""Label Studio's JSON export: one document with a list of tasks.

Of several annotations of a task the latest that was not skipped counts, and the receipt says that
there were others; predictions are passed over. Taken are Choices (classes), RectangleLabels,
PolygonLabels, BrushLabels (masks), TextArea (the note), Number and Rating (attributes). A rotated
rectangle becomes the polygon of its corners. What else is in a result refuses its row by name,
unless the sender asks to pass over it: half an annotation would look like a whole one.

Coordinates are percent of the image as Label Studio showed it, which is the oriented image.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from sqlalchemy.orm import Session

from visionloop_labeling.annotation import MAX_NOTE, Draft, DraftBox, DraftShape
from visionloop_labeling.importers import documents, masks, names
from visionloop_labeling.importers.entries import Entry, SourceError, Step
from visionloop_labeling.importers.frames import Canvas, Frame, Point
from visionloop_labeling.importers.parameters import LabelStudioParameters
from visionloop_labeling.importers.pictures import Pictures
from visionloop_labeling.receipts import Receipt

_UPLOAD: Final = re.compile(r"[0-9a-f]{8}-(.+)")  # what uploading puts before a file's name
_ROUND: Final = 1e-6  # degrees


@dataclass(slots=True)
class _Collected:
    """What the results of one annotation add up to."""

    canvas: Canvas
    frame: Frame
    classes: list[str] = field(default_factory=list)
    boxes: list[DraftBox] = field(default_factory=list)
    shapes: list[DraftShape] = field(default_factory=list)
    attributes: dict[str, str | float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def draft(self) -> Draft | None:
        """As an annotation; None when it says nothing."""
        draft = Draft(
            classes=tuple(dict.fromkeys(self.classes)) or None,
            boxes=tuple(self.boxes) or None,
            shapes=tuple(self.shapes),
            attributes=self.attributes,
            note="\n".join(self.notes)[:MAX_NOTE],
        )
        return draft if draft.stored() else None


class LabelStudioImporter:
    """The tasks of an export, in its order. `folder` is where it lay in its archive."""

    def __init__(
        self, document: Any, pictures: Pictures, parameters: LabelStudioParameters, folder: str = ""
    ) -> None:
        tasks = document if isinstance(document, list) else [document]
        self._tasks: list[Mapping[str, Any]] = [
            documents.members(task, f"{number}") for number, task in enumerate(tasks)
        ]
        if not self._tasks or not all(isinstance(one.get("data"), dict) for one in self._tasks):
            raise SourceError(
                "the JSON is not a Label Studio export: each task must have data and annotations. "
                "Export as JSON, not as JSON-MIN",
                reason="no_label_studio",
            )
        self._pictures = pictures
        self._parameters = parameters
        self._folder = folder
        self.rows = len(self._tasks)
        self.remark = ""

    def steps(self, start: int) -> Iterator[Step]:
        for ordinal in range(start, self.rows):
            task = self._tasks[ordinal]
            source = self._image_of(task, ordinal, silent=True)
            yield ordinal, source, partial(self._entry, task, ordinal)

    def settle(self, session: Session, receipts: Sequence[Receipt]) -> None:
        """Nothing beside the receipts is kept."""

    def close(self) -> None:
        self._pictures.close()

    def _entry(self, task: Mapping[str, Any], ordinal: int) -> Entry:
        source = self._image_of(task, ordinal)
        picture = self._pictures.find(_reference(source), beside=self._folder)
        annotation, remark = _latest(task, f"{ordinal}.annotations")
        collected = _Collected(Canvas(picture.frame), picture.frame)
        if remark:
            collected.remarks.append(remark)
        results = documents.items((annotation or {}).get("result", []), f"{ordinal}.result")
        for number, result in enumerate(results):
            place = f"{ordinal}.result.{number}"
            self._take(documents.members(result, place), collected, place)
        return Entry(
            source=source,
            image=picture.image,
            sha256=picture.sha256,
            annotation=collected.draft(),
            remark="; ".join(collected.remarks),
        )

    def _image_of(self, task: Mapping[str, Any], ordinal: int, *, silent: bool = False) -> str:
        data = task["data"]
        keys = (
            [self._parameters.image_key]
            if self._parameters.image_key
            else ["image", "img", "url", *data]
        )
        for key in keys:
            value = data.get(key)
            if isinstance(value, str) and (self._parameters.image_key or _looks_like_image(value)):
                return value
        if silent:
            return f"task {ordinal}"
        raise SourceError(
            f"{ordinal}.data names no image; its members are {', '.join(map(names.shown, data))}. "
            "Name the one in parameters: image_key",
            reason="invalid_row",
            field="data",
        )

    def _take(self, result: Mapping[str, Any], collected: _Collected, place: str) -> None:
        kind = str(result.get("type", "")).lower()
        if kind in (one.lower() for one in self._parameters.pass_over) or kind == "relation":
            collected.remarks.append(f"{names.shown(kind)} was passed over")
            return
        taker = _TAKERS.get(kind)
        if taker is None:
            raise SourceError(
                f"{place} is of the type {names.shown(str(result.get('type')))}, which is not "
                f"taken; taken are {', '.join(_TAKERS)}. To import without it, name it in "
                "parameters: pass_over",
                reason="not_taken",
                field="type",
            )
        taker(result, documents.members(result.get("value"), f"{place}.value"), collected, place)


def _choices(
    _: Mapping[str, Any], value: Mapping[str, Any], collected: _Collected, place: str
) -> None:
    for choice in documents.items(value.get("choices"), f"{place}.value.choices"):
        collected.classes.append(documents.text(choice, f"{place}.value.choices"))


def _rectangle(
    _: Mapping[str, Any], value: Mapping[str, Any], collected: _Collected, place: str
) -> None:
    name = _label(value, "rectanglelabels", place)
    left, top, width, height = (
        documents.number(value.get(member), f"{place}.value.{member}")
        for member in ("x", "y", "width", "height")
    )
    corner, size = _pixels((left, top), collected.frame), _pixels((width, height), collected.frame)
    turn = documents.number(value.get("rotation", 0), f"{place}.value.rotation")
    if abs(turn) < _ROUND:
        collected.boxes.append(collected.canvas.box(name, corner, size, f"{place}.value"))
        return
    corners = _turned(corner, size, math.radians(turn))
    collected.shapes.append(collected.canvas.polygon(name, corners, f"{place}.value"))
    collected.remarks.append("a rotated rectangle became the polygon of its corners")


def _polygon(
    _: Mapping[str, Any], value: Mapping[str, Any], collected: _Collected, place: str
) -> None:
    name = _label(value, "polygonlabels", place)
    points = []
    for point in documents.items(value.get("points"), f"{place}.value.points"):
        x, y = documents.numbers(point, f"{place}.value.points", 2)
        points.append(_pixels((x, y), collected.frame))
    collected.shapes.append(collected.canvas.polygon(name, points, f"{place}.value.points"))


def _brush(
    result: Mapping[str, Any], value: Mapping[str, Any], collected: _Collected, place: str
) -> None:
    name = _label(value, "brushlabels", place)
    width, height = collected.frame.width, collected.frame.height
    size = tuple(
        documents.whole(result.get(member), f"{place}.{member}")
        for member in ("original_height", "original_width")
    )
    if value.get("format") != "rle" or size != (height, width):
        raise SourceError(
            f"{place} is a brush of {size[0]} x {size[1]} (height, width) in the format "
            f"{names.shown(str(value.get('format')))}; it must be rle, of {height} x {width}",
            reason="size_mismatch",
            field="rle",
        )
    counts = masks.of_brush(value.get("rle"), (height, width), f"{place}.value.rle")
    collected.shapes.append(
        collected.canvas.mask(name, counts, (height, width), f"{place}.value.rle")
    )


def _text(
    _: Mapping[str, Any], value: Mapping[str, Any], collected: _Collected, place: str
) -> None:
    text = value.get("text")
    parts = text if isinstance(text, list) else [text]
    collected.notes.extend(documents.text(part, f"{place}.value.text") for part in parts)


def _number(
    result: Mapping[str, Any], value: Mapping[str, Any], collected: _Collected, place: str
) -> None:
    name = documents.text(result.get("from_name"), f"{place}.from_name")
    number = value.get("number", value.get("rating"))
    collected.attributes[name] = documents.number(number, f"{place}.value")


_TAKERS: Final[
    Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any], _Collected, str], None]]
] = {
    "choices": _choices,
    "rectanglelabels": _rectangle,
    "polygonlabels": _polygon,
    "brushlabels": _brush,
    "textarea": _text,
    "number": _number,
    "rating": _number,
}


def _label(value: Mapping[str, Any], member: str, place: str) -> str:
    named = documents.items(value.get(member), f"{place}.value.{member}")
    if len(named) != 1:
        raise documents.wrong(named, f"{place}.value.{member}", "a list of one class")
    return documents.text(named[0], f"{place}.value.{member}")


def _latest(task: Mapping[str, Any], place: str) -> tuple[Mapping[str, Any] | None, str]:
    """The annotation that counts, and what to say of the others."""
    given = documents.items(task.get("annotations", task.get("completions", [])), place)
    whole = [documents.members(one, place) for one in given]
    finished = [one for one in whole if not one.get("was_cancelled")]
    if not finished:
        return None, ""
    # ISO 8601 in UTC: the order of texts is the order of times. Without times the last one counts.
    latest = max(
        enumerate(finished), key=lambda one: (str(one[1].get("updated_at") or ""), one[0])
    )[1]
    others = len(finished) - 1
    return latest, f"the latest of {others + 1} annotations was taken" if others else ""


def _pixels(percent: Point, frame: Frame) -> Point:
    return percent[0] * frame.width / 100, percent[1] * frame.height / 100


def _turned(corner: Point, size: Point, angle: float) -> list[Point]:
    """The corners of a rectangle that is turned clockwise about its first one."""
    along = (size[0] * math.cos(angle), size[0] * math.sin(angle))
    down = (-size[1] * math.sin(angle), size[1] * math.cos(angle))
    x, y = corner
    return [
        corner,
        (x + along[0], y + along[1]),
        (x + along[0] + down[0], y + along[1] + down[1]),
        (x + down[0], y + down[1]),
    ]


def _looks_like_image(value: str) -> bool:
    return names.is_image(PurePosixPath(_path_of(value)).name) or value.startswith("http")


def _path_of(value: str) -> str:
    """The path of a URL or the local file that Label Studio serves under `?d=`."""
    try:
        parts = urlsplit(value)
    except ValueError:
        return value
    local = parse_qs(parts.query).get("d")
    return local[0] if local else parts.path


def _reference(source: str) -> str:
    """What to look for: a URL as it is, an uploaded file by the name that it had before."""
    if source.startswith(("http://", "https://")):
        return source
    path = PurePosixPath(_path_of(source))
    uploaded = _UPLOAD.fullmatch(path.name) if "upload" in path.parts else None
    return str(path) if uploaded is None else uploaded[1]
