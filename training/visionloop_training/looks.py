"""How often a test split has decided about a model: each of its versions that was judged by it."""

import logging

from visionloop.bundle import ClassifierBundle
from visionloop.errors import CorruptError, NotFoundError
from visionloop.objectstore.transfers import in_parallel
from visionloop.repository import ModelRepository

_log = logging.getLogger(__name__)


def earlier_looks(repository: ModelRepository, model: str, dataset: str) -> list[int]:
    """The versions of the model that the dataset's test split has judged, ascending.

    The split is sticky and only grows, so each of them was judged by some of today's test images.
    """
    found: list[int] = []

    def look(version: int) -> None:
        try:
            bundle = repository.read(model, version)
        except (NotFoundError, CorruptError) as error:
            _log.warning("version %d cannot be read: %s", version, error)
            return
        if isinstance(bundle, ClassifierBundle) and bundle.provenance.dataset == dataset:
            found.append(version)

    in_parallel(look, repository.versions(model))
    return sorted(found)
