"""The other limit of encoded images: the suite's decoder on all cores and nothing else."""

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from bench.serving.limits import preprocessing
from bench.serving.processes import cores
from visionloop.images import decode


def images_per_second(pictures: Sequence[Path], seconds: float) -> float:
    """From encoded bytes to the graph's pixels, in as many processes as there are cores."""
    with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as pool:
        list(pool.map(_alone, [pictures] * cores(), [0.1] * cores()))  # imports are done
        return sum(pool.map(_alone, [pictures] * cores(), [seconds] * cores()))


def _alone(pictures: Sequence[Path], seconds: float) -> float:
    data = [picture.read_bytes() for picture in pictures]
    prepare = preprocessing()
    done, began = 0, time.perf_counter()
    while (lap := time.perf_counter() - began) < seconds:
        prepare(decode(data[done % len(data)]))
        done += 1
    return done / lap
