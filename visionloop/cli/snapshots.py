"""`visionloop snapshots`: cut them, look at them, compare them."""

import argparse
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from visionloop.cli.connection import open_labeling
from visionloop.cli.output import Output
from visionloop.cli.store import open_from
from visionloop.errors import NotFoundError

if TYPE_CHECKING:
    from visionloop.snapshot import SnapshotDiff, SnapshotManifest

# A cut of a million images takes minutes; it holds nobody up.
CUT_SECONDS: Final = 3600.0
_SHOWN_CLASS_CHANGES: Final = 1000


def create(options: argparse.Namespace, output: Output) -> int:
    """Asks the labeling-ingest service to cut a snapshot."""
    from visionloop.snapshot import SPLITS

    with open_labeling(options) as client:
        receipt = client.create_snapshot(options.dataset, timeout=CUT_SECONDS)
    output.result(asdict(receipt))
    counts = ", ".join(f"{split} {receipt.split_images.get(split, 0)}" for split in SPLITS)
    news = "" if receipt.created else " (nothing new since it was cut)"
    output.line(f"{receipt.id}: {counts}{news}")
    left_out = {reason: count for reason, count in receipt.left_out.items() if count}
    if left_out:
        reasons = ", ".join(f"{count} {words(reason)}" for reason, count in left_out.items())
        output.line(f"left out: {reasons}")
    return 0


def list_snapshots(options: argparse.Namespace, output: Output) -> int:
    """All snapshots of one dataset, or of all, oldest first."""
    from visionloop.snapshot import SnapshotRepository

    repository = SnapshotRepository(open_from(options))
    datasets = [options.dataset] if options.dataset else repository.datasets()
    manifests = [manifest for name in datasets for manifest in repository.list(name)]
    if options.dataset and not manifests:
        known = ", ".join(repository.datasets()) or "none"
        raise NotFoundError(
            f"dataset {options.dataset!r} has no snapshot in this store; datasets that have: "
            f"{known}. To cut one: visionloop snapshots create {options.dataset}"
        )
    output.result([manifest.model_dump(mode="json") for manifest in manifests])
    if not manifests:
        output.line("no snapshots yet; cut one: visionloop snapshots create DATASET")
        return 0
    output.table(
        ["dataset", "id", "created", "train", "val", "test", "classes"],
        [
            [
                manifest.dataset,
                manifest.id[:19],
                manifest.created,
                *(manifest.split_images.get(split, 0) for split in ("train", "val", "test")),
                len(manifest.classes),
            ]
            for manifest in manifests
        ],
    )
    return 0


def show(options: argparse.Namespace, output: Output) -> int:
    """One snapshot: images per split and class, groups, policy. Verifies every part."""
    from visionloop.snapshot import SPLITS, SnapshotRepository

    repository = SnapshotRepository(open_from(options))
    manifest = repository.manifest(options.dataset, options.id)
    for _ in repository.stream(manifest):  # which verifies it
        pass
    output.result(manifest.model_dump(mode="json"))
    output.fields(
        {
            "dataset": manifest.dataset,
            "id": manifest.id,
            "created": manifest.created,
            "parent": manifest.parent,
            "task": manifest.task,
            "label events": manifest.label_sequence,
            "label sources": _counted(_sources(manifest)),
            "saw suggestions of": _counted(manifest.suggested_by),
            "groups": manifest.groups,
            "largest group": manifest.largest_group,
            "leaking pairs": manifest.leak_pairs,
            "pairs parted": _counted(manifest.leaks.pairs),
            "left out": _counted(manifest.leaks.left_out),
        }
    )
    output.line()
    rows: list[list[object]] = []
    for label_class in manifest.classes:
        counts = [manifest.class_images.get(split, {}).get(label_class.id, 0) for split in SPLITS]
        rows.append([label_class.name, *counts, manifest.class_weights.get(label_class.id)])
    rows.append(["all", *(manifest.split_images.get(split, 0) for split in SPLITS), None])
    output.table(["class", *SPLITS, "weight"], rows)
    return 0


def words(reason: str) -> str:
    """A reason as it stands in a manifest, for people."""
    return reason.replace("_", " ")


def _sources(manifest: "SnapshotManifest") -> dict[str, int]:
    """Images by who gave the label; in all splits together."""
    counts: Counter[str] = Counter()
    for sources in manifest.label_sources.values():
        counts.update(sources)
    return dict(counts)


def _counted(counts: Mapping[str, int]) -> str | None:
    shown = [f"{count} {words(name)}" for name, count in counts.items() if count]
    return ", ".join(shown) or None


def diff(options: argparse.Namespace, output: Output) -> int:
    """What the second snapshot has, lacks or says otherwise than the first."""
    from visionloop.snapshot import SnapshotRepository
    from visionloop.snapshot_diff import diff_rows

    repository = SnapshotRepository(open_from(options))
    before = repository.manifest(options.dataset, options.before)
    after = repository.manifest(options.dataset, options.after)
    # What is shown to people are counts; a program gets the whole lists.
    most = None if output.as_json else _SHOWN_CLASS_CHANGES
    changes = diff_rows(repository.stream(before), repository.stream(after), most=most)
    counts = changes.counts
    output.result({"before": before.id, "after": after.id, **asdict(changes)})
    output.fields(
        {
            "images added": counts.added,
            "images removed": counts.removed,
            "images relabelled": counts.relabelled,
            "images redrawn": counts.redrawn,
            "images reweighted": counts.reweighted,
            "boxes moved": counts.boxes_moved,
            "boxes added": changes.boxes_added,
            "boxes removed": changes.boxes_removed,
            "in another split": counts.split_changed,
            "in another group": counts.group_changed,
        }
    )
    _show_classes(changes, before, after, output)
    return 0


def _show_classes(
    changes: "SnapshotDiff", before: "SnapshotManifest", after: "SnapshotManifest", output: Output
) -> None:
    names = {entry.id: entry.name for entry in (*before.classes, *after.classes)}
    changed = [
        [names[class_id], first, second, second - first]
        for class_id, (first, second) in changes.class_counts.items()
        if first != second
    ]
    if changed:
        output.line()
        output.table(["class", "images before", "after", "change"], changed)
    if changes.class_changes:
        output.line()
        rows = [
            [names.get(one.before, "-"), names.get(one.after, "-"), one.count]
            for one in changes.class_changes
        ]
        output.table(["was", "is now", "images or boxes"], rows)
        more = changes.counts.class_changes - len(rows)
        if more:
            output.line(f"and {more} other pairs of classes, less often; --json shows all")
