"""Test accuracy of the trainer's models, by the published protocol, seed by seed.

    python -m bench.accuracy                                      # the headline: about an hour
    python -m bench.accuracy --presets fast balanced best         # the accuracy-time curve
    python -m bench.accuracy --data digits --seeds 0              # a minute
    python -m bench.accuracy --inner --presets balanced --set fit.epochs=20 --seeds 0 1   # choosing

Each (split, preset, seed) is a run of `visionloop-train` on a snapshot, recorded when it is done:
what was done is not done again, so the seeds may be run one at a time. The test part of a seed is
read by one evaluation of one exported model. Settings are chosen with `--inner`, which never reads
it: the test part is set aside and the rest split once more. build/bench/accuracy.json holds all
records and the table made of them. Exit code 1 when the headline is complete and does not beat what
was published.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.accuracy import likeness, records, runs
from bench.accuracy.records import Record, Records, key_of
from bench.accuracy.runs import Recipe, Task
from bench.accuracy.splits import KINDS, Kind, split
from bench.accuracy.subjects import SUBJECTS, Subject
from visionloop_training.cores import usable_cores

HEADLINE = Recipe("balanced")
SEEDS = (0, 1, 2, 3, 4)


def main() -> int:
    """Runs what is missing, writes the document, prints the table."""
    options = _options()
    folder: Path = options.output / "accuracy"
    folder.mkdir(parents=True, exist_ok=True)
    book = Records(folder / "runs")
    subject = SUBJECTS[options.data]()
    groups = likeness.groups(subject.pictures) if "grouped" in options.splits else None
    for recipe, task in _tasks(options, subject):
        _run(options, folder, book, subject, groups, recipe, task)
    document = summary(book.all(), _current())
    (options.output / "accuracy.json").write_text(json.dumps(document, indent=2) + "\n")
    for line in records.lines(document["table"]):
        print(line)
    print(document["verdict"]["words"])
    return 1 if document["verdict"]["holds"] is False else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__)
    add = parser.add_argument
    add("--data", choices=sorted(SUBJECTS), default="solar-cells")
    add("--presets", nargs="+", default=[HEADLINE.preset])
    add("--seeds", nargs="+", type=int, default=list(SEEDS))
    add("--splits", nargs="+", choices=KINDS, default=["plain"])
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="on top of the preset")
    add("--doubtful-weight", type=float, default=1.0, help="of train images of uncertain label")
    add("--inner", action="store_true", help="choose: score a part of train, leave test alone")
    add("--again", action="store_true", help="run what is recorded already")
    add("--keep-cache", action="store_true", help="runs share features; no figure of seconds")
    add("--threads", type=int, default=usable_cores())
    add("--output", type=Path, default=Path("build/bench"))
    return parser.parse_args()


def _tasks(options: argparse.Namespace, subject: Subject) -> Iterator[tuple[Recipe, Task]]:
    """Seeds outermost: a bench that is stopped has whole seeds to show."""
    for seed in options.seeds:
        for kind in options.splits:
            for preset in options.presets:
                recipe = Recipe(preset, tuple(options.set), options.doubtful_weight)
                yield recipe, Task(subject.name, kind, seed, options.inner)


def _run(
    options: argparse.Namespace,
    folder: Path,
    book: Records,
    subject: Subject,
    groups: Sequence[int] | None,
    recipe: Recipe,
    task: Task,
) -> None:
    arguments = recipe.arguments(subject, task.seed)
    cold = not options.keep_cache
    effective = runs.effective(arguments)
    by = {"config": effective, "doubtful": recipe.doubtful_weight}
    key = key_of(task, _digest(subject), by)
    known = book.find(key)
    if known and not options.again:
        print(f"{key}: {known['accuracy']:.2%}, {known['seconds']:.0f} s (recorded)", flush=True)
        return
    own = groups or range(len(subject.pictures))
    labels = [picture.label for picture in subject.pictures]
    parts = split(task.split, labels, own, task.seed, inner=task.inner)
    store = (folder / "store").absolute().as_uri()
    dataset = runs.write_snapshot(store, task, subject, parts, own, recipe.doubtful_weight)
    where = records.machine(options.threads)
    outcome = runs.train(
        store, dataset, arguments, None if cold else folder / "cache", options.threads,
        folder / f"{key}.log",
    )  # fmt: skip
    configuration = records.configuration_of(effective, _digest(subject))
    book.keep(key, records.record(task, recipe, configuration, outcome, where, cold=cold))
    print(f"{key}: {outcome.accuracy:.2%}, {outcome.seconds:.0f} s", flush=True)


def _current() -> str:
    """The headline's configuration as it is now."""
    subject = SUBJECTS["solar-cells"]()
    return records.configuration_of(
        runs.effective(HEADLINE.arguments(subject, SEEDS[0])), _digest(subject)
    )


def summary(found: Sequence[Record], current: str) -> Record:
    """The document: the headline's figures on top, then every row and every record.

    The headline is of the configuration `current`; what its recipe gave before is `superseded`.
    """
    rows = records.table(found)
    for row in rows:
        asked = row["subject"] == "solar-cells" and row["recipe"] == HEADLINE.as_json()
        row["superseded"] = asked and row["configuration"] != current
    head = {kind: _headline(rows, kind) for kind in KINDS}
    plain = head["plain"]
    return {
        "preset": HEADLINE.preset,
        "mean_test_accuracy": plain and plain["mean_test_accuracy"],
        "ci95": plain and plain["ci95"],
        "ci95_resampled": plain and plain["ci95_resampled"],
        "seconds": plain and plain["seconds"],
        "per_seed": plain and plain["per_seed"],
        "grouped": head["grouped"],
        "verdict": _verdict(plain),
        "table": rows,
        "runs": list(found),
    }


def _headline(rows: Sequence[Record], kind: Kind) -> Record | None:
    wanted = {"subject": "solar-cells", "split": kind, "inner": False}
    recipe = HEADLINE.as_json()
    for row in rows:
        current = row["recipe"] == recipe and not row["superseded"]
        if current and all(row[name] == value for name, value in wanted.items()):
            return row
    return None


def _verdict(plain: Record | None) -> dict[str, Any]:
    """Whether the mean over all seeds beats the published figure; None while seeds are missing."""
    published = 0.8842
    if plain is None or not set(SEEDS) <= set(plain["seeds"]):
        done = len(plain["seeds"]) if plain else 0
        return {"holds": None, "words": f"the headline has {done} of {len(SEEDS)} seeds"}
    value = plain["mean_test_accuracy"]
    return {
        "holds": value > published,
        "words": f"{value:.2%} over {len(plain['seeds'])} seeds; published: {published:.2%}",
    }


def _digest(subject: Subject) -> str:
    told = [(p.sha256, p.label, p.certainty) for p in subject.pictures]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
