"""What one training run did, for people (`words`) and for `--json`."""

from dataclasses import asdict, dataclass, field
from typing import Any

from visionloop_training.candidate import Candidate
from visionloop_training.search.record import SearchRecord
from visionloop_training.search.table import as_json as search_json
from visionloop_training.tasks import Task
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
            "conflict": self.conflict,
            "pinned": self.pinned,
            "report": self.report,
            "metrics": self.metrics,
            **({"checked": self.checked} if self.checked else {}),
            **({"search": search_json(self.searched)} if self.searched else {}),
            **self.summary,
            "timings": self.timings,
        }


def summary(candidate: Candidate, task: Task) -> dict[str, Any]:
    """Of a run that made a version, for `Result.summary`."""
    data, lane = candidate.data, candidate.lane
    return {
        "lane": lane.origin.lane,
        "train_images": len(data.train),
        "val_images": len(data.val),
        "test_images": len(data.test),
        **task.summary(),
        "parity_max_abs_probability_difference": candidate.parity.max_probability_difference,
        "half_precision": asdict(candidate.half) if candidate.half else None,
        "features_computed": lane.computed,
        "kept_epoch": candidate.learned.kept_epoch,
    }
