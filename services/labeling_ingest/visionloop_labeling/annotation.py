"""What somebody says an image shows: classes, boxes, shapes, attributes, a note.

`Annotation` names classes by their ids, which never change: it is what the log stores. `Draft` says
the same with class names, which is what rows and files bring. Coordinates are absolute pixels of
the oriented image (x to the right, y down, 0 at the outer edge of the first pixel) and are kept to
a thousandth of one. What hangs over the image's edge is cut off there; what lies beside it is
refused, because then the numbers are of another image, or relative ones.

A list that is empty on purpose says something: no boxes in a detection dataset is "there is nothing
here", no classes in a multi-label dataset is "none of them". One that is missing says nothing.

Of one class an image a label may be soft (`soft_labels`). A weight says what the image counts in
training, where others count 1.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, Self, TypeAlias, TypeVar

from pydantic import Field, StrictFloat, StrictStr, ValidationError, model_validator

from visionloop.errors import InvalidInputError
from visionloop.record import Record
from visionloop_labeling import soft_labels

Task: TypeAlias = Literal["classification", "multi_label", "detection"]
Size: TypeAlias = tuple[int, int]  # width, height of the oriented image
AttributeValue: TypeAlias = StrictStr | StrictFloat

MAX_NOTE: Final = 2000  # characters
MAX_BOXES: Final = 5_000
MAX_SHAPES: Final = 5_000
MAX_CLASSES: Final = 1_000  # of one image
MAX_POINTS: Final = 20_000  # of one polygon
MAX_COUNTS: Final = 1_000_000  # runs of one mask
MAX_WEIGHT: Final = 1_000_000.0
_DECIMALS: Final = 3

_Name = Annotated[str, Field(min_length=1, max_length=200)]
_Attributes = Annotated[dict[_Name, AttributeValue], Field(max_length=32)]
_Classes = Annotated[tuple[_Name, ...], Field(max_length=MAX_CLASSES)]
_Weight = Annotated[float, Field(ge=0.0, le=MAX_WEIGHT)]
_Probabilities = Annotated[
    dict[_Name, Annotated[float, Field(ge=0.0, le=1.0)]], Field(max_length=MAX_CLASSES)
]


class Rectangle(Record):
    """A box; (x, y) is its upper left corner."""

    x: float
    y: float
    width: Annotated[float, Field(gt=0.0)]
    height: Annotated[float, Field(gt=0.0)]
    attributes: _Attributes = Field(default_factory=dict)

    def fitted(self, size: Size, field: str) -> Self:
        """Cut off at the image's edges. Raises InvalidInputError for a box beside the image."""
        left, right = _clamped(self.x, size[0]), _clamped(self.x + self.width, size[0])
        top, bottom = _clamped(self.y, size[1]), _clamped(self.y + self.height, size[1])
        width, height = round(right - left, _DECIMALS), round(bottom - top, _DECIMALS)
        if width <= 0.0 or height <= 0.0:
            raise InvalidInputError(
                f"{field} ({self.x:g}, {self.y:g}, {self.width:g} wide, {self.height:g} high) does "
                f"not lie in the image, which is {size[0]} x {size[1]} pixels once turned upright; "
                "give absolute pixels of it",
                field=field,
            )
        place = {"x": round(left, _DECIMALS), "y": round(top, _DECIMALS)}
        return self.model_copy(update={**place, "width": width, "height": height})


class Outline(Record):
    """A polygon by its corners, or a mask by run lengths as COCO has them (columns, 0 first)."""

    kind: Literal["polygon", "mask"]
    points: Annotated[tuple[tuple[float, float], ...], Field(max_length=MAX_POINTS)] | None = None
    counts: (
        Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=MAX_COUNTS)] | None
    ) = None
    size: tuple[int, int] | None = None  # height, width

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "polygon":
            if self.points is None or len(self.points) < 3:
                raise ValueError("a polygon needs at least 3 points")
            if self.counts is not None or self.size is not None:
                raise ValueError("a polygon has points only; counts and size belong to a mask")
        elif self.counts is None or self.size is None or self.points is not None:
            raise ValueError("a mask needs counts and size, and has no points")
        return self

    def fitted(self, size: Size, field: str) -> Self:
        """Corners cut off at the image's edges. Raises InvalidInputError for another image's."""
        if self.points is not None:
            return self.model_copy(update={"points": _fitted_points(self.points, size, field)})
        width, height = size
        if self.size != (height, width) or sum(self.counts or ()) != width * height:
            raise InvalidInputError(
                f"{field} is a mask of {self.size} (height, width) with {sum(self.counts or ())} "
                f"pixels; the image has ({height}, {width}) once turned upright",
                field=field,
            )
        return self


