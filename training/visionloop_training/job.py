"""What one training run works on, from its first stage to its last."""

from dataclasses import dataclass

from visionloop.repository import CurrentAliases, ModelRepository
from visionloop.snapshot import Snapshot, SnapshotRepository
from visionloop_training.clock import Clock
from visionloop_training.data import Blobs, Dataset, dataset
from visionloop_training.lanes import Surroundings
from visionloop_training.request import Request
from visionloop_training.stable import Version, stable
from visionloop_training.tasks import Task, check_same_task, task_of


@dataclass(frozen=True, slots=True)
class Job:
    """A request, and what it is about: chosen once, the same for all stages and processes."""

    request: Request
    clock: Clock
    repository: ModelRepository
    snapshot: Snapshot
    data: Dataset  # the snapshot's
    task: Task
    before: CurrentAliases  # what a promotion will be conditional on
    stable: Version | None
    blobs: Blobs

    @property
    def stable_number(self) -> int | None:
        """Of the version that serves while this runs."""
        return self.stable.bundle.version if self.stable else None

    @property
    def around(self) -> Surroundings:
        """What lanes work with, beside data and configuration."""
        request = self.request
        return Surroundings(self.blobs, request.cache, request.stop, request.workers, request.watch)


def opened(request: Request, clock: Clock) -> Job:
    """Reads what is there: the snapshot, the aliases, the stable version.

    Raises InvalidInputError for a bad model name or data that nothing can be learned from,
    NotFoundError where there is no such snapshot, RefusedError where stable cannot be compared.
    """
    repository = ModelRepository(request.store)
    repository.versions(request.model)  # refuses a bad model name before any work
    snapshots = SnapshotRepository(request.store)
    # One process chooses: a snapshot that is cut meanwhile must not part them.
    chosen = request.workers.leaders_answer(
        lambda: snapshots.manifest(request.dataset, request.snapshot).id
    )
    snapshot = snapshots.read(request.dataset, chosen)
    data = dataset(snapshot)
    task = task_of(data, request.config)
    before = repository.aliases(request.model)
    serving = stable(request.store, request.model, before, request.cache)
    check_same_task(data, serving)
    blobs = Blobs(request.store, request.cache / "blobs")
    return Job(request, clock, repository, snapshot, data, task, before, serving, blobs)
