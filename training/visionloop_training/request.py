"""What one training run is asked to do."""

from dataclasses import dataclass, field
from pathlib import Path

from visionloop.errors import ConfigurationError
from visionloop.objectstore import ObjectStore
from visionloop_training.config import TrainingConfig
from visionloop_training.distributed import Workers
from visionloop_training.search import stage as search
from visionloop_training.stop import Stop
from visionloop_training.triggers import Asked
from visionloop_training.watch import Watch


@dataclass(frozen=True, slots=True)
class Request:
    """What one run is asked to do."""

    store: ObjectStore
    dataset: str
    model: str
    config: TrainingConfig
    cache: Path
    snapshot: str = "latest"
    promote: bool = True
    force: bool = False
    again: bool = False
    lane: Asked = "full"
    if_needed: bool = False  # train only where a trigger says so
    check_only: bool = False  # end after the checks that come before the first epoch
    search_seconds: float = 0.0  # spent on better settings first
    who: str = ""
    checkpoint_seconds: float = 300.0
    stop: Stop = field(default_factory=Stop)
    workers: Workers = field(default_factory=Workers)
    watch: Watch = field(default_factory=Watch)

    def check(self) -> None:
        """Raises ConfigurationError for wishes that cannot both be granted."""
        if self.search_seconds:
            search.check(self.lane, self.workers)
        if self.force and self.config.gate.mode == "manual":
            raise ConfigurationError(
                "--force promotes and gate.mode=manual never does; leave one of them out",
                field="force",
            )
