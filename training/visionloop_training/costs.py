"""What a model costs to run: the size of its file and the time of one image, against stable.

Machines are never equally busy twice, so both are measured in turns, image by image, in one run;
the median is then a fair ratio even where other programs share the cores.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from visionloop.preprocessing import Preprocessing
from visionloop_training.data import Blobs, Item, Pixels
from visionloop_training.export import Session
from visionloop_training.gate_limits import Costs
from visionloop_training.stable import Version

_TURNS = 50
_SECONDS = 3.0  # no longer than this; a large network gets fewer turns
_WARM_UP = 2


def milliseconds(contestants: Sequence[tuple[Session, Pixels]]) -> list[float]:
    """The median time of each session on its image (height, width, 3), at batch 1, in turns."""
    inputs = [(session, pixels[np.newaxis]) for session, pixels in contestants]
    for _ in range(_WARM_UP):
        for session, images in inputs:
            session(images)
    taken: list[list[float]] = [[] for _ in inputs]
    end = time.perf_counter() + _SECONDS
    for _ in range(_TURNS):
        for place, (session, images) in enumerate(inputs):
            started = time.perf_counter()
            session(images)
            taken[place].append(1000 * (time.perf_counter() - started))
        if time.perf_counter() > end:
            break
    return [float(np.median(times)) for times in taken]


def measured_costs(
    graph: Path,
    session: Session,
    preprocessing: Preprocessing,
    stable: Version | None,
    blobs: Blobs,
    item: Item,
) -> Costs:
    """Size of the candidate's `graph` and time of `item`, beside the stable version's."""
    [pixels] = blobs.prepared([item.sha256], preprocessing)
    contestants = [(session, pixels)]
    if stable is not None:
        [theirs] = blobs.prepared([item.sha256], stable.bundle.preprocessing)
        contestants.append((stable.session, theirs))
    taken = milliseconds(contestants)
    return Costs(
        candidate_bytes=graph.stat().st_size,
        candidate_milliseconds=taken[0],
        stable_bytes=stable.bundle.files[stable.bundle.graph].size if stable else None,
        stable_milliseconds=taken[1] if stable else None,
    )
