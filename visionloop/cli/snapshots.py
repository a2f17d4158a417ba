"""`visionloop snapshots`: cut them, look at them, compare them."""

import argparse
from dataclasses import asdict

from visionloop.cli.connection import open_labeling
from visionloop.cli.output import Output
from visionloop.cli.store import open_from
from visionloop.errors import NotFoundError


def create(options: argparse.Namespace, output: Output) -> int:
    """Asks the labeling-ingest service to cut a snapshot."""
    from visionloop.snapshot import SPLITS

    with open_labeling(options) as client:
        receipt = client.create_snapshot(options.dataset)
    output.result(asdict(receipt))
    counts = ", ".join(f"{split} {receipt.split_images.get(split, 0)}" for split in SPLITS)
    news = "" if receipt.created else " (nothing new since it was cut)"
    output.line(f"{receipt.id}: {counts}{news}")
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
    manifest = repository.read(options.dataset, options.id).manifest
    output.result(manifest.model_dump(mode="json"))
    output.fields(
        {
            "dataset": manifest.dataset,
            "id": manifest.id,
            "created": manifest.created,
            "parent": manifest.parent,
            "groups": manifest.groups,
            "largest group": manifest.largest_group,
            "leaking pairs": manifest.leak_pairs,
        }
    )
    output.line()
    rows: list[list[object]] = []
    for label_class in manifest.classes:
        counts = [manifest.class_images.get(split, {}).get(label_class.id, 0) for split in SPLITS]
        rows.append([label_class.name, *counts])
    rows.append(["all", *(manifest.split_images.get(split, 0) for split in SPLITS)])
    output.table(["class", *SPLITS], rows)
    return 0


def diff(options: argparse.Namespace, output: Output) -> int:
    """What the second snapshot has, lacks or says otherwise than the first."""
    from visionloop.snapshot import SnapshotRepository
    from visionloop.snapshot import diff as compare

    repository = SnapshotRepository(open_from(options))
    before = repository.read(options.dataset, options.before)
    after = repository.read(options.dataset, options.after)
    changes = asdict(compare(before, after))
    output.result({"before": before.manifest.id, "after": after.manifest.id, **changes})
    output.fields(
        {
            name.replace("_", " "): len(items)
            for name, items in changes.items()
            if isinstance(items, list | tuple)
        }
    )
    return 0
