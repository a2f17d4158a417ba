"""What one training run did, for people (`words`) and for `--json`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from visionloop_training.search.record import SearchRecord
from visionloop_training.search.table import as_json as search_json
from visionloop_training.triggers import Decision
from visionloop_training.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Result:
    """What a run did. Without a version there was nothing new to learn."""

    version: int | None
    promoted: bool
    snapshot: str
    stable: int | None
    decision: Decision
    verdict: Verdict | None = None
    already_judged: bool = False  # by an earlier run, whose version this is
    timed_again: bool = False  # it was refused for its latency alone, which is measured anew
    conflict: str = ""
    pinned: str = ""  # who keeps stable where it is, and why
    report: str = ""  # address of the page in the store
    metrics: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # on classes, for people
    searched: SearchRecord | None = None
    checked: list[str] = field(default_factory=list)  # by `check_only`
    summary: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "version": self.version,
            "promoted": self.promoted,
            "nothing_new": self.decision.lane is None,
            "decision": self.decision.as_json(),
            "notes": self.notes,
            "stable": self.stable,
            "snapshot": self.snapshot,
            "verdict": self.verdict.as_json() if self.verdict else None,
            "already_judged": self.already_judged,
            "timed_again": self.timed_again,
            "conflict": self.conflict,
            "pinned": self.pinned,
            "report": self.report,
            "metrics": self.metrics,
            **({"checked": self.checked} if self.checked else {}),
            **({"search": search_json(self.searched)} if self.searched else {}),
            **self.summary,
            "timings": self.timings,
        }


def summary(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run that has a version, for `Result.summary`, from its report.json."""
    calibration, images = figures["calibration"], figures["images"]
    return {
        "lane": figures["lane"],
        **{f"{split}_images": images[split] for split in ("train", "val", "test")},
        "ece_before": calibration["ece_before"],
        "ece_after": calibration["ece_after"],
        **_thresholds(figures),
        "parity_max_abs_probability_difference": figures["parity"]["max_probability_difference"],
        "half_precision": figures["half_precision"],
        "features_computed": figures["fit"]["features_computed"],
        "kept_epoch": figures["fit"]["kept_epoch"],
    }


def _thresholds(figures: Mapping[str, Any]) -> dict[str, Any]:
    """From which probability on an answer counts: any answer's, or that of each class."""
    calibration = figures["calibration"]
    if figures["task"] != "multi_label":
        return {"not_sure": calibration["not_sure"]}
    ids = [label["id"] for label in figures["labels"]]
    return {"present": dict(zip(ids, calibration["present"], strict=True))}
