"""The benchmark's models in a file store, as the service takes them.

Plain graphs go in by the product's own door, `visionloop models add`. The images' classifier needs
what only training makes (labels, calibration, golden images), so its bundle is written here through
the same classes that training uses.
"""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.serving.limits import preprocessing, session
from bench.serving.models import CLASSES, INPUT, SIDE, Model
from visionloop.bundle import (
    BundleLabel,
    ClassificationBundle,
    GoldenItem,
    GoldenSet,
    Provenance,
    TensorInput,
    TensorOutput,
)
from visionloop.calibration import Calibration, Thresholds
from visionloop.errors import VisionloopError
from visionloop.images import decode
from visionloop.objectstore import open_store
from visionloop.record import record_bytes
from visionloop.repository import ModelRepository, file_entry

CLASSIFIER = "classifier"
PROBABILITIES = "probabilities"
GOLDEN = 8  # images
_RUN = "bench-serving"


def publish_graph(model: Model, graph: Path, store: str) -> None:
    """Adds the ONNX file under the model's name and makes it stable, unless it is there.

    Raises VisionloopError with what the command said.
    """
    if ModelRepository(open_store(store)).versions(model.name):
        return
    command = [
        sys.executable, "-m", "visionloop.cli", "models", "add", str(graph), "--store", store,
        "--model", model.name, "--promote", "--why", "the serving benchmark",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise VisionloopError(f"visionloop models add failed: {done.stderr.strip()[-500:]}")


def publish_classifier(graph: Path, pictures: list[Path], store: str) -> None:
    """The classifier's bundle, made stable, unless it is there."""
    repository = ModelRepository(open_store(store))
    if not repository.versions(CLASSIFIER):
        add_classifier(graph, pictures, repository, _RUN)


def add_classifier(graph: Path, pictures: list[Path], repository: ModelRepository, run: str) -> int:
    """One more version of the classifier, made stable; its number."""
    version = repository.claim(CLASSIFIER, run)
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(graph.read_bytes())
        write_golden(folder, graph, pictures[:GOLDEN])
        repository.publish(classifier_bundle(folder, version, run), folder)
    repository.promote(
        CLASSIFIER,
        version,
        expected=repository.aliases(CLASSIFIER),
        who=run,
        why="the serving benchmark",
    )
    return version


def write_golden(folder: Path, graph: Path, pictures: list[Path]) -> None:
    """The pictures and what the graph answers to them, as golden images of a bundle."""
    prepare = preprocessing()
    rows = np.stack([prepare(decode(picture.read_bytes())) for picture in pictures])
    (answers,) = session(str(graph), 1).run([PROBABILITIES], {INPUT: rows})
    (folder / "golden").mkdir()
    items = []
    for picture, answer in zip(pictures, answers, strict=True):
        file = f"golden/{picture.name}"
        (folder / file).write_bytes(picture.read_bytes())
        items.append(GoldenItem(file=file, probabilities=answer.tolist()))
    written = b"[" + b",".join(map(record_bytes, items)) + b"]"
    (folder / "golden/golden.json").write_bytes(written)


def classifier_bundle(
    folder: Path, version: int, run: str, allowed: dict[str, float] | None = None
) -> ClassificationBundle:
    """What bundle.json says of the files in `folder`. `allowed` differences: 1e-3 everywhere."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return ClassificationBundle(
        model=CLASSIFIER,
        version=version,
        created=datetime.now(UTC),
        labels=[BundleLabel(id=f"c{i}", name=f"Class {i}") for i in range(CLASSES)],
        input=TensorInput(name=INPUT, height=SIDE, width=SIDE),
        preprocessing=preprocessing(),
        outputs=[TensorOutput(name=PROBABILITIES, kind="probabilities", shape=[CLASSES])],
        calibration=Calibration(temperature=1.0, ece_before=0.0, ece_after=0.0),
        thresholds=Thresholds(not_sure=0.0),
        golden=GoldenSet(
            file="golden/golden.json",
            items=GOLDEN,
            max_probability_difference=allowed or {"default": 1e-3},
        ),
        metrics={},
        provenance=Provenance(
            dataset="none",
            snapshot="sha256-" + "0" * 64,
            parent_version=None,
            run_id=run,
            code_version="bench",
            seed=0,
            backbone="mobilenet_v3_small, random weights",
            backbone_sha256=None,
            config={},
            libraries={},
        ),
        files={path.relative_to(folder).as_posix(): file_entry(path) for path in files},
    )
