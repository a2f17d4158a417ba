"""COCO JSON: boxes, polygons and masks, with or without the images in the same archive.

One file or several (`instances_train.json`, `instances_val.json`: the split is not taken over). An
annotation with neither box nor segmentation names a class of the whole image. Class names count,
ids of categories do not. Key points and captions are passed over. What our own export writes beside
an image (group, attributes, note) comes back.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final

from sqlalchemy.orm import Session

from visionloop_labeling.annotation import Draft, DraftBox, DraftShape
from visionloop_labeling.importers import documents, masks
from visionloop_labeling.importers.entries import Entry, SourceError, Step
from visionloop_labeling.importers.frames import Canvas
from visionloop_labeling.importers.parameters import CocoParameters
from visionloop_labeling.importers.pictures import Pictures
from visionloop_labeling.receipts import Receipt

_PARTS: Final = ("images", "annotations", "categories")
_MAX_CLASS: Final = 200  # characters


@dataclass(frozen=True, slots=True)
class _Image:
    place: str  # in the file, for messages: images.3
    values: Any  # as in the file
    folder: str  # that the file lay in
    annotations: Sequence[tuple[str, Any]]  # (place in the file, as in the file)
    classes: Mapping[Any, str]
    fault: SourceError | None


class CocoImporter:
    """The images of COCO files, in the files' order. `tables` are (name, bytes)."""

    def __init__(
        self, tables: Sequence[tuple[str, bytes]], pictures: Pictures, parameters: CocoParameters
    ) -> None:
        self._pictures = pictures
        self._parameters = parameters
        self._images: list[_Image] = []
        self._passed_over = Counter[str]()
        for name, data in tables:
            document = documents.parse(data, name)
            if _is_coco(document):
                self._images += self._read(document, str(PurePosixPath(name).parent))
            elif len(tables) == 1:
                raise SourceError(
                    "the JSON is not COCO: it must be an object with images, annotations and "
                    "categories",
                    reason="no_coco",
                )
        if not self._images:
            raise SourceError("no COCO file names an image", reason="no_images")
        self.rows = len(self._images)
        self.remark = "; ".join(f"{count} {what}" for what, count in self._passed_over.items())

    def steps(self, start: int) -> Iterator[Step]:
        for ordinal in range(start, self.rows):
            image = self._images[ordinal]
            name = image.values.get("file_name") if isinstance(image.values, dict) else None
            source = name if isinstance(name, str) else image.place
            yield ordinal, source, partial(self._entry, image)

    def settle(self, session: Session, receipts: Sequence[Receipt]) -> None:
        """Nothing beside the receipts is kept."""

    def close(self) -> None:
        self._pictures.close()

    def _read(self, document: Mapping[str, Any], folder: str) -> list[_Image]:
        classes = _classes(document["categories"])
        by_image = defaultdict[Any, list[tuple[str, Any]]](list)
        for number, annotation in enumerate(document["annotations"]):
            if isinstance(annotation, dict):
                by_image[_key(annotation.get("image_id"))].append(
                    (f"annotations.{number}", annotation)
                )
            else:
                self._passed_over["annotations that are no objects"] += 1
        images, seen = [], set[Any]()
        for number, values in enumerate(document["images"]):
            key = _key(values.get("id")) if isinstance(values, dict) else None
            fault = None
            if key is None or key in seen:
                fault = SourceError(
                    f"images.{number}.id is missing or there twice",
                    reason="invalid_row",
                    field="id",
                )
            seen.add(key)
            own = () if fault else by_image.pop(key, ())
            images.append(_Image(f"images.{number}", values, folder, own, classes, fault))
        if left := sum(map(len, by_image.values())):
            self._passed_over["annotations name images that the file has not"] += left
        return images

    def _entry(self, image: _Image) -> Entry:
        if image.fault is not None:
            raise image.fault
        name = documents.text(image.values.get("file_name"), f"{image.place}.file_name")
        url = image.values.get("coco_url")
        reference = url if isinstance(url, str) and url and not self._pictures.members else name
        picture = self._pictures.find(reference, beside=image.folder)
        canvas = Canvas(picture.frame, _size(image))
        group = image.values.get("group")
        return Entry(
            source=name,
            image=picture.image,
            sha256=picture.sha256,
            annotation=self._draft(image, canvas),
            group=group if isinstance(group, str) else "",
            remark=canvas.remark if image.annotations else "",
        )

    def _draft(self, image: _Image, canvas: Canvas) -> Draft | None:
        field = f"{image.place}.attributes"
        attributes = documents.attributes(image.values.get("attributes") or {}, field)
        note = image.values.get("note")
        note = note if isinstance(note, str) else ""
        if not image.annotations:
            empty = () if self._parameters.unannotated == "empty" else None
            draft = Draft(boxes=empty, attributes=attributes, note=note)
            return draft if draft.stored() else None
        classes: list[str] = []
        boxes: list[DraftBox] = []
        shapes: list[DraftShape] = []
        for place, annotation in image.annotations:
            name = _class_of(annotation, image.classes, place)
            found = _shapes(annotation, name, canvas, place)
            shapes += found
            bbox = annotation.get("bbox")
            # Our exports say which boxes were only computed from the segmentation.
            if bbox and not (found and annotation.get("bbox_of") == "segmentation"):
                boxes.append(_box(annotation, bbox, name, canvas, place))
            elif not found:
                classes.append(name)
        return Draft(
            classes=tuple(dict.fromkeys(classes)) or None,
            boxes=tuple(boxes) or None,
            shapes=tuple(shapes),
            attributes=attributes,
            note=note,
        )


