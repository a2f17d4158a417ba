"""Which model version's suggestions a dataset wants, by the aliases in the store.

The stable version of the model that the dataset prefers; without a preference that of the model
that was trained on it, the newest of several. What was read is believed for half a minute.
"""

import logging
import time
from dataclasses import dataclass
from typing import Final

from visionloop.bundle import ClassifierBundle
from visionloop.errors import CorruptError, NotFoundError
from visionloop.objectstore import ObjectStore
from visionloop.repository import ModelRepository

BELIEVED_SECONDS: Final = 30.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StableModel:
    """A model version that is asked for suggestions."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{self.name}:{self.version}"


class StableModels:
    """The stable versions of a store's models that classify images. Used by one thread."""

    def __init__(self, store: ObjectStore) -> None:
        self._repository = ModelRepository(store)
        self._read_at = float("-inf")
        self._stable: dict[str, ClassifierBundle] = {}

    def of(self, dataset_name: str, preferred: str) -> StableModel | None:
        """The stable version of the preferred model, or else of the one that was trained on the
        dataset (the newest of several); None where there is none."""
        self._refresh()
        if preferred:
            bundle = self._stable.get(preferred)
            if bundle is None:
                raise NotFoundError(
                    f'dataset "{dataset_name}" wants suggestions of model {preferred!r}, which has '
                    "no stable version that classifies images"
                )
            return StableModel(bundle.model, bundle.version)
        trained = [b for b in self._stable.values() if b.provenance.dataset == dataset_name]
        newest = max(trained, key=lambda bundle: bundle.created, default=None)
        return None if newest is None else StableModel(newest.model, newest.version)

    def _refresh(self) -> None:
        if time.monotonic() < self._read_at + BELIEVED_SECONDS:
            return
        self._stable = {
            name: bundle
            for name in self._repository.models()
            if (bundle := self._read(name)) is not None
        }
        self._read_at = time.monotonic()

    def _read(self, name: str) -> ClassifierBundle | None:
        try:
            version = self._repository.resolve(name, "stable")
            known = self._stable.get(name)
            if known is not None and known.version == version:
                return known
            bundle = self._repository.read(name, version)
        except NotFoundError:
            return None  # none is stable yet
        except CorruptError as error:
            _log.warning("a model cannot be asked: %s", error)
            return None
        return bundle if isinstance(bundle, ClassifierBundle) else None
