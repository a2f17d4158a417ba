"""Runs that are done, one JSON file each, and the table made of them.

A record is named by what decides a run (images, parts, configuration), so a bench that was stopped
goes on with the next seed, and a changed recipe begins anew: what it gave before keeps a row of its
own. A change of the program's code does not show in a name; `--again` runs what is there already.
"""

import hashlib
import json
import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

import visionloop
from bench.accuracy import intervals
from bench.accuracy.runs import Outcome, Recipe, Task

Record = dict[str, Any]

_SAME = ("subject", "split", "inner")


@dataclass(frozen=True, slots=True)
class Records:
    """The records in a folder."""

    folder: Path

    def find(self, key: str) -> Record | None:
        """The record with this key."""
        path = self.folder / f"{key}.json"
        if not path.exists():
            return None
        found: Record = json.loads(path.read_text())
        return found

    def keep(self, key: str, record: Record) -> None:
        """Writes it, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{key}.partial"
        partial.write_text(json.dumps(record, indent=1) + "\n")
        partial.replace(self.folder / f"{key}.json")

    def all(self) -> list[Record]:
        """In the order of their names."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"))]


def configuration_of(effective: dict[str, Any], subject_digest: str = "") -> str:
    """A digest of a run's images and its whole configuration, but for its seed."""
    shared = {name: value for name, value in effective.items() if name != "seed"}
    return _digest([subject_digest, shared])[:12]


def key_of(task: Task, subject_digest: str, by: dict[str, Any]) -> str:
    """A name for a run: what people look for first, then a digest of all that decides it."""
    parts = {"task": asdict(task), "pictures": subject_digest, "by": by}
    digest = _digest(parts)[:12]
    inner = "-inner" if task.inner else ""
    return f"{task.subject}-{task.split}-{task.seed}{inner}-{digest}"


def _digest(of: Any) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()


def record(
    task: Task,
    recipe: Recipe,
    configuration: str,
    outcome: Outcome,
    machine: Record,
    *,
    cold: bool,
) -> Record:
    """A run's record: what was asked for, what came of it, where; `cold`: without old features."""
    return {
        **asdict(task),
        "recipe": recipe.as_json(),
        "configuration": configuration,
        **outcome.as_json(),
        "cold_cache": cold,
        "machine": machine,
    }


def machine(threads: int) -> Record:
    """Where and how a run ran."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "threads": threads,
        "load_before": round(os.getloadavg()[0], 2),
        "cpu": _cpu(),
        "python": platform.python_version(),
        "visionloop": visionloop.__version__,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def table(records: Iterable[Record]) -> list[Record]:
    """A row for each (subject, split, recipe): the mean over its seeds with its intervals.

    Several, where the recipe or the images were changed meanwhile.
    """
    rows: dict[str, list[Record]] = defaultdict(list)
    for one in records:
        same = [*(one[name] for name in _SAME), one["recipe"], one.get("configuration", "")]
        rows[json.dumps(same, sort_keys=True)].append(one)
    made = [_row(sorted(runs, key=lambda run: int(run["seed"]))) for runs in rows.values()]
    return sorted(made, key=lambda row: (*(row[name] for name in _SAME), row["cpu_seconds"]))


def _row(runs: Sequence[Record]) -> Record:
    values = [run["accuracy"] for run in runs]
    cold = [run for run in runs if run["cold_cache"]]
    train = mean(run["images"]["train"] + run["images"]["val"] for run in runs)
    test = mean(run["images"]["test"] for run in runs)
    usual, honest = intervals.student(values), intervals.resampled(values, train, test)
    return {
        **{name: runs[0][name] for name in (*_SAME, "recipe")},
        "configuration": runs[0].get("configuration", ""),
        "seeds": [run["seed"] for run in runs],
        "mean_test_accuracy": round(mean(values), 5),
        "ci95": usual.as_json() if usual else None,
        "ci95_resampled": honest.as_json() if honest else None,
        "per_seed": [
            {
                "seed": run["seed"],
                "accuracy": round(run["accuracy"], 5),
                "test_images": run["images"]["test"],
                "cold_cache": run["cold_cache"],
                "seconds": round(run["seconds"], 1),
                "cpu_seconds": round(run["cpu_seconds"], 1),
                "threads": run["machine"]["threads"],
            }
            for run in runs
        ],
        # A seed's; a run that found features of another one says nothing of what a seed costs.
        "seconds": round(mean(run["seconds"] for run in cold), 1) if cold else None,
        "cpu_seconds": round(mean(run["cpu_seconds"] for run in cold or runs), 1),
    }


def lines(rows: Iterable[Record]) -> list[str]:
    """The table for a terminal."""
    return [_line(row) for row in rows]


def _line(row: Record) -> str:
    interval = row["ci95"]
    around = f" ({interval[0]:.2%} … {interval[1]:.2%})" if interval else ""
    recipe = row["recipe"]
    settings = " ".join(recipe.get("settings", ()))
    weight = recipe.get("doubtful_weight", 1.0)
    doubtful = f" doubtful labels {weight:g}" if weight != 1.0 else ""
    inner = ", inside train" if row["inner"] else ""
    wall = f"{row['seconds']:.0f} s, " if row["seconds"] is not None else "features shared, "
    return (
        f"{row['subject']}, {row['split']}{inner}  {recipe['preset']:10} "
        f"{row['mean_test_accuracy']:.2%}{around}  {len(row['seeds'])} seeds, "
        f"{wall}{row['cpu_seconds']:.0f} s of CPU each  {settings}{doubtful}"
        + ("  (of before the recipe was changed)" if row.get("superseded") else "")
    )
