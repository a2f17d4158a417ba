"""A server for the tests that change nothing about it, and one model repository for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bundles import publish_bundle
from support.inference_server import Server, running_server

from visionloop.bundle import ClassificationBundle
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository


@pytest.fixture
def store_of_models(tmp_path: Path) -> str:
    """The URL of an empty file store."""
    return f"file://{tmp_path}/models-store"


@pytest.fixture
def repository(store_of_models: str) -> ModelRepository:
    """The repository in it."""
    return ModelRepository(open_store(store_of_models))


@pytest.fixture(scope="session")
def one_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ClassificationBundle]:
    """A store with one stable model, "cells" version 1, and its bundle."""
    url = f"file://{tmp_path_factory.mktemp('one-model')}/store"
    return url, publish_bundle(ModelRepository(open_store(url)), "cells", seed=1, promote=True)


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, one_model: tuple[str, ClassificationBundle]
) -> Iterator[Server]:
    """A ready server of that model."""
    folder = tmp_path_factory.mktemp("server")
    with running_server(folder, one_model[0], "--max-images=16") as running:
        yield running.ready()
