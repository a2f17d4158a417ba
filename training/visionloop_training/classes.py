"""What changed about the classes, and which have too few images, in words for people.

A run goes on in all these cases; silence would make them look like a fault later. What cannot be
trained at all is refused in `data`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from visionloop_training.data import Dataset

FEW = 10  # images in train; below, a class is learned by luck


def notes(data: Dataset, stable_classes: Mapping[str, str] | None) -> list[str]:
    """One sentence for each thing that people should know, the most surprising first.

    `stable_classes` are the names of the stable version's classes by id, None where there is none.
    Classes are named as people named them: an id may be little more than a digest.
    """
    several = data.task == "multi_label"
    left = "no image counts as having it" if several else "its images are left out"
    found = [
        f"class {name!r} has labels in {' and '.join(splits)} but none in train, so nothing can be "
        f"learned of it: {left}; label some more"
        for name, splits in sorted(data.left_out.items())
    ]
    if stable_classes is not None:
        found += _changes(data, stable_classes)
    counts = {
        split: Counter(place for item in getattr(data, split) for place in item.classes)
        for split in ("train", "val", "test")
    }
    for place, name in enumerate(data.class_names):
        train, val, test = (counts[split][place] for split in ("train", "val", "test"))
        if train < FEW:
            found.append(
                f"class {name!r} has {_images(train)} in train; below {FEW} what it learns is luck"
            )
        if not val:
            found.append(
                f"class {name!r} has no image in val: calibration and the not-sure threshold know "
                "nothing of it"
            )
        if not test:
            found.append(
                f"class {name!r} has no image in test: how well it is recognised is not known, and "
                "the gate cannot see it get worse"
            )
    return found


def _changes(data: Dataset, before: Mapping[str, str]) -> list[str]:
    now = dict(zip(data.class_ids, data.class_names, strict=True))
    added = [name for class_id, name in now.items() if class_id not in before]
    retired = [name for class_id, name in before.items() if class_id not in now]
    found = []
    if added:
        found.append(
            f"new {_classes(added)}: the head has them from this version on; the gate compares on "
            "the classes that both versions know, and shows the new ones apart"
        )
    if retired:
        found.append(
            f"retired {_classes(retired)}: no image has them any more, so this version never "
            "answers them; apps that ask for them must know"
        )
    return found


def _classes(names: Sequence[str]) -> str:
    return f"{'class' if len(names) == 1 else 'classes'} {', '.join(map(repr, names))}"


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"
