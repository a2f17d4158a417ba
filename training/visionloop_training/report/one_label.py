"""What the report says of a model that gives each image one class."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from visionloop_training.calibrate import Calibrated
from visionloop_training.evaluate import Evaluation, Scored
from visionloop_training.gate import Opponent
from visionloop_training.report import predictions
from visionloop_training.report.thresholds import curves
from visionloop_training.verdict import Verdict

WORST = 100  # mistakes that report.json names; all are in predictions.parquet


def parts(
    calibrated: Calibrated,
    distance: float | None,
    scored: Scored,
    evaluation: Evaluation,
    opponent: Opponent | None,
    verdict: Verdict,
    class_ids: tuple[str, ...],
) -> dict[str, Any]:
    """Its parts of report.json."""
    found = curves(class_ids, scored.probabilities, scored.labels)
    return {
        "calibration": asdict(calibrated),
        "not_sure": _not_sure(scored, calibrated, distance),
        "evaluation": evaluation.as_json(),
        "comparison": _comparison(scored, opponent, verdict, class_ids),
        "mistakes": _mistakes(scored, class_ids),
        "thresholds": [one.as_json() for one in found],
    }


def answers(scored: Scored, class_ids: Sequence[str]) -> "pa.Table":
    """predictions.parquet."""
    best = scored.probabilities.argmax(axis=1)
    told = {
        "label": predictions.one_class(scored.labels, class_ids),
        "predicted": predictions.one_class(best, class_ids),
    }
    return predictions.table(scored.items, class_ids, told, scored.probabilities)


def _mistakes(scored: Scored, class_ids: Sequence[str]) -> dict[str, Any]:
    """How many, and the wrong answers the model was surest of: label noise shows here first."""
    wrong = np.flatnonzero(~scored.right)
    best = scored.probabilities.max(axis=1)
    worst = wrong[np.argsort(-best[wrong], kind="stable")][:WORST]
    return {
        "total": len(wrong),
        "worst": [
            {
                "sha256": scored.items[place].sha256,
                "source": scored.items[place].source,
                "label": class_ids[scored.labels[place]],
                "predicted": class_ids[int(scored.probabilities[place].argmax())],
                "probability": round(float(best[place]), 6),
            }
            for place in worst.tolist()
        ],
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
    scored: Scored, opponent: Opponent | None, verdict: Verdict, class_ids: Sequence[str]
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
            "source": scored.items[place].source,
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
