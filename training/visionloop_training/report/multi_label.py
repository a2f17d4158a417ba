"""What the report says of a model that gives an image any number of classes."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from visionloop_training.multi_label.calibrate import Calibrated
from visionloop_training.multi_label.evaluate import LabelEvaluation, ScoredLabels, jaccard
from visionloop_training.report import predictions
from visionloop_training.report.one_label import WORST
from visionloop_training.report.thresholds import curves
from visionloop_training.verdict import Verdict

Theirs = tuple[int, tuple[str, ...], ScoredLabels]  # version, its classes, its answers


def parts(
    calibrated: Calibrated,
    scored: ScoredLabels,
    evaluation: LabelEvaluation,
    theirs: Theirs | None,
    verdict: Verdict,
    class_ids: tuple[str, ...],
) -> dict[str, Any]:
    """Its parts of report.json."""
    found = curves(class_ids, scored.probabilities, scored.truth)
    return {
        "calibration": {**asdict(calibrated), "present": calibrated.present},
        "evaluation": evaluation.as_json(),
        "comparison": _comparison(scored, theirs, verdict, class_ids),
        "mistakes": _mistakes(scored, class_ids),
        "thresholds": [one.as_json() for one in found],
    }


def answers(scored: ScoredLabels, class_ids: Sequence[str]) -> "pa.Table":
    """predictions.parquet."""
    told = {
        "labels": predictions.several_classes(scored.truth, class_ids),
        "predicted": predictions.several_classes(scored.answers, class_ids),
        "jaccard": pa.array(jaccard(scored.truth, scored.answers), pa.float32()),
    }
    return predictions.table(scored.items, class_ids, told, scored.probabilities)


def _mistakes(scored: ScoredLabels, class_ids: Sequence[str]) -> dict[str, Any]:
    """How many images have a wrong or a missing class, and those with the least overlap."""
    names = np.array(class_ids, dtype=object)
    wrong = np.flatnonzero((scored.truth != scored.answers).any(axis=1))
    overlap = jaccard(scored.truth, scored.answers)
    worst = wrong[np.argsort(overlap[wrong], kind="stable")][:WORST]
    return {
        "total": len(wrong),
        "worst": [
            {
                "sha256": scored.items[place].sha256,
                "source": scored.items[place].source,
                "labels": names[scored.truth[place]].tolist(),
                "predicted": names[scored.answers[place]].tolist(),
                "jaccard": round(float(overlap[place]), 6),
            }
            for place in worst.tolist()
        ],
    }


def _comparison(
    scored: ScoredLabels, theirs: Theirs | None, verdict: Verdict, class_ids: Sequence[str]
) -> dict[str, Any] | None:
    """The images that only one of the two models gets all right; None without an opponent."""
    if theirs is None:
        return None
    version, their_ids, answers = theirs
    ours = np.array(class_ids, dtype=object)
    names = np.array(their_ids, dtype=object)
    places = {item.sha256: place for place, item in enumerate(scored.items)}

    def told(sha256: str) -> dict[str, Any]:
        place = places[sha256]
        return {
            "sha256": sha256,
            "source": scored.items[place].source,
            "labels": ours[scored.truth[place]].tolist(),
            "candidate": ours[scored.answers[place]].tolist(),
            "stable": names[answers.answers[place]].tolist(),
        }

    return {
        "version": version,
        "gained": [told(sha256) for sha256 in verdict.gained],
        "lost": [told(sha256) for sha256 in verdict.lost],
    }
