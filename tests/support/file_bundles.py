"""Small model bundles for tests of the repository: real files and digests, no real graph."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from visionloop.bundle import (
    BundleLabel,
    ClassificationBundle,
    GoldenSet,
    Provenance,
    TensorInput,
    TensorOutput,
)
from visionloop.calibration import Calibration, Thresholds
from visionloop.preprocessing import Preprocessing, Resize
from visionloop.repository import ModelRepository, file_entry

NO_SNAPSHOT = "sha256-" + "0" * 64


def write_bundle(
    folder: Path,
    version: int,
    *,
    model: str = "cells",
    run_id: str = "run",
    content: bytes = b"m",
    passed: bool | None = None,
    snapshot: str = NO_SNAPSHOT,
) -> ClassificationBundle:
    """Writes a few files into `folder` and returns the bundle that lists them.

    `passed` is the gate's verdict; None: there is none. `snapshot` of the dataset "cells" is what
    it says it was trained on.
    """
    contents = {
        "model.onnx": content * 1000,
        "golden/golden.json": b"[]",
        "golden/0.jpg": b"\xff\xd8" + content,
        "report/report.json": b"{}",
    }
    if passed is not None:
        contents["report/gate.json"] = json.dumps({"passed": passed}).encode()
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return ClassificationBundle(
        model=model,
        version=version,
        created=datetime.now(UTC),
        labels=[BundleLabel(id="good", name="Good"), BundleLabel(id="bad", name="Bad")],
        input=TensorInput(name="images", height=8, width=8),
        preprocessing=Preprocessing(
            steps=[Resize(height=8, width=8)], mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
        ),
        outputs=[TensorOutput(name="probabilities", kind="probabilities", shape=[2])],
        calibration=Calibration(temperature=1.5, ece_before=0.1, ece_after=0.05),
        thresholds=Thresholds(not_sure=0.6),
        golden=GoldenSet(
            file="golden/golden.json", items=1, max_probability_difference={"default": 1e-3}
        ),
        metrics={"accuracy": 0.9},
        provenance=Provenance(
            dataset="cells",
            snapshot=snapshot,
            parent_version=None,
            run_id=run_id,
            code_version="test",
            seed=0,
            backbone="none",
            backbone_sha256=None,
            config={},
            libraries={},
        ),
        files={name: file_entry(folder / name) for name in contents},
    )


def publish_version(
    repository: ModelRepository,
    folder: Path,
    *,
    model: str = "cells",
    run_id: str | None = None,
    **options: Any,
) -> ClassificationBundle:
    """Claims the next number and publishes a bundle whose content differs from all others;
    `options` as for write_bundle."""
    run = run_id or f"run-{folder.name}"
    version = repository.claim(model, run)
    content = f"{model}-{run}-{version}".encode()
    bundle = write_bundle(folder, version, model=model, run_id=run, content=content, **options)
    repository.publish(bundle, folder)
    return bundle


def publish_versions(repository: ModelRepository, folder: Path, count: int) -> None:
    """The next `count` versions of "cells"."""
    for number in range(count):
        publish_version(repository, folder / f"version-{number}")
