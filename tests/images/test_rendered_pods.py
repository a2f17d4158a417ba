"""The charts' pods, run for real by podman: helm's render, not a command line of the test's.

Under the smallest values and under production's, whose Secrets and ConfigMaps are made here. A
labelled image goes in, the promoted version answers, both end as Kubernetes ends them.
"""

import json
import ssl
import subprocess
import urllib.request
from pathlib import Path

import grpc
import pytest
from support.bundles import publish_bundle
from support.command_line import command, environment
from support.pictures import noise
from support.pod_cluster import TOKEN, Cluster
from support.postgres import postgres_programs
from support.stores import S3Server

from visionloop.client import Client
from visionloop.errors import PermissionDeniedError, UnauthenticatedError
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository
from visionloop_labeling import backup, datasets
from visionloop_labeling.database import open_database

pytestmark = [
    pytest.mark.images,
    pytest.mark.s3,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("helm_program", "built"),
]


def test_inference(cluster: Cluster, s3_url: str) -> None:
    publish_bundle(ModelRepository(open_store(s3_url)), "cells", seed=1, promote=True)
    pod = cluster.pod("inference", "minimal")
    with pod.running():
        pod.wait_until_ready()
        pod.assert_confined()
        asked = pod.run("visionloop-inference", "doctor")
        assert asked.returncode == 0, asked.stdout + asked.stderr
        assert "to be served: cells stable 1" in asked.stdout
        with Client(f"{pod.address}:8001") as client:
            [answer] = client.recognize(noise(1))
        assert (answer.model, answer.version) == ("cells", 1)
        assert answer.labels
        assert pod.stop() == 0, pod.said
        assert "Traceback" not in pod.said


def test_inference_in_production(cluster: Cluster, s3_url: str) -> None:
    """TLS, tokens, two models; without a GPU, which this machine may lack."""
    for seed, model in enumerate(("cells", "panels"), 1):
        publish_bundle(ModelRepository(open_store(s3_url)), model, seed=seed, promote=True)
    pod = cluster.pod("inference", "production", "--set=gpu.mode=none")
    target = f"{pod.address}:8001"
    trusted = grpc.ssl_channel_credentials(cluster.authority.read_bytes())
    with pod.running():
        pod.wait_until_ready()
        pod.assert_confined()
        with Client(target, credentials=trusted, token=TOKEN) as client:
            answers = [client.recognize(noise(1), model=name)[0] for name in ("cells", "panels")]
        assert [(one.model, one.version) for one in answers] == [("cells", 1), ("panels", 1)]
        with Client(target, credentials=trusted) as nobody, pytest.raises(UnauthenticatedError):
            nobody.recognize(noise(1), model="cells")
        with (
            Client(target, credentials=trusted, token=TOKEN) as client,
            pytest.raises(PermissionDeniedError),
        ):
            client.submit_feedback(answers[0], class_id="cat", image=noise(1))
        asked = urllib.request.Request(
            f"https://{pod.address}:8003/v1/recognize?model=cells",
            data=noise(1),
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "image/png"},
        )
        context = ssl.create_default_context(cafile=str(cluster.authority))
        with urllib.request.urlopen(asked, timeout=30, context=context) as answered:  # noqa: S310
            assert answered.status == 200
        assert pod.stop() == 0, pod.said
        assert "Traceback" not in pod.said


@pytest.mark.postgres
@pytest.mark.parametrize("values", ["minimal", "production"])
def test_labeling_ingest(
    values: str, cluster: Cluster, s3_url: str, postgres_url: str, tmp_path: Path
) -> None:
    """Its init container makes the tables, so the first account can be made before it serves."""
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.png").write_bytes(noise(1))
    uri = {"uri": postgres_url}
    secrets = {"labels-database": uri, "labels-app": uri}
    pod = cluster.pod("labeling-ingest", values, secrets=secrets)
    encrypted = values == "production"
    with pod.running():
        pod.wait_until_ready()
        assert "is at revision" in pod.log("migrate")
        pod.assert_confined()
        account = ("visionloop-labeling", "account")
        added = pod.run(*account, "add", "loader", "--role=admin", "--no-password")
        assert added.returncode == 0, added.stderr
        token = pod.run(*account, "token", "loader", "--json")
        done = subprocess.run(
            command(
                *("import", tmp_path / "photos", "--dataset", "pets", "--json"),
                *("--target", f"{pod.address}:8081"),
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
                f"https://{pod.address}:8080/login", timeout=30, context=context
            ) as page:
                assert b"<form" in page.read()
        assert pod.stop() == 0, pod.said
        assert "Traceback" not in pod.said
    assert len(list(open_store(s3_url).list("blobs/"))) == 1


@pytest.mark.postgres
@pytest.mark.usefixtures("postgres_image")
@pytest.mark.parametrize("values", ["minimal", "production"])
def test_backup(
    values: str,
    cluster: Cluster,
    s3_url: str,
    s3_server: S3Server,
    postgres_url: str,
    tmp_path: Path,
) -> None:
    """Three programs of two images, on volumes that they share; of the dump pg_restore reads."""
    database = open_database(postgres_url)
    with database.write() as session:
        datasets.create(session, "pets", None)
    database.close()
    open_store(s3_url).put("blobs/sha256/00/00/0", b"an image")
    target = f"{s3_url}-backup"
    uri = {"uri": postgres_url}
    pod = cluster.pod(
        "labeling-ingest",
        values,
        f"--set=backup.enabled=true,backup.storeSecret=backup,backup.target={target}",
        f"--set=backup.endpoint={s3_server.endpoint}",
        secrets={"labels-database": uri, "labels-app": uri},
        kind="CronJob",
    )
    with pod.running():
        assert pod.ended(120) == 0, pod.said
        assert "is complete" in pod.said
    backups = open_store(target)
    day = backup.read_day(backups)
    assert (day.copied, day.damaged) == (1, 0)
    backup.fetch_dump(backups, day, tmp_path / "dump")
    programs = postgres_programs()
    assert programs is not None
    listed = subprocess.run(
        [programs / "pg_restore", "--list", tmp_path / "dump"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "TABLE DATA public dataset " in listed.stdout
