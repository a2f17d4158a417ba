"""report.json: everything a run measured, as plain data. The page shows it; tools read it."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from visionloop_training import publish
from visionloop_training.calibrate import Calibrated
from visionloop_training.config import TrainingConfig
from visionloop_training.data import Dataset
from visionloop_training.evaluate import Evaluation, Scored, predictions
from visionloop_training.gate import Verdict
from visionloop_training.lanes import Learned
from visionloop_training.parity import Parity


def document(
    *,
    data: Dataset,
    config: TrainingConfig,
    fitted: Learned,
    calibrated: Calibrated,
    parity: Parity,
    evaluation: Evaluation,
    scored: Scored,
    verdict: Verdict,
    features_computed: int,
    timings: Mapping[str, float],
) -> dict[str, Any]:
    """The report's content."""
    return {
        "format_version": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "dataset": data.name,
        "snapshot": data.snapshot,
        "labels": [
            {"id": class_id, "name": name}
            for class_id, name in zip(data.class_ids, data.class_names, strict=True)
        ],
        "images": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
        "config": config.model_dump(mode="json"),
        "libraries": publish.libraries(),
        "fit": {
            "curves": fitted.curves(),
            "kept_epoch": fitted.kept_epoch,
            "probe_penalty": fitted.probe_penalty,
            **fitted.recipe(),
            "features_computed": features_computed,
        },
        "calibration": asdict(calibrated),
        "parity": asdict(parity),
        "evaluation": evaluation.as_json(),
        "gate": verdict.as_json(),
        "predictions": list(predictions(scored, data.class_ids)),
        "timings": dict(timings),
    }
