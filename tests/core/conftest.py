"""Model repositories on a store of each kind, and on files alone."""

import pytest

from visionloop.objectstore import ObjectStore
from visionloop.repository import ModelRepository


@pytest.fixture
def repository(store: ObjectStore) -> ModelRepository:
    """On a folder and on a real S3 server: a test that takes it runs twice."""
    return ModelRepository(store)


@pytest.fixture
def local(file_store: ObjectStore) -> ModelRepository:
    """On the file store only, where the store makes no difference."""
    return ModelRepository(file_store)