class Box(Rectangle):
    """A box of a class."""

    class_id: _Name


class Shape(Outline):
    """A polygon or mask of a class."""

    class_id: _Name


class DraftBox(Rectangle):
    """A box of a class by name."""

    class_name: _Name


class DraftShape(Outline):
    """A polygon or mask of a class by name."""

    class_name: _Name


class Annotation(Record):
    """What an image shows, with class ids."""

    classes: _Classes | None = None
    boxes: Annotated[tuple[Box, ...], Field(max_length=MAX_BOXES)] | None = None
    shapes: Annotated[tuple[Shape, ...], Field(max_length=MAX_SHAPES)] = ()
    attributes: _Attributes = Field(default_factory=dict)
    note: Annotated[str, Field(max_length=MAX_NOTE)] = ""
    weight: _Weight | None = None
    probabilities: _Probabilities = Field(default_factory=dict)  # of class ids

    def class_ids(self) -> tuple[str, ...]:
        """The classes it says are there, each once, those of the image first."""
        return tuple(dict.fromkeys(_named(self, "class_id")))

    def content(self) -> tuple[object, ...]:
        """What it says the image shows; two that differ here contradict each other."""
        return (self.classes, self.boxes, self.shapes)

    def stored(self) -> dict[str, Any]:
        """As JSON, without what says nothing."""
        return _compact(self)

    def with_classes(self, key_of: Callable[[str], str]) -> "Annotation":
        """The same with other class ids, as when classes were merged."""
        return _build(self, "class_id", key_of)


class Draft(Record):
    """What an image shows, with class names; unknown ones are added to the dataset."""

    classes: _Classes | None = None
    boxes: Annotated[tuple[DraftBox, ...], Field(max_length=MAX_BOXES)] | None = None
    shapes: Annotated[tuple[DraftShape, ...], Field(max_length=MAX_SHAPES)] = ()
    attributes: _Attributes = Field(default_factory=dict)
    note: Annotated[str, Field(max_length=MAX_NOTE)] = ""
    weight: _Weight | None = None
    probabilities: _Probabilities = Field(default_factory=dict)  # of class names

    def class_names(self) -> tuple[str, ...]:
        """The classes it names anywhere, each once, also those that are only possible."""
        return tuple(dict.fromkeys((*_named(self, "class_name"), *self.probabilities)))

    def stored(self) -> dict[str, Any]:
        """As JSON, without what says nothing."""
        return _compact(self)

    def annotation(self, key_of: Callable[[str], str]) -> Annotation:
        """The annotation, once each class name has its id."""
        return _build(self, "class_name", key_of)


AnyAnnotation = TypeVar("AnyAnnotation", Annotation, Draft)


