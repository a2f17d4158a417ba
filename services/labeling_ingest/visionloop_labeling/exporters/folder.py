"""Labels with their images as an archive of folders: <dataset>/<split>/<class>/<image>.

What loaders of image folders read. classes.json says which class a folder is. An image that has not
exactly one class has no folder: it stands in not-exported.csv; boxes, shapes, attributes and notes
are in the CSV and COCO exports only.
"""

import json
from collections.abc import Iterator

from visionloop.objectstore import ObjectStore
from visionloop_labeling.exporters.archives import NotExported, with_images
from visionloop_labeling.exporters.names import folder_names, image_name, split_of
from visionloop_labeling.exporters.zip_stream import zip_stream
from visionloop_labeling.exports import ExportedLabel, Labels


def folder_stream(labels: Labels, store: ObjectStore) -> Iterator[bytes]:
    """The archive, image by image."""
    return zip_stream(_entries(labels, store))


def _entries(labels: Labels, store: ObjectStore) -> Iterator[tuple[str, bytes]]:
    folders = folder_names(labels.classes)
    classes = [
        {"id": key, "name": name, "folder": folders[key]} for key, name in labels.classes.items()
    ]
    listed = json.dumps(classes, ensure_ascii=False, indent=2)
    yield f"{labels.dataset}/classes.json", listed.encode()
    left_out = NotExported()
    of_one_class = (label for label in labels.images if _has_one_class(label, left_out))
    for label, image in with_images(store, of_one_class):
        folder = f"{labels.dataset}/{split_of(label)}/{folders[label.class_key]}"
        yield f"{folder}/{image_name(label)}", image
    yield from left_out.entries(f"{labels.dataset}/not-exported.csv")


def _has_one_class(label: ExportedLabel, left_out: NotExported) -> bool:
    classes = label.annotation.classes or ()
    if len(classes) == 1 and not label.outdated:
        return True
    why = "its class was split" if label.outdated else f"it has {len(classes)} classes"
    left_out.note(label, f"image: {why}")
    return False
