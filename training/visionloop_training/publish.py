"""Putting the bundle together and publishing it: files first, bundle.json last, alias by CAS.

The alias moves only if it still is where it was when the gate looked. A race lost, or a gate that
said no, leaves the version published and unpromoted: nothing is hidden, nothing is half there.
"""

import getpass
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pydantic_core

from visionloop import images
from visionloop.bundle import (
    BundleFile,
    BundleLabel,
    GoldenItem,
    GoldenSet,
    Provenance,
    TensorInput,
    TensorOutput,
)
from visionloop.repository import file_entry
from visionloop_training import software
from visionloop_training.candidate import Candidate, Claim
from visionloop_training.data import Blobs, Dataset, Item
from visionloop_training.export import INPUT
from visionloop_training.familiarity import OUTPUT
from visionloop_training.half_precision import HalfPrecision
from visionloop_training.intervals import Interval
from visionloop_training.metrics import Floats
from visionloop_training.parity import Parity
from visionloop_training.turns import in_turns

GRAPH = "model.onnx"
HALF = "model.fp16.onnx"  # `Bundle.half_graph` of it
GOLDEN = "golden/golden.json"


def new_run_id() -> str:
    """Unique, and sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:12]}"


def default_who() -> str:
    """The person or pod that is running this, for the alias history."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a container user without a name
        return socket.gethostname()


def golden_items(data: Dataset, wanted: int) -> list[Item]:
    """Images for the parity proof and the golden set: test, then val, then train; all classes.

    Taken in turn from each class in order of digest, so that the choice is stable and a rare class
    is there.
    """
    chosen: list[Item] = []
    for split in (data.test, data.val, data.train):
        if len(chosen) < wanted:
            chosen += in_turns(_by_class(split, len(data.class_ids)), wanted - len(chosen))
    return chosen


def _by_class(items: Sequence[Item], classes: int) -> list[list[Item]]:
    """The items of each class; an image of several is of each of them, one of none comes last."""
    found: list[list[Item]] = [[] for _ in range(classes + 1)]
    for item in items:
        for place in item.classes or (classes,):
            found[place].append(item)
    return found


def write_golden(folder: Path, items: Sequence[Item], probabilities: Floats, blobs: Blobs) -> None:
    """Writes the encoded images and golden.json with what model.onnx answered."""
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    entries: list[GoldenItem] = []
    for item, row in zip(items, probabilities, strict=True):
        data = blobs.read(item.sha256)
        ending = images.read_header(data).media_type.rpartition("/")[2]
        name = f"golden/{item.sha256[:16]}.{ending}"
        (folder / name).write_bytes(data)
        entries.append(GoldenItem(file=name, probabilities=[float(p) for p in row]))
    (folder / GOLDEN).write_bytes(pydantic_core.to_json(entries, indent=1))


def properties(data: Dataset) -> dict[str, str]:
    """What model.onnx says about itself."""
    return {
        "visionloop.dataset": data.name,
        "visionloop.snapshot": data.snapshot,
        "visionloop.labels": ",".join(data.class_ids),
    }


def bundle_fields(
    candidate: Candidate, claim: Claim, headline: Mapping[str, float]
) -> dict[str, Any]:
    """What bundle.json says of the candidate's files, but for what depends on the task.

    `headline` are the task's numbers.
    """
    data, config, origin = candidate.data, candidate.config, candidate.lane.origin
    parity, preprocessing = candidate.parity, candidate.lane.preprocessing
    height, width = preprocessing.output_size
    shapes = candidate.session.shapes
    return {
        "model": claim.model,
        "version": claim.version,
        "created": datetime.now(UTC),
        "labels": [
            BundleLabel(id=class_id, name=name)
            for class_id, name in zip(data.class_ids, data.class_names, strict=True)
        ],
        "graph": GRAPH,
        "input": TensorInput(name=INPUT, height=height, width=width),
        "preprocessing": preprocessing,
        "outputs": [
            TensorOutput(name="logits", kind="logits", shape=[int(shapes["logits"][1])]),
            TensorOutput(
                name="probabilities", kind="probabilities", shape=[int(shapes["probabilities"][1])]
            ),
            TensorOutput(name="embedding", kind="embedding", shape=[int(shapes["embedding"][1])]),
            *([TensorOutput(name=OUTPUT, kind="distance", shape=[1])] if OUTPUT in shapes else []),
        ],
        "golden": GoldenSet(
            file=GOLDEN,
            items=parity.images,
            before_ready=min(8, parity.images),
            max_probability_difference={"default": parity.limit, **_half_limits(candidate.half)},
        ),
        "metrics": {**headline, **_half_metrics(candidate.half)},
        "provenance": Provenance(
            dataset=data.name,
            snapshot=data.snapshot,
            parent_version=claim.parent_version,
            run_id=claim.run_id,
            code_version=software.code_version(),
            seed=config.seed,
            backbone=origin.backbone,
            backbone_sha256=origin.backbone_sha256,
            lane=origin.lane,
            body_version=origin.body_version or claim.version,
            **asdict(candidate.machine),
            config=config.model_dump(mode="json"),
            libraries=software.libraries(),
        ),
        "files": _entries(candidate.folder),
    }


def _half_limits(half: HalfPrecision | None) -> dict[str, float]:
    """Where servers may take the 16-bit sibling, and how far its answers may be off there."""
    if half is None or not half.passed:
        return {}
    return dict.fromkeys(("fp16/cuda", "fp16/tensorrt"), half.limit)


def _half_metrics(half: HalfPrecision | None) -> dict[str, float]:
    if half is None or half.max_probability_difference is None or not half.passed:
        return {}
    return {"half_max_abs_probability_difference": half.max_probability_difference}


class Averages(Protocol):
    """What the evaluations of all tasks have."""

    @property
    def macro_precision(self) -> Interval: ...
    @property
    def macro_recall(self) -> Interval: ...
    @property
    def macro_f1(self) -> Interval: ...
    @property
    def macro_auroc(self) -> Interval | None: ...
    @property
    def ece(self) -> Interval: ...


def averages(found: Averages) -> dict[str, float]:
    """The headline numbers that models of all tasks have."""
    area = found.macro_auroc
    return {
        "macro_precision": found.macro_precision.value,
        "macro_recall": found.macro_recall.value,
        "macro_f1": found.macro_f1.value,
        **({} if area is None else {"macro_auroc": area.value}),
        "test_ece": found.ece.value,
    }


def counts(parity: Parity, data: Dataset) -> dict[str, float]:
    """The headline numbers that are no measure of the model's answers."""
    return {
        "parity_max_abs_probability_difference": parity.max_probability_difference,
        "train_images": len(data.train),
        "val_images": len(data.val),
        "test_images": len(data.test),
    }


def _entries(folder: Path) -> dict[str, BundleFile]:
    return {
        path.relative_to(folder).as_posix(): file_entry(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
