"""Labels with their images as a YOLO archive: data.yaml, images/<split>, labels/<split>.

A line is `class x y width height` for a box, or `class` and the corners of a polygon, relative to
the oriented image, which is how trainers read it. YOLO knows nothing else: classes of a whole
image, masks, and images whose label draws nothing stand in not-exported.csv with the reason;
attributes and notes are in the CSV and COCO exports only.
"""

import json
from collections.abc import Iterable, Iterator, Mapping

from visionloop.objectstore import ObjectStore
from visionloop_labeling.annotation import Box
from visionloop_labeling.exporters.archives import NotExported, with_images
from visionloop_labeling.exporters.names import image_name, split_of
from visionloop_labeling.exporters.zip_stream import zip_stream
from visionloop_labeling.exports import ExportedLabel, Labels


def yolo_stream(labels: Labels, store: ObjectStore) -> Iterator[bytes]:
    """The archive, image by image."""
    return zip_stream(_entries(labels, store))


def _entries(labels: Labels, store: ObjectStore) -> Iterator[tuple[str, bytes]]:
    numbers = {key: number for number, key in enumerate(labels.classes)}
    yield "data.yaml", _data(labels.classes).encode()
    left_out = NotExported()
    drawn = (label for label in labels.images if _is_drawn(label, left_out))
    for label, image in with_images(store, drawn):
        folder, name = split_of(label), image_name(label)
        yield f"images/{folder}/{name}", image
        yield f"labels/{folder}/{label.sha256}.txt", _lines(label, numbers).encode()
    yield from left_out.entries("not-exported.csv")


def _is_drawn(label: ExportedLabel, left_out: NotExported) -> bool:
    said = label.annotation
    polygons = any(shape.points is not None for shape in said.shapes)
    if label.outdated:
        left_out.note(label, "image: its class was split")
        return False
    if said.boxes is None and not polygons:
        left_out.note(label, "image: its label draws no box and no polygon")
        return False
    if said.classes:
        left_out.note(label, "classes of the whole image")
    if any(shape.points is None for shape in said.shapes):
        left_out.note(label, "masks")
    return True


def _lines(label: ExportedLabel, numbers: Mapping[str, int]) -> str:
    said, size = label.annotation, (label.width, label.height)
    lines = [f"{numbers[box.class_id]} {_box(box, size)}\n" for box in said.boxes or ()]
    lines += [
        f"{numbers[shape.class_id]} {_polygon(shape.points, size)}\n"
        for shape in said.shapes
        if shape.points is not None
    ]
    return "".join(lines)


def _box(box: Box, size: tuple[int, int]) -> str:
    x, y = box.x + box.width / 2, box.y + box.height / 2
    values = (x / size[0], y / size[1], box.width / size[0], box.height / size[1])
    return " ".join(map(_number, values))


def _polygon(points: Iterable[tuple[float, float]], size: tuple[int, int]) -> str:
    return " ".join(f"{_number(x / size[0])} {_number(y / size[1])}" for x, y in points)


def _number(value: float) -> str:
    # Twelve digits bring a thousandth of a pixel back exactly, also of the widest image.
    return f"{value:.12g}"


def _data(classes: Mapping[str, str]) -> str:
    names = "".join(f"  {n}: {_quoted(name)}\n" for n, name in enumerate(classes.values()))
    return (
        "path: .\ntrain: images/train\nval: images/val\ntest: images/test\n"
        f"nc: {len(classes)}\nnames:\n{names}"
    )


def _quoted(name: str) -> str:
    """As YAML text, whatever stands in it; without what would be an anchor outside of quotes."""
    return json.dumps(name, ensure_ascii=False).replace("&", r"\u0026").replace("*", r"\u002a")
