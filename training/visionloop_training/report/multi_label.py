"""What the report says of a model that gives an image any number of classes."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from visionloop_training.multi_label.calibrate import Calibrated
from visionloop_training.multi_label.evaluate import (
    LabelEvaluation,
    ScoredLabels,
    predictions,
)
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
    return {
        "calibration": {**asdict(calibrated), "present": calibrated.present},
        "evaluation": evaluation.as_json(),
        "comparison": _comparison(scored, theirs, verdict, class_ids),
        "predictions": list(predictions(scored, class_ids)),
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
