"""Labels as COCO JSON, without the images: files are named by the images' digests.

Boxes, polygons and masks are annotations; so is a class of the whole image, which has a category
and nothing else. A shape bears the box around it, because tools ask for one, marked by `"bbox_of":
"segmentation"` so that an import does not take it for one that somebody drew. Coordinates are of
the oriented image, masks plain run lengths. Attributes of boxes and images are kept, and what COCO
has no place for (split, group, note) stands beside the image. A label whose class was split is
left out until it is given again.

JSON wants all images before the first annotation: these wait in a temporary file.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import count
from tempfile import SpooledTemporaryFile
from typing import Any, Final

from visionloop_labeling.annotation import Box, Shape
from visionloop_labeling.exporters.names import image_name
from visionloop_labeling.exports import ExportedLabel, Labels

_IN_MEMORY: Final = 2**20  # bytes of annotations
_CHUNK: Final = 2**16


def coco_stream(labels: Labels) -> Iterator[bytes]:
    """The document, image by image."""
    numbers = {key: number for number, key in enumerate(labels.classes, start=1)}
    categories = [
        {"id": numbers[key], "name": name, "visionloop_id": key}
        for key, name in labels.classes.items()
    ]
    info = {"description": f"dataset {labels.dataset}, exported by Visionloop"}
    head = f'{{"info":{_json(info)},"licenses":[],"categories":{_json(categories)},"images":['
    yield head.encode()
    ids = count(1)
    with SpooledTemporaryFile(_IN_MEMORY) as waiting:
        for number, label in enumerate((one for one in labels.images if not one.outdated), start=1):
            yield (b",\n" if number > 1 else b"\n") + _json(_image(number, label)).encode()
            for annotation in _annotations(label, numbers):
                numbered = {"id": next(ids), "image_id": number, **annotation}
                waiting.write((b",\n" if numbered["id"] > 1 else b"\n") + _json(numbered).encode())
        yield b'\n],"annotations":['
        waiting.seek(0)
        while chunk := waiting.read(_CHUNK):
            yield chunk
    yield b"\n]}\n"


def _image(number: int, label: ExportedLabel) -> dict[str, Any]:
    said = label.annotation
    image: dict[str, Any] = {
        "id": number,
        "file_name": image_name(label),
        "width": label.width,
        "height": label.height,
        "split": label.split,
        "group": label.group,
    }
    if said.attributes:
        image["attributes"] = said.attributes
    if said.note:
        image["note"] = said.note
    return image


def _annotations(label: ExportedLabel, numbers: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    said = label.annotation
    for key in said.classes or ():
        yield {"category_id": numbers[key]}
    for box in said.boxes or ():
        yield {"category_id": numbers[box.class_id], **_of_box(box)}
    for shape in said.shapes:
        yield {"category_id": numbers[shape.class_id], **_of_shape(shape), "iscrowd": 0}


def _of_box(box: Box) -> dict[str, Any]:
    values: dict[str, Any] = {
        "bbox": [box.x, box.y, box.width, box.height],
        "area": box.width * box.height,
        "iscrowd": 0,
    }
    if box.attributes:
        values["attributes"] = box.attributes
    return values


def _of_shape(shape: Shape) -> dict[str, Any]:
    if shape.points is not None:
        flat = [coordinate for point in shape.points for coordinate in point]
        bounds, area = _of_polygon(shape.points)
        segmentation: Any = [flat]
    else:
        counts, size = shape.counts or (), shape.size or (0, 0)
        bounds, area = _of_mask(counts, size[0])
        segmentation = {"counts": counts, "size": size}
    return {
        "segmentation": segmentation,
        "bbox": bounds,
        "bbox_of": "segmentation",
        "area": area,
    }


def _of_polygon(points: tuple[tuple[float, float], ...]) -> tuple[list[float], float]:
    """The box around it (x, y, width, height), and its area in pixels."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    around = zip(points, (*points[1:], points[0]), strict=True)
    doubled = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in around)
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)], abs(doubled) / 2


def _of_mask(counts: tuple[int, ...], height: int) -> tuple[list[float], float]:
    """The box around its pixels, and how many there are; runs go down the columns."""
    left = top = right = bottom = -1
    area = place = 0
    for number, run in enumerate(counts):
        if number % 2 and run:
            first, last = divmod(place, height), divmod(place + run - 1, height)
            whole = last[0] > first[0]  # it goes on in the next column
            low, high = (0, height - 1) if whole else (first[1], last[1])
            left = first[0] if left < 0 else left
            right = last[0]
            top = low if top < 0 else min(top, low)
            bottom = max(bottom, high)
            area += run
        place += run
    if not area:
        return [0.0, 0.0, 0.0, 0.0], 0.0
    return [float(n) for n in (left, top, right - left + 1, bottom - top + 1)], float(area)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