def stored_class_ids(stored: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The classes that a stored annotation names, as `Annotation.class_ids` has them.

    It was checked when it was stored; to check it anew for each look takes ten times as long.
    """
    if not stored:
        return ()
    parts = (*(stored.get("boxes") or ()), *(stored.get("shapes") or ()))
    named = (*(stored.get("classes") or ()), *(part["class_id"] for part in parts))
    return tuple(dict.fromkeys(named))


def parse_draft(values: Mapping[str, Any]) -> Draft:
    """A draft from JSON. Raises InvalidInputError that names the member."""
    try:
        return Draft.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(("annotation", *(str(part) for part in first["loc"])))
        raise InvalidInputError(f"{field}: {first['msg']}", field=field) from None


def fitted(said: AnyAnnotation, task: Task, size: Size) -> AnyAnnotation:
    """In its one canonical form for an image of this size and a dataset of this task.

    Raises InvalidInputError when it says nothing, too much for the task, or does not fit the image.
    """
    boxes = None
    if said.boxes is not None:
        boxes = tuple(b.fitted(size, f"annotation.boxes.{n}") for n, b in enumerate(said.boxes))
    shapes = tuple(s.fitted(size, f"annotation.shapes.{n}") for n, s in enumerate(said.shapes))
    probabilities = soft_labels.shared_out(said.probabilities, task)
    classes = said.classes or soft_labels.likeliest(probabilities) or said.classes
    fitting = said.model_copy(
        update={
            "classes": _kept(tuple(sorted(set(classes or ()))), classes, "multi_label", task),
            "boxes": _kept(boxes or (), boxes, "detection", task),
            "shapes": shapes,
            "attributes": dict(sorted(said.attributes.items())),
            "probabilities": probabilities,
        }
    )
    _check_task(fitting, task)
    return fitting


def describe(annotation: Annotation, name_of: Callable[[str], str]) -> str:
    """An annotation in a few words for people."""
    words = [f'"{name_of(key)}"' for key in annotation.classes or ()]
    for count, one, several in (
        (len(annotation.boxes or ()), "box", "boxes"),
        (len(annotation.shapes), "shape", "shapes"),
    ):
        if count:
            words.append(f"{count} {one if count == 1 else several}")
    if words:
        return ", ".join(words)
    return "attributes only" if annotation.attributes else "nothing there"


def _check_task(said: Annotation | Draft, task: Task) -> None:
    if task == "classification" and len(said.classes or ()) > 1:
        raise InvalidInputError(
            f"the label names {len(said.classes or ())} classes; this dataset's task is "
            "classification, which takes one: make a dataset with the task multi_label",
            field="annotation.classes",
        )
    if said.classes is None and said.boxes is None and not said.shapes and not said.attributes:
        raise InvalidInputError(
            "the label says nothing; name a class (or boxes, shapes, attributes), or send the kind "
            "retract to take a label back",
            field="annotation",
        )


def _kept(
    values: tuple[Any, ...], given: tuple[Any, ...] | None, meant_for: Task, task: Task
) -> tuple[Any, ...] | None:
    """The list; an empty one only where it says something."""
    return values if values or (given is not None and task == meant_for) else None


def _clamped(value: float, limit: int) -> float:
    return min(max(value, 0.0), float(limit))


def _fitted_points(
    points: tuple[tuple[float, float], ...], size: Size, field: str
) -> tuple[tuple[float, float], ...]:
    width, height = size
    fitting = tuple(
        (round(_clamped(x, width), _DECIMALS), round(_clamped(y, height), _DECIMALS))
        for x, y in points
    )
    wide = len({x for x, _ in fitting}) > 1
    high = len({y for _, y in fitting}) > 1
    if not (wide and high):
        raise InvalidInputError(
            f"{field} does not lie in the image, which is {width} x {height} pixels once turned "
            "upright; give absolute pixels of it",
            field=field,
        )
    return fitting


def _named(said: Annotation | Draft, member: str) -> Iterator[str]:
    yield from said.classes or ()
    for part in (*(said.boxes or ()), *said.shapes):
        yield getattr(part, member)


def _build(said: Annotation | Draft, member: str, key_of: Callable[[str], str]) -> Annotation:
    def parts(values: tuple[Record, ...]) -> list[dict[str, Any]]:
        plain = [dict(value) for value in values]
        return [{"class_id": key_of(part.pop(member)), **part} for part in plain]

    classes = said.classes
    return Annotation(
        classes=None if classes is None else tuple(sorted({key_of(name) for name in classes})),
        boxes=None if said.boxes is None else tuple(Box(**b) for b in parts(said.boxes)),
        shapes=tuple(Shape(**s) for s in parts(said.shapes)),
        attributes=said.attributes,
        note=said.note,
        weight=said.weight,
        probabilities=soft_labels.renamed(said.probabilities, key_of),
    )


def _compact(said: Annotation | Draft) -> dict[str, Any]:
    plain = said.model_dump(mode="json", exclude_none=True)
    said_empty = ("classes", "boxes", "weight")  # nothing and 0 say something there
    return {name: value for name, value in plain.items() if value or name in said_empty}
