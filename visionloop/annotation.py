"""What an image shows, as plain values, for apps that send or read labels.

Classes are named; coordinates are absolute pixels of the image once turned upright. Answers of the
service carry the ids of the classes as well, which never change. Needs protobuf alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from visionloop.errors import InvalidInputError
from visionloop.proto.v1 import labeling_pb2 as pb

Attributes: TypeAlias = Mapping[str, str | float]


@dataclass(frozen=True, slots=True)
class Box:
    """A box of a class; (x, y) is its upper left corner."""

    label: str
    x: float
    y: float
    width: float
    height: float
    attributes: Attributes = field(default_factory=dict)
    class_id: str = ""


@dataclass(frozen=True, slots=True)
class Polygon:
    """A polygon of a class, by its corners (x, y)."""

    label: str
    points: tuple[tuple[float, float], ...]
    class_id: str = ""


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask of a class, by run lengths as COCO has them: by columns, beginning with 0."""

    label: str
    counts: tuple[int, ...]
    height: int
    width: int
    class_id: str = ""


@dataclass(frozen=True, slots=True)
class Annotation:
    """Everything that is said of an image.

    `nothing_there` says on purpose that there are no boxes (or, where an image has any number of
    classes, none of them). `weight` is what the image counts in training, where others count 1.
    `probabilities` are a soft label: how probable each class is, by its name, adding up to 1;
    without `classes` the image counts as one of the likeliest.
    """

    classes: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    shapes: tuple[Polygon | Mask, ...] = ()
    attributes: Attributes = field(default_factory=dict)
    note: str = ""
    nothing_there: bool = False
    class_ids: tuple[str, ...] = ()  # of `classes`, in answers
    weight: float | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict)


def annotation_message(said: Annotation) -> pb.Annotation:
    """The message of an annotation. Raises InvalidInputError for values no message can hold."""
    try:
        return pb.Annotation(
            classes=[pb.LabelClass(name=name) for name in said.classes],
            boxes=[_box_message(box) for box in said.boxes],
            shapes=[_shape_message(shape) for shape in said.shapes],
            attributes=_values(said.attributes),
            note=said.note,
            nothing_there=said.nothing_there,
            weight=said.weight,
            probabilities=said.probabilities,
        )
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"the annotation cannot be sent: {error}", field="annotation"
        ) from error


def annotation_from(message: pb.Annotation) -> Annotation:
    """An annotation from its message."""
    return Annotation(
        classes=tuple(one.name for one in message.classes),
        boxes=tuple(_box_from(box) for box in message.boxes),
        shapes=tuple(_shape_from(shape) for shape in message.shapes),
        attributes=_attributes(message.attributes),
        note=message.note,
        nothing_there=message.nothing_there,
        class_ids=tuple(one.id for one in message.classes),
        weight=message.weight if message.HasField("weight") else None,
        probabilities=dict(message.probabilities),
    )


def _box_message(box: Box) -> pb.Box:
    return pb.Box(
        label=pb.LabelClass(name=box.label),
        x=box.x,
        y=box.y,
        width=box.width,
        height=box.height,
        attributes=_values(box.attributes),
    )


def _box_from(box: pb.Box) -> Box:
    attributes = _attributes(box.attributes)
    return Box(box.label.name, box.x, box.y, box.width, box.height, attributes, box.label.id)


def _shape_message(shape: Polygon | Mask) -> pb.Shape:
    label = pb.LabelClass(name=shape.label)
    if isinstance(shape, Polygon):
        flat = [value for point in shape.points for value in point]
        return pb.Shape(label=label, polygon=pb.Shape.Polygon(points=flat))
    mask = pb.Shape.Mask(counts=shape.counts, height=shape.height, width=shape.width)
    return pb.Shape(label=label, mask=mask)


def _shape_from(shape: pb.Shape) -> Polygon | Mask:
    if shape.HasField("polygon"):
        flat = shape.polygon.points
        points = tuple(zip(flat[::2], flat[1::2], strict=False))
        return Polygon(shape.label.name, points, shape.label.id)
    mask = shape.mask
    return Mask(shape.label.name, tuple(mask.counts), mask.height, mask.width, shape.label.id)


def _values(attributes: Attributes) -> dict[str, pb.AttributeValue]:
    return {
        name: pb.AttributeValue(text=value)
        if isinstance(value, str)
        else pb.AttributeValue(number=value)
        for name, value in attributes.items()
    }


def _attributes(values: Mapping[str, pb.AttributeValue]) -> dict[str, str | float]:
    return {
        name: value.text if value.HasField("text") else value.number
        for name, value in values.items()
    }
