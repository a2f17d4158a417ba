"""Training's throughput beside a loop of the same network on synthetic data, in one run.

    python -m bench.training [--images 600] [--rounds 3]

Writes build/bench/training.json and prints a line for each case. A round times the synthetic loop,
then the steps of an epoch of the product's own `fit`; `ratio` is the median over the rounds of one
by the other, so that a machine that slows down meanwhile slows both. `loader_wait` is the share of
an epoch in which the loop had nothing to compute. The first pass (decode, resize, and run what is
frozen) is told apart: it happens once for each image, not once an epoch.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the program itself; read by torch

import torch

import visionloop
from bench.serving.figures import median
from bench.training.cases import CASES, GPU_CASE, Case, crops, read, solar, write_store
from bench.training.loops import Subject
from visionloop.objectstore import ObjectStore
from visionloop_training.cores import usable_cores

OUTPUT = Path("build/bench/training.json")
GOAL = 0.9


def main() -> int:
    """Exit code 0 when every case reaches the goal."""
    options = _options()
    folder = OUTPUT.parent.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads or usable_cores())
    with tempfile.TemporaryDirectory(prefix="training-", dir=folder) as scratch:
        cases = []
        if not options.gpu_only:
            store = write_store(Path(scratch), solar(options.images))
            cases += [_measure(case, store, Path(scratch), options.rounds) for case in CASES]
        if torch.cuda.is_available():
            folder_of_crops = Path(scratch) / GPU_CASE.name
            store = write_store(folder_of_crops, crops(GPU_CASE.images))
            cases.append(_measure(GPU_CASE, store, folder_of_crops, options.rounds))
    document: dict[str, Any] = {
        "machine": _machine(),
        "options": vars(options),
        "goal": GOAL,
        "cases": cases,
    }
    OUTPUT.write_text(json.dumps(document, indent=2) + "\n")
    for case in cases:
        print(_line(case))
    return 0 if all(case["ratio"] >= GOAL for case in cases) else 1


def _measure(case: Case, store: ObjectStore, scratch: Path, rounds: int) -> dict[str, Any]:
    subject = Subject(read(store), case.config(epochs=2), store, scratch / case.name)
    first_pass = subject.prepare()
    seen = []
    for _ in range(rounds):
        limit = subject.synthetic()
        ours = subject.ours()
        # The first epoch warms allocators and file caches; the second is what the others are like.
        seen.append({"synthetic": limit, "ours": ours.speeds[-1], "loader_wait": ours.waits[-1]})
        print(f"  {case.name}: {json.dumps(seen[-1])}", file=sys.stderr)
    train = len(subject.data.train)
    return {
        "name": case.name,
        "what": case.what,
        "train_images": train,
        "first_pass_seconds": first_pass,
        "rounds": seen,
        "synthetic_images_per_second": median([one["synthetic"] for one in seen]),
        "images_per_second": median([one["ours"] for one in seen]),
        "loader_wait": median([one["loader_wait"] for one in seen]),
        "ratio": median([one["ours"] / one["synthetic"] for one in seen]),
    }


def _line(case: dict[str, Any]) -> str:
    verdict = "holds " if case["ratio"] >= GOAL else "FAILS "
    return (
        f"{verdict} {case['name']}: {case['images_per_second']:.1f} images/s, "
        f"{case['ratio']:.2f} of a synthetic loop ({case['synthetic_images_per_second']:.1f}; goal "
        f"{GOAL}), loader wait {case['loader_wait']:.1%}, first pass "
        f"{case['first_pass_seconds']:.0f} s"
    )


def _machine() -> dict[str, Any]:
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "visionloop": visionloop.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "load": os.getloadavg(),
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.training")
    parser.add_argument("--images", type=int, default=600, help="of the solar cells (600)")
    parser.add_argument("--rounds", type=int, default=3, help="of each case (3)")
    parser.add_argument(
        "--gpu-only", action="store_true", help="only the case that is added on a GPU"
    )
    parser.add_argument("--threads", type=int, default=0, help="of torch (0: as many as cores)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
