"""Putting the bundle together and publishing it: files first, bundle.json last, alias by CAS.

The alias moves only if it still is where it was when the gate looked. A race lost, or a gate that
said no, leaves the version published and unpromoted: nothing is hidden, nothing is half there.
"""

import getpass
import importlib.metadata
import platform
import socket
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pydantic_core

from visionloop import images
from visionloop.bundle import (
    BundleFile,
    BundleLabel,
    Calibration,
    ClassificationBundle,
    ConformalSets,
    GoldenItem,
    GoldenSet,
    Provenance,
    TensorInput,
    TensorOutput,
    Thresholds,
)
from visionloop.preprocessing import Preprocessing
from visionloop.repository import file_entry
from visionloop_training.calibrate import Calibrated
from visionloop_training.config import TrainingConfig
from visionloop_training.data import Blobs, Dataset, Item
from visionloop_training.evaluate import Evaluation
from visionloop_training.export import INPUT, Session
from visionloop_training.familiarity import OUTPUT
from visionloop_training.lanes import Origin
from visionloop_training.made import Made
from visionloop_training.metrics import Floats
from visionloop_training.parity import Parity

GRAPH = "model.onnx"
GOLDEN = "golden/golden.json"
_LIBRARIES = ("numpy", "onnx", "onnxruntime", "pillow", "timm", "torch", "torchvision")


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
        queues = [[i for i in split if i.label == label] for label in range(len(data.class_ids))]
        longest = max(map(len, queues))
        turns = [q[turn] for turn in range(longest) for q in queues if turn < len(q)]
        chosen += turns[: wanted - len(chosen)]
    return chosen


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


def make_bundle(
    *,
    folder: Path,
    model: str,
    version: int,
    run_id: str,
    parent_version: int | None,
    data: Dataset,
    config: TrainingConfig,
    origin: Origin,
    made: Made,
    preprocessing: Preprocessing,
    session: Session,
    calibrated: Calibrated,
    parity: Parity,
    evaluation: Evaluation,
    distance: float | None,
) -> ClassificationBundle:
    """bundle.json for the files in `folder`."""
    height, width = preprocessing.output_size
    shapes = session.shapes
    return ClassificationBundle(
        model=model,
        version=version,
        created=datetime.now(UTC),
        labels=[
            BundleLabel(id=class_id, name=name)
            for class_id, name in zip(data.class_ids, data.class_names, strict=True)
        ],
        graph=GRAPH,
        input=TensorInput(name=INPUT, height=height, width=width),
        preprocessing=preprocessing,
        outputs=[
            TensorOutput(name="logits", kind="logits", shape=[int(shapes["logits"][1])]),
            TensorOutput(
                name="probabilities", kind="probabilities", shape=[int(shapes["probabilities"][1])]
            ),
            TensorOutput(name="embedding", kind="embedding", shape=[int(shapes["embedding"][1])]),
            *([] if distance is None else [TensorOutput(name=OUTPUT, kind="distance", shape=[1])]),
        ],
        calibration=Calibration(
            temperature=calibrated.temperature,
            ece_before=calibrated.ece_before,
            ece_after=calibrated.ece_after,
        ),
        thresholds=thresholds(calibrated, distance),
        golden=GoldenSet(
            file=GOLDEN,
            items=parity.images,
            before_ready=min(8, parity.images),
            max_probability_difference={"default": parity.limit},
        ),
        metrics=headline(evaluation, parity, data),
        provenance=Provenance(
            dataset=data.name,
            snapshot=data.snapshot,
            parent_version=parent_version,
            run_id=run_id,
            code_version=code_version(),
            seed=config.seed,
            backbone=origin.backbone,
            backbone_sha256=origin.backbone_sha256,
            lane=origin.lane,
            body_version=origin.body_version or version,
            **asdict(made),
            config=config.model_dump(mode="json"),
            libraries=libraries(),
        ),
        files=_entries(folder),
    )


def thresholds(calibrated: Calibrated, distance: float | None) -> Thresholds:
    """When an answer of the model is "not sure"; `distance` as `familiarity.add` found it."""
    sets = calibrated.sets
    return Thresholds(
        not_sure=calibrated.not_sure,
        distance=distance,
        conformal=None
        if sets is None
        else ConformalSets(score=sets.score, coverage=sets.coverage, quantile=sets.quantile),
    )


def headline(evaluation: Evaluation, parity: Parity, data: Dataset) -> dict[str, float]:
    """The numbers that lists and the alias history show."""
    return {
        "accuracy": evaluation.accuracy.value,
        "accuracy_low": evaluation.accuracy.low,
        "accuracy_high": evaluation.accuracy.high,
        "balanced_accuracy": evaluation.balanced_accuracy.value,
        "macro_precision": evaluation.macro_precision.value,
        "macro_recall": evaluation.macro_recall.value,
        "macro_f1": evaluation.macro_f1.value,
        **({} if evaluation.macro_auroc is None else {"macro_auroc": evaluation.macro_auroc.value}),
        "test_ece": evaluation.ece.value,
        "parity_max_abs_probability_difference": parity.max_probability_difference,
        "train_images": len(data.train),
        "val_images": len(data.val),
        "test_images": len(data.test),
    }


def code_version() -> str:
    """Of this suite."""
    return importlib.metadata.version("visionloop")


def libraries() -> dict[str, str]:
    """The versions that can change a result."""
    found = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), **found}


def _entries(folder: Path) -> dict[str, BundleFile]:
    return {
        path.relative_to(folder).as_posix(): file_entry(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