def _is_coco(document: Any) -> bool:
    return isinstance(document, dict) and all(
        isinstance(document.get(part), list) for part in _PARTS
    )


def _classes(categories: Sequence[Any]) -> dict[Any, str]:
    classes: dict[Any, str] = {}
    for number, category in enumerate(categories):
        place = f"categories.{number}"
        values = documents.members(category, place)
        name = documents.text(values.get("name"), f"{place}.name")
        key = _key(values.get("id"))
        if key is None or classes.get(key, name) != name or len(name) > _MAX_CLASS:
            raise SourceError(
                f"{place} has no id of its own, or a name of more than {_MAX_CLASS} characters",
                reason="no_coco",
                field=place,
            )
        classes[key] = name
    return classes


def _key(value: Any) -> Any:
    """An id as a key; a list or an object is none."""
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _size(image: _Image) -> tuple[int, int] | None:
    values = image.values
    if not values.get("width") or not values.get("height"):
        return None
    width = documents.whole(values["width"], f"{image.place}.width")
    return width, documents.whole(values["height"], f"{image.place}.height")


def _class_of(annotation: Mapping[str, Any], classes: Mapping[Any, str], place: str) -> str:
    name = classes.get(_key(annotation.get("category_id")))
    if name is None:
        raise documents.wrong(
            annotation.get("category_id"), f"{place}.category_id", "the id of a category"
        )
    return name


def _box(
    annotation: Mapping[str, Any], bbox: Any, name: str, canvas: Canvas, place: str
) -> DraftBox:
    x, y, width, height = documents.numbers(bbox, f"{place}.bbox", 4)
    attributes = documents.attributes(annotation.get("attributes") or {}, f"{place}.attributes")
    return canvas.box(name, (x, y), (width, height), f"{place}.bbox", attributes)


def _shapes(
    annotation: Mapping[str, Any], name: str, canvas: Canvas, place: str
) -> list[DraftShape]:
    """The polygons of a segmentation, or its mask."""
    segmentation, field = annotation.get("segmentation"), f"{place}.segmentation"
    if not segmentation:
        return []
    if isinstance(segmentation, dict):
        size = documents.numbers(segmentation.get("size"), f"{field}.size", 2)
        height, width = (documents.whole(side, f"{field}.size") for side in size)
        counts = masks.counts_of(segmentation.get("counts"), height * width, f"{field}.counts")
        return [canvas.mask(name, counts, (height, width), field)]
    polygons = []
    for number, ring in enumerate(documents.items(segmentation, field)):
        flat = documents.numbers(ring, f"{field}.{number}")
        if len(flat) % 2:
            raise documents.wrong(len(flat), f"{field}.{number}", "an even count of coordinates")
        points = list(zip(flat[::2], flat[1::2], strict=True))
        polygons.append(canvas.polygon(name, points, f"{field}.{number}"))
    return polygons
