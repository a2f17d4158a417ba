"""One training run the way a user has it: a snapshot in a store, `visionloop-train`, its answer.

The program runs as a process of its own, so its seconds are wall seconds from a cold start to a
published bundle: reading, features, fitting, calibration, export, parity proof and the test part,
scored on the exported file in onnxruntime.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.accuracy.splits import Kind, Part
from bench.accuracy.subjects import Subject
from visionloop import images
from visionloop.errors import ConflictError, VisionloopError
from visionloop.objectstore import open_store
from visionloop.snapshot import SnapshotClass, SnapshotRepository, SnapshotRow, blob_key

MODEL = "candidate"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the trainer is told: a preset and settings on top of the subject's own."""

    preset: str
    settings: tuple[str, ...] = ()
    doubtful_weight: float = 1.0  # of a train image whose label is not certain

    def as_json(self) -> dict[str, Any]:
        """As records hold it."""
        return {**asdict(self), "settings": list(self.settings)}

    def arguments(self, subject: Subject, seed: int) -> list[str]:
        """Flags of visionloop-train."""
        settings = (*subject.settings, *self.settings, f"seed={seed}")
        return ["--preset", self.preset, *(f for s in settings for f in ("--set", s))]


@dataclass(frozen=True, slots=True)
class Task:
    """One cell of the table: which images are trained on, and which are asked about."""

    subject: str
    split: Kind
    seed: int
    inner: bool  # choosing: the test part is set aside, and what is scored is a part of train


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    images: dict[str, int]  # part -> images
    accuracy: float
    seconds: float  # from starting the program to its end
    cpu_seconds: float  # of all its threads
    details: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def write_snapshot(
    store_url: str,
    task: Task,
    subject: Subject,
    parts: Sequence[Part | None],
    groups: Sequence[int],
    doubtful_weight: float,
) -> str:
    """The pictures that have a part, as a snapshot of a dataset of their own; its name."""
    store = open_store(store_url)
    rows = []
    for picture, part, group in zip(subject.pictures, parts, groups, strict=True):
        if part is None:
            continue
        try:
            store.put_if_absent(blob_key(picture.sha256), picture.data)
        except ConflictError:
            pass
        height, width = images.decode(picture.data).shape[:2]
        doubtful = part == "train" and picture.certainty < 1.0
        rows.append(
            SnapshotRow(
                sha256=picture.sha256,
                width=width,
                height=height,
                split=part,
                # Plain splits cut through likenesses on purpose, which a group may not.
                group_id=f"group-{group}" if task.split == "grouped" else picture.sha256,
                class_id=picture.label,
                attributes=picture.attributes,
                weight=doubtful_weight if doubtful else 1.0,
                label_source="import",
            )
        )
    name = f"{task.subject}-{task.split}-{task.seed}{'-inner' if task.inner else ''}"
    classes = [SnapshotClass(id=label, name=label) for label in subject.classes]
    policy: dict[str, object] = {"split": task.split, "seed": task.seed, "inner": task.inner}
    SnapshotRepository(store).write(name, rows, classes, policy, label_sequence=1, parent=None)
    return name


def train(
    store_url: str,
    dataset: str,
    arguments: Sequence[str],
    cache: Path | None,
    threads: int,
    log: Path,
) -> Outcome:
    """Runs the program to its end, its progress in `log`. Without `cache` it begins with none.

    Raises VisionloopError with the program's last words when it fails.
    """
    with tempfile.TemporaryDirectory(prefix="cache-", dir=log.parent) as empty:
        command = [
            *(sys.executable, "-m", "visionloop_training", "--store", store_url, "--json"),
            *("--dataset", dataset, "--model", MODEL, "--cache", str(cache or empty)),
            *(
                "--who",
                "bench",
                "--no-promote",
                "--again",
                *arguments,
                "--set",
                f"threads={threads}",
            ),
        ]
        started, used = time.perf_counter(), cpu_of_children()
        with log.open("w") as errors:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, check=False
            )
        seconds, cpu = time.perf_counter() - started, cpu_of_children() - used
    if done.returncode:
        words = log.read_text()[-2000:]
        raise VisionloopError(f"training ended with {done.returncode}: {words}")
    found = json.loads(done.stdout)
    return Outcome(
        images={part: found[f"{part}_images"] for part in ("train", "val", "test")},
        accuracy=found["metrics"]["accuracy"],
        seconds=seconds,
        cpu_seconds=cpu,
        details={
            "version": found["version"],
            "metrics": found["metrics"],
            "timings": found["timings"],
            "features_computed": found["features_computed"],
            "kept_epoch": found["kept_epoch"],
            "curves": _curves(store_url, found["version"]),
        },
    )


def cpu_of_children() -> float:
    """CPU seconds of all processes that this one started and waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def effective(arguments: Sequence[str]) -> dict[str, Any]:
    """The whole configuration that these flags make, as visionloop-train itself says."""
    command = [sys.executable, "-m", "visionloop_training", "--show-config", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VisionloopError(done.stderr.strip())
    tree: dict[str, Any] = yaml.safe_load(done.stdout)
    return tree


def _curves(store_url: str, version: int) -> list[dict[str, float]]:
    report = open_store(store_url).get(f"models/{MODEL}/versions/{version}/report/report.json")
    curves: list[dict[str, float]] = json.loads(report.data)["fit"]["curves"]
    return curves
