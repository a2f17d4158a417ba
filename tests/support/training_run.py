"""The real training job on a few digits, watched over its /metrics while it runs."""

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from support.digits import write_digits
from support.running_loop import ask

from visionloop.objectstore import open_store

# Random convolutions with a head that is really trained: a poor model within seconds.
QUICK = (
    "backbone.name=squeezenet1_1",
    "backbone.weights=none",
    "pixels.image_size=64",
    "pixels.shape=squash",
    "augment.symmetries=[]",
    "augment.variants=1",
    "fit.epochs=2",
    "fit.freeze=0.5",
    "fit.batch_size=8",
    "fit.keep=last",
    "threads=1",
)
FITTED = 'visionloop_training_stage_info{stage="fit"} 0.0'
SCRAPED_WITHIN = 2.5  # seconds until Prometheus has seen what the run says now
SECONDS = 120


@dataclass(frozen=True)
class WatchedRun:
    """One run that was watched until it had fitted."""

    began: float  # seconds since 1970
    ended: float
    scrapes: list[str]  # what /metrics said, while it was there


def watched_run(store: str, port: int, folder: Path) -> WatchedRun:
    """Trains the model "reader" on the dataset "digits" and asks /metrics ten times a second.

    What comes after fitting tells nothing new but its stages, and takes longest: it is cut off.
    """
    write_digits(open_store(store), "digits", {"0": 40, "1": 40})
    settings = [flag for setting in QUICK for flag in ("--set", setting)]
    began = time.time()
    scrapes: list[str] = []
    with (folder / "training.log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "visionloop_training", f"--store={store}",
                "--dataset=digits", "--model=reader", f"--cache={folder / 'cache'}",
                f"--metrics-port={port}", *settings,
            ],
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            while process.poll() is None and not (scrapes and FITTED in scrapes[-1]):
                assert time.time() - began < SECONDS, (folder / "training.log").read_text()
                with contextlib.suppress(OSError):
                    scrapes.append(ask(f"http://127.0.0.1:{port}/metrics").decode())
                time.sleep(0.1)
            time.sleep(SCRAPED_WITHIN)
        finally:
            process.kill()
            process.wait()
    words = (folder / "training.log").read_text()
    assert scrapes, words
    assert FITTED in scrapes[-1], words
    return WatchedRun(began, time.time(), scrapes)
