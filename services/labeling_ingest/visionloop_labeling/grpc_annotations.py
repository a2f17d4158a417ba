"""Annotations on the wire (labeling.proto), to drafts and from what is stored."""

from collections.abc import Mapping
from typing import Any

from visionloop.proto.v1 import labeling_pb2 as pb
from visionloop_labeling.annotation import Annotation, Box, Draft, Shape, parse_draft


def draft_of(message: pb.Annotation) -> Draft:
    """What a caller says of an image. Raises InvalidInputError that names the member."""
    empty: tuple[()] | None = () if message.nothing_there else None
    return parse_draft(
        {
            "classes": tuple(one.name for one in message.classes) or empty,
            "boxes": tuple(_box_values(box) for box in message.boxes) or empty,
            "shapes": tuple(_shape_values(shape) for shape in message.shapes),
            "attributes": _attribute_values(message.attributes),
            "note": message.note,
            "weight": message.weight if message.HasField("weight") else None,
            "probabilities": dict(message.probabilities),
        }
    )


def annotation_message(stored: Mapping[str, Any], names: Mapping[str, str]) -> pb.Annotation:
    """A stored annotation on the wire; `names` of its class ids."""
    said = Annotation.model_validate(stored)
    return pb.Annotation(
        classes=[_label(key, names) for key in said.classes or ()],
        boxes=[_box_message(box, names) for box in said.boxes or ()],
        shapes=[_shape_message(shape, names) for shape in said.shapes],
        attributes=_attribute_messages(said.attributes),
        note=said.note,
        nothing_there=not said.class_ids() and (said.classes == () or said.boxes == ()),
        weight=said.weight,
        probabilities={names.get(key, key): share for key, share in said.probabilities.items()},
    )


def _box_values(box: pb.Box) -> dict[str, Any]:
    return {
        "class_name": box.label.name,
        "x": box.x,
        "y": box.y,
        "width": box.width,
        "height": box.height,
        "attributes": _attribute_values(box.attributes),
    }


def _box_message(box: Box, names: Mapping[str, str]) -> pb.Box:
    return pb.Box(
        label=_label(box.class_id, names),
        x=box.x,
        y=box.y,
        width=box.width,
        height=box.height,
        attributes=_attribute_messages(box.attributes),
    )


def _shape_values(shape: pb.Shape) -> dict[str, Any]:
    named = {"class_name": shape.label.name}
    if shape.HasField("mask"):
        size = (shape.mask.height, shape.mask.width)
        return {**named, "kind": "mask", "counts": tuple(shape.mask.counts), "size": size}
    flat = tuple(shape.polygon.points)
    pairs = tuple(flat[start : start + 2] for start in range(0, len(flat), 2))
    return {**named, "kind": "polygon", "points": pairs}


def _shape_message(shape: Shape, names: Mapping[str, str]) -> pb.Shape:
    label = _label(shape.class_id, names)
    if shape.points is not None:
        flat = [value for point in shape.points for value in point]
        return pb.Shape(label=label, polygon=pb.Shape.Polygon(points=flat))
    height, width = shape.size or (0, 0)
    mask = pb.Shape.Mask(counts=shape.counts or (), height=height, width=width)
    return pb.Shape(label=label, mask=mask)


def _label(key: str, names: Mapping[str, str]) -> pb.LabelClass:
    return pb.LabelClass(id=key, name=names.get(key, key))


def _attribute_values(values: Mapping[str, pb.AttributeValue]) -> dict[str, str | float]:
    return {
        name: value.number if value.HasField("number") else value.text
        for name, value in values.items()
    }


def _attribute_messages(values: Mapping[str, str | float]) -> dict[str, pb.AttributeValue]:
    return {
        name: pb.AttributeValue(text=value)
        if isinstance(value, str)
        else pb.AttributeValue(number=value)
        for name, value in values.items()
    }
