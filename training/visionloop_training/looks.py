"""How often a test split has decided about a model: each candidate that was judged by it.

A candidate is a file held against a stable version. The same file, judged once more against the
same version (by a run that was done again from its checkpoint), has no second chance: the answers
are the ones it gave before. So it is one look, however many versions were published of it.
"""

import logging
from dataclasses import dataclass

from visionloop.bundle import ClassifierBundle
from visionloop.errors import CorruptError, NotFoundError
from visionloop.objectstore.transfers import in_parallel
from visionloop.repository import ModelRepository

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a look is at."""

    graph_sha256: str  # of model.onnx, which names its snapshot
    against: int | None  # the stable version


def earlier_looks(
    repository: ModelRepository, model: str, dataset: str, now: Judgement
) -> list[int]:
    """The versions of the model that the dataset's test split has judged before `now`, ascending;
    of several with one judgement the first, and none of those that were judged as `now` is.

    The split is sticky and only grows, so each of them was judged by some of today's test images.
    """
    found: dict[int, Judgement] = {}

    def look(version: int) -> None:
        try:
            bundle = repository.read(model, version)
        except (NotFoundError, CorruptError) as error:
            _log.warning("version %d cannot be read: %s", version, error)
            return
        if isinstance(bundle, ClassifierBundle) and bundle.provenance.dataset == dataset:
            graph = bundle.files[bundle.graph].sha256
            found[version] = Judgement(graph, bundle.provenance.parent_version)

    in_parallel(look, repository.versions(model))
    first: dict[Judgement, int] = {}
    for version in sorted(found):
        first.setdefault(found[version], version)
    return sorted(version for judgement, version in first.items() if judgement != now)
