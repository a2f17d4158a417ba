"""The charts' pods, run for real from the images: helm's render, not a command line of the test's.

Under the smallest values and under production's, whose Secrets and ConfigMaps are made here. A
labelled image goes in, the promoted version answers, both end as Kubernetes ends them.
"""

import hashlib
import json
import ssl
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest
from support.built_images import BuiltImage, wait_until_ready
from support.bundles import publish_bundle
from support.certificates import authority, signed
from support.charts import VALUES, objects_of, one_of, pod_of, template
from support.command_line import command, environment
from support.pictures import noise
from support.rendered_pods import Contents, RenderedPod
from support.stores import S3Server

from visionloop.client import Client
from visionloop.errors import PermissionDeniedError, UnauthenticatedError
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository

pytestmark = [
    pytest.mark.images,
    pytest.mark.s3,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("helm_program"),
]
TOKEN = "a-token-that-only-this-test-has"
VALUE_SETS = ("minimal", "production")


class Cluster:
    """What a pod finds in its cluster: the store, its keys, certificates of one authority."""

    def __init__(self, url: str, server: S3Server, folder: Path) -> None:
        self._url = url
        self._server = server
        self._folder = folder
        ca = authority(folder)
        pair = signed(folder, "server", ca)
        self.authority = ca.certificate
        self._tls = {
            "tls.crt": pair.certificate.read_text(),
            "tls.key": pair.key.read_text(),
            "ca.crt": ca.certificate.read_text(),
        }

    @property
    def secrets(self) -> dict[str, Contents]:
        """Those of the production values, and the one of the smallest ones."""
        keys = {name: value for name, value in self._server.environment.items() if "KEY" in name}
        caller = {
            "name": "app",
            "sha256": hashlib.sha256(TOKEN.encode()).hexdigest(),
            "scopes": ["infer"],
        }
        return {
            **dict.fromkeys(("keys", "inference-store", "labeling-store"), keys),
            **dict.fromkeys(("demo-inference-tls", "demo-labeling-ingest-tls"), self._tls),
            "inference-tokens": {"tokens.yaml": json.dumps([caller])},
            "labeling-inference": {"token": TOKEN},
            "labels-ca": self._tls,
        }

    def pod(
        self,
        chart: str,
        values: str,
        built: dict[str, BuiltImage],
        secrets: dict[str, Contents],
        flags: Sequence[str] = (),
    ) -> RenderedPod:
        """The Deployment's pod under these values, on the real store."""
        text = template(
            chart,
            f"--values={VALUES / chart / f'{values}.yaml'}",
            f"--set=global.store.url={self._url}",
            f"--set=global.store.endpoint={self._server.endpoint}",
            *(["--set=global.store.existingSecret=keys"] if values == "minimal" else []),
            *flags,
        )
        spec = pod_of(one_of(objects_of(text), "Deployment"))
        assert spec is not None
        folder = self._folder / chart
        folder.mkdir()
        bundles = {"store-ca": {"ca.crt": self.authority.read_text()}}
        return RenderedPod(spec, built, folder, {**self.secrets, **secrets}, bundles)


@pytest.fixture
def cluster(s3_url: str, s3_server: S3Server, tmp_path: Path) -> Cluster:
    return Cluster(s3_url, s3_server, tmp_path)


def test_inference(built: dict[str, BuiltImage], cluster: Cluster, s3_url: str) -> None:
    publish_bundle(ModelRepository(open_store(s3_url)), "cells", seed=1, promote=True)
    rendered = cluster.pod("inference", "minimal", built, {})
    with rendered.running() as process:
        wait_until_ready(process, 8002, rendered.log)
        with Client("127.0.0.1:8001") as client:
            [answer] = client.recognize(noise(1))
        assert (answer.model, answer.version) == ("cells", 1)
        assert rendered.stop(process) == 0
    assert "Traceback" not in rendered.said


def test_inference_in_production(
    built: dict[str, BuiltImage], cluster: Cluster, s3_url: str
) -> None:
    """TLS, tokens, two models; without a GPU, which this machine may lack."""
    for seed, model in enumerate(("cells", "panels"), 1):
        publish_bundle(ModelRepository(open_store(s3_url)), model, seed=seed, promote=True)
    rendered = cluster.pod("inference", "production", built, {}, ["--set=gpu.mode=none"])
    trusted = grpc.ssl_channel_credentials(cluster.authority.read_bytes())
    with rendered.running() as process:
        wait_until_ready(process, 8002, rendered.log)
        with Client("localhost:8001", credentials=trusted, token=TOKEN) as client:
            answers = [client.recognize(noise(1), model=name)[0] for name in ("cells", "panels")]
        assert [(one.model, one.version) for one in answers] == [("cells", 1), ("panels", 1)]
        with (
            Client("localhost:8001", credentials=trusted) as nobody,
            pytest.raises(UnauthenticatedError),
        ):
            nobody.recognize(noise(1), model="cells")
        with (
            Client("localhost:8001", credentials=trusted, token=TOKEN) as client,
            pytest.raises(PermissionDeniedError),
        ):
            client.submit_feedback(answers[0], class_id="cat", image=noise(1))
        asked = urllib.request.Request(
            "https://localhost:8003/v1/recognize?model=cells",
            data=noise(1),
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "image/png"},
        )
        context = ssl.create_default_context(cafile=str(cluster.authority))
        with urllib.request.urlopen(asked, timeout=30, context=context) as answered:  # noqa: S310
            assert answered.status == 200
        assert rendered.stop(process) == 0
    assert "Traceback" not in rendered.said


@pytest.mark.postgres
@pytest.mark.parametrize("values", VALUE_SETS)
def test_labeling_ingest(
    values: str, built: dict[str, BuiltImage], cluster: Cluster, s3_url: str, postgres_url: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Its init container makes the tables, so the first account can be made before it serves."""
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.png").write_bytes(noise(1))
    database, _, folder = postgres_url.partition("?host=")
    Path(folder).chmod(0o755)  # so that another user finds the socket
    mounts = {"/mnt": Path(folder)}
    uri = {"uri": f"{database}?host=/mnt"}
    secrets = {"labels-database": uri, "labels-app": uri}
    rendered = cluster.pod("labeling-ingest", values, built, secrets)
    encrypted = values == "production"
    with rendered.running(mounts) as process:
        wait_until_ready(process, 8082 if encrypted else 8080, rendered.log)
        assert "is at revision" in rendered.log.with_suffix(".init").read_text()
        account = ("visionloop-labeling", "account")
        variables = rendered.environment()
        added = rendered.image.run(
            *(*account, "add", "loader", "--role=admin", "--no-password"),
            mounts=mounts,
            **variables,
        )
        assert added.returncode == 0, added.stderr
        token = rendered.image.run(
            *(*account, "token", "loader", "--json"), mounts=mounts, **variables
        )
        done = subprocess.run(
            command(
                *("import", tmp_path / "photos", "--dataset", "pets", "--json"),
                *("--target", "localhost:8081"),
                *(["--tls-ca", cluster.authority] if encrypted else []),
            ),
            env={**environment(), "VISIONLOOP_TOKEN": json.loads(token.stdout)["token"]},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["accepted"] == 1
        if encrypted:
            context = ssl.create_default_context(cafile=str(cluster.authority))
            with urllib.request.urlopen(
                "https://localhost:8080/login", timeout=30, context=context
            ) as page:
                assert b"<form" in page.read()
        assert rendered.stop(process) == 0
    assert "Traceback" not in rendered.said
    assert len(list(open_store(s3_url).list("blobs/"))) == 1
