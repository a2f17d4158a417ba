"""The charts' pods, run for real from the images: helm's render, not a command line of the test's.

A labelled image goes in, the promoted version answers, both end as Kubernetes ends them.
"""

import json
import subprocess
from pathlib import Path

import pytest
from support.built_images import BuiltImage, wait_until_ready
from support.bundles import publish_bundle
from support.charts import VALUES, objects_of, one_of, pod_of, template
from support.command_line import command, environment
from support.pictures import noise
from support.rendered_pods import RenderedPod, Secrets
from support.stores import S3Server

from visionloop.client import Client
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository

pytestmark = [
    pytest.mark.images,
    pytest.mark.s3,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("helm_program"),
]
STORE_SECRET = "store-keys"


def pod(
    chart: str, url: str, server: S3Server, built: dict[str, BuiltImage], secrets: Secrets
) -> RenderedPod:
    """The Deployment's pod under the chart's smallest values, on the real store."""
    keys = {name: value for name, value in server.environment.items() if "KEY" in name}
    text = template(
        chart,
        f"--values={VALUES / chart / 'minimal.yaml'}",
        f"--set=global.store.url={url}",
        f"--set=global.store.endpoint={server.endpoint}",
        f"--set=global.store.existingSecret={STORE_SECRET}",
    )
    spec = pod_of(one_of(objects_of(text), "Deployment"))
    assert spec is not None
    return RenderedPod(spec, built, {STORE_SECRET: keys, **secrets})


def test_inference(
    built: dict[str, BuiltImage], s3_url: str, s3_server: S3Server, tmp_path: Path
) -> None:
    publish_bundle(ModelRepository(open_store(s3_url)), "cells", seed=1, promote=True)
    rendered, log = pod("inference", s3_url, s3_server, built, {}), tmp_path / "log"
    with rendered.running(log) as process:
        wait_until_ready(process, 8002, log)
        with Client("127.0.0.1:8001") as client:
            [answer] = client.recognize(noise(1))
        assert (answer.model, answer.version) == ("cells", 1)
        assert rendered.stop(process) == 0
    assert "Traceback" not in log.read_text()


@pytest.mark.postgres
def test_labeling_ingest(
    built: dict[str, BuiltImage],
    s3_url: str,
    s3_server: S3Server,
    postgres_url: str,
    tmp_path: Path,
) -> None:
    """Its init container makes the tables, so the first account can be made before it serves."""
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.png").write_bytes(noise(1))
    database, _, folder = postgres_url.partition("?host=")
    Path(folder).chmod(0o755)  # so that another user finds the socket
    secrets = {"labels-database": {"uri": f"{database}?host=/mnt"}}
    rendered, log = pod("labeling-ingest", s3_url, s3_server, built, secrets), tmp_path / "log"
    with rendered.running(log, visible=Path(folder)) as process:
        wait_until_ready(process, 8080, log)
        assert "is at revision" in log.with_suffix(".init").read_text()
        account = ("visionloop-labeling", "account")
        variables = rendered.environment()
        added = rendered.image.run(
            *(*account, "add", "loader", "--role=admin", "--no-password"),
            visible=Path(folder),
            **variables,
        )
        assert added.returncode == 0, added.stderr
        token = rendered.image.run(
            *(*account, "token", "loader", "--json"), visible=Path(folder), **variables
        )
        done = subprocess.run(
            command(
                *("import", tmp_path / "photos", "--dataset", "pets", "--json"),
                *("--target", "127.0.0.1:8081"),
            ),
            env={**environment(), "VISIONLOOP_TOKEN": json.loads(token.stdout)["token"]},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["accepted"] == 1
        assert rendered.stop(process) == 0
    assert "Traceback" not in log.read_text()
    assert len(list(open_store(s3_url).list("blobs/"))) == 1
