"""How often a test split has decided about a model: each candidate that was judged by it.

A candidate is a file held against a stable version. The same file, judged once more against the
same version (by a run that was done again from its checkpoint), has no second chance: the answers
are the ones it gave before. So it is one look, however many versions were published of it.
"""

from dataclasses import dataclass

from visionloop.repository import ModelRepository
from visionloop_training.stable import classifiers


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
    first: dict[Judgement, int] = {}
    for bundle in classifiers(repository, model, repository.versions(model)):
        if bundle.provenance.dataset == dataset:
            graph = bundle.files[bundle.graph].sha256
            first.setdefault(Judgement(graph, bundle.provenance.parent_version), bundle.version)
    return sorted(version for judgement, version in first.items() if judgement != now)
