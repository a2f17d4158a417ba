"""One service for the browser tests; each has a dataset of its own."""

import uuid
from collections.abc import Callable, Iterator

import pytest
from support.labeling_server import LabelingServer, running_labeling
from support.labelling_page import Site
from support.pictures import solar_cells


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelingServer]:
    with running_labeling(tmp_path_factory.mktemp("labelling-page")) as running:
        yield running


@pytest.fixture
def site(server: LabelingServer) -> Callable[..., Site]:
    """Makes datasets: `site(classes, task)`."""

    def make(classes: tuple[str, ...] = ("sound", "cracked"), task: str = "classification") -> Site:
        return Site(server, f"d{uuid.uuid4().hex[:12]}", task, list(classes))

    return make


@pytest.fixture(scope="session")
def cells() -> list[bytes]:
    """Sixty photographs of solar cells."""
    return [path.read_bytes() for path, _, _ in solar_cells()[:60]]
