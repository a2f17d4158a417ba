"""report.json: everything a run measured, as plain data. The page shows it; tools read it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from visionloop_training import publish
from visionloop_training.calibrate import Calibrated
from visionloop_training.config import TrainingConfig
from visionloop_training.data import Dataset
from visionloop_training.evaluate import Evaluation, Scored, predictions
from visionloop_training.gate import Opponent, Verdict
from visionloop_training.lanes import Learned, Origin
from visionloop_training.parity import Parity

FORMAT_VERSION = 2  # 1 had numbers where there are intervals now


def document(
    *,
    model: str,
    version: int,
    data: Dataset,
    config: TrainingConfig,
    origin: Origin,
    fitted: Learned,
    calibrated: Calibrated,
    parity: Parity,
    evaluation: Evaluation,
    scored: Scored,
    opponent: Opponent | None,
    verdict: Verdict,
    distance: float | None,
    features_computed: int,
    timings: Mapping[str, float],
) -> dict[str, Any]:
    """The report's content."""
    return {
        "format_version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": model,
        "version": version,
        "dataset": data.name,
        "snapshot": data.snapshot,
        "labels": [
            {"id": class_id, "name": name}
            for class_id, name in zip(data.class_ids, data.class_names, strict=True)
        ],
        "images": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
        "class_images": _class_images(data),
        "backbone": {"name": origin.backbone, "weights_sha256": origin.backbone_sha256},
        "lane": origin.lane,
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
        "not_sure": _not_sure(scored, calibrated, distance),
        "parity": asdict(parity),
        "evaluation": evaluation.as_json(),
        "gate": verdict.as_json(),
        "comparison": _comparison(scored, opponent, verdict, data.class_ids),
        "predictions": list(predictions(scored, data.class_ids)),
        "timings": dict(timings),
    }


def _class_images(data: Dataset) -> dict[str, dict[str, int]]:
    """Split -> class id -> images."""
    splits = {"train": data.train, "val": data.val, "test": data.test}
    counted = {name: Counter(item.label for item in items) for name, items in splits.items()}
    return {
        name: {class_id: found[index] for index, class_id in enumerate(data.class_ids)}
        for name, found in counted.items()
    }


def _not_sure(scored: Scored, calibrated: Calibrated, distance: float | None) -> dict[str, Any]:
    """What the thresholds, fitted on val, do on test."""
    n = len(scored.items)
    low = scored.probabilities.max(axis=1) < calibrated.not_sure
    unfamiliar = low & False
    if distance is not None and scored.distances is not None:
        unfamiliar = scored.distances > distance
    answered = ~(low | unfamiliar)
    right = int((scored.right & answered).sum())
    told: dict[str, Any] = {
        "distance": distance,
        "low_probability": float(low.mean()),
        "unfamiliar": float(unfamiliar.mean()),
        "answered": float(answered.mean()),
        "answered_accuracy": right / max(1, int(answered.sum())),
        "wrong_and_sure": (int(answered.sum()) - right) / n,
    }
    if calibrated.sets is not None:
        sets = calibrated.sets.sets(scored.probabilities)
        told["set_coverage"] = float(sets[range(n), scored.labels].mean())
        told["set_size"] = float(sets.sum(axis=1).mean())
    return told


def _comparison(
    scored: Scored, opponent: Opponent | None, verdict: Verdict, class_ids: tuple[str, ...]
) -> dict[str, Any] | None:
    """The images on which the two models differ, with both answers; None without an opponent."""
    if opponent is None:
        return None
    theirs = opponent.answers()
    places = {item.sha256: place for place, item in enumerate(scored.items)}

    def told(sha256: str) -> dict[str, Any]:
        place = places[sha256]
        ours = scored.probabilities[place]
        return {
            "sha256": sha256,
            "label": class_ids[scored.items[place].label],
            "candidate": class_ids[int(ours.argmax())],
            "candidate_probability": round(float(ours.max()), 6),
            "stable": theirs[place],
            "stable_probability": round(float(opponent.scored.probabilities[place].max()), 6),
        }

    return {
        "version": opponent.version,
        "gained": [told(sha256) for sha256 in verdict.gained],
        "lost": [told(sha256) for sha256 in verdict.lost],
    }
