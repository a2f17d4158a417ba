"""The search as one stage of a run. Optuna is imported when a search begins, and not before."""

import logging
from typing import TYPE_CHECKING

from visionloop.errors import ConfigurationError
from visionloop.objectstore import ObjectStore
from visionloop_training.config import TrainingConfig
from visionloop_training.data import Dataset
from visionloop_training.distributed import Workers
from visionloop_training.lanes import Surroundings, open_checkpoints
from visionloop_training.search.table import table
from visionloop_training.triggers import Asked

if TYPE_CHECKING:
    from visionloop_training.search.trials import Found

_log = logging.getLogger(__name__)


def check(lane: Asked, workers: Workers) -> None:
    """Raises ConfigurationError for a run in which nothing can be searched."""
    if lane == "fast":
        raise ConfigurationError(
            "--search varies how the network is fine-tuned, and --lane fast only makes a new head; "
            "leave one of them out",
            field="search",
        )
    if workers.count > 1:
        raise ConfigurationError(
            f"--search runs in one process, and these are {workers.count}; search on one machine, "
            "then train on many with the settings it prints",
            field="search",
        )


def best(
    data: Dataset,
    config: TrainingConfig,
    around: Surroundings,
    store: ObjectStore,
    model: str,
    checkpoint_seconds: float,
    seconds: float,
    *,
    again: bool = False,
) -> "Found":
    """The best settings that are found in `seconds`, as `trials.search`; the log tells what was
    tried."""
    from visionloop_training.search.trials import search

    checkpoints = open_checkpoints(store, model, checkpoint_seconds)
    found = search(data, config, around, store, model, checkpoints, seconds, again=again)
    for line in table(found.record):
        _log.info("search: %s", line)
    if found.record.best is None:
        _log.warning("no trial came to its end in time; the settings stay as they were given")
    return found
