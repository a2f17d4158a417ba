"""report.json: everything a run measured, as plain data. The page shows it; tools read it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from visionloop_training import software
from visionloop_training.candidate import Candidate, Claim
from visionloop_training.data import Dataset
from visionloop_training.report import predictions
from visionloop_training.search.table import as_json as search_json
from visionloop_training.verdict import Verdict

FORMAT_VERSION = 3  # 1: numbers where there are intervals now; 2: all predictions in it


def document(
    candidate: Candidate,
    claim: Claim,
    verdict: Verdict,
    parts: Mapping[str, Any],
    timings: Mapping[str, float],
) -> dict[str, Any]:
    """The report's content. `parts` are the task's own: calibration, evaluation, mistakes, …"""
    data, lane, learned = candidate.data, candidate.lane, candidate.learned
    searched = candidate.searched
    return {
        "format_version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": claim.model,
        "version": claim.version,
        "task": data.task,
        "dataset": data.name,
        "snapshot": data.snapshot,
        "labels": [
            {"id": class_id, "name": name}
            for class_id, name in zip(data.class_ids, data.class_names, strict=True)
        ],
        "images": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
        "class_images": _class_images(data),
        "backbone": {"name": lane.origin.backbone, "weights_sha256": lane.origin.backbone_sha256},
        "lane": lane.origin.lane,
        "config": candidate.config.model_dump(mode="json"),
        "libraries": software.libraries(),
        "fit": {
            "curves": learned.curves(),
            "kept_epoch": learned.kept_epoch,
            "probe_penalty": learned.probe_penalty,
            **learned.recipe(),
            "features_computed": lane.computed,
        },
        "search": search_json(searched) if searched else None,
        "parity": asdict(candidate.parity),
        "half_precision": asdict(candidate.half) if candidate.half else None,
        "gate": verdict.as_json(),
        **parts,
        "predictions": predictions.FILE,
        "timings": dict(timings),
    }


def _class_images(data: Dataset) -> dict[str, dict[str, int]]:
    """Split -> class id -> images."""
    splits = {"train": data.train, "val": data.val, "test": data.test}
    counted = {
        name: Counter(place for item in items for place in item.classes)
        for name, items in splits.items()
    }
    return {
        name: {class_id: found[index] for index, class_id in enumerate(data.class_ids)}
        for name, found in counted.items()
    }
