"""The images as they are: built for real, each program run from its image against a real store."""

import json
import signal
from pathlib import Path

import pytest
from support.built_images import BuiltImage, wait_until_ready
from support.bundles import publish_bundle
from support.command_line import result
from support.pictures import noise
from support.postgres import PostgresServer
from support.stores import S3Server, free_ports

from visionloop.client import Client
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository

pytestmark = [pytest.mark.images, pytest.mark.s3, pytest.mark.timeout(900)]

PROGRAMS = {"inference-cpu": "visionloop-inference", "labeling-ingest": "visionloop-labeling"}
# Unpacked, 225 MB of it the Debian base with Python; an image that outgrows its limit is looked at.
MOST_MEGABYTES = {"inference-cpu": 480, "labeling-ingest": 650}


@pytest.fixture(params=PROGRAMS)
def image(request: pytest.FixtureRequest, built: dict[str, BuiltImage]) -> BuiltImage:
    return built[request.param]


def test_configuration(image: BuiltImage) -> None:
    config = image.config
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == [PROGRAMS[image.name]]
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in config["Labels"].items()
    }
    assert labels["title"] == f"visionloop-{image.name}"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] == "0.1.0"
    assert len(labels["revision"].removesuffix("-dirty")) == 40
    assert labels["base.name"].startswith("localhost/")


def test_what_is_inside(image: BuiltImage) -> None:
    packages = next((image.files / "opt/visionloop/lib").glob("python3*/site-packages"))
    names = {path.name for path in packages.iterdir()}
    assert names & {"torch", "pip", "setuptools", "nvidia", "tests"} == set()
    ours = {name for name in names if name.startswith("visionloop") and "dist-info" not in name}
    assert ours == {"visionloop", PROGRAMS[image.name].replace("-", "_")}
    assert (image.name == "inference-cpu") == ("onnxruntime" in names)
    assert (image.name == "labeling-ingest") == ("pyarrow" in names)  # 170 MB
    programs = {path.name for path in (image.files / "opt/visionloop/bin").glob("visionloop*")}
    assert programs == {"visionloop", PROGRAMS[image.name]}


def test_nothing_of_ours_can_be_changed_by_the_program(image: BuiltImage) -> None:
    assert image.changeable() == []


def test_size(image: BuiltImage) -> None:
    assert image.megabytes < MOST_MEGABYTES[image.name]


def test_bill_of_materials(image: BuiltImage) -> None:
    bill = json.loads((image.files / "opt/visionloop/share/visionloop/sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    versions = {part["name"]: part.get("version") for part in bill["components"]}
    assert versions["visionloop"] == "0.1.0"
    locked = Path(__file__).parents[2] / "images/locks" / f"{image.name}.txt"
    assert f"boto3=={versions['boto3']} " in locked.read_text()
    assert not {"torch", "cyclonedx-bom", "hatchling", "pip"} & set(versions)


def test_the_root_is_read_only_and_the_user_nobody(image: BuiltImage) -> None:
    done = image.run(
        "sh", "-c", "id -u; touch /opt/visionloop/x /x; echo yes > /tmp/x && cat /tmp/x"
    )
    assert done.stdout.split() == ["65532", "yes"]
    assert done.stderr.count("Read-only file system") == 2


def test_inference_recognises_an_image_and_drains(
    built: dict[str, BuiltImage], s3_url: str, s3_server: S3Server, tmp_path: Path
) -> None:
    publish_bundle(ModelRepository(open_store(s3_url)), "cells", seed=1, promote=True)
    port, http_port = free_ports(2)
    flags = (f"--store={s3_url}", f"--port={port}", f"--http-port={http_port}")
    image, log = built["inference-cpu"], tmp_path / "log"
    asked = image.run("visionloop-inference", "doctor", *flags, **s3_server.environment)
    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert "to be served: cells stable 1" in asked.stdout
    program = [*image.config["Entrypoint"], *flags]
    with image.started(log, program, s3_server.environment) as process:
        wait_until_ready(process, http_port, log)
        with Client(f"127.0.0.1:{port}") as client:
            [answer] = client.recognize(noise(1))
        assert (answer.model, answer.version) == ("cells", 1)
        assert answer.labels
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    assert "Traceback" not in log.read_text()


@pytest.mark.postgres
def test_labeling_takes_a_labelled_image_and_drains(
    built: dict[str, BuiltImage],
    s3_url: str,
    s3_server: S3Server,
    postgres_server: PostgresServer,
    postgres_url: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "1.png").write_bytes(noise(1))
    grpc_port, http_port = free_ports(2)
    database, _, socket = postgres_url.partition("?host=")
    Path(socket).chmod(0o755)  # so that another user finds the socket
    image, log = built["labeling-ingest"], tmp_path / "log"
    program = [
        *image.config["Entrypoint"],
        f"--store={s3_url}",
        f"--database={database}?host=/mnt",
        f"--http-port={http_port}",
        f"--grpc-port={grpc_port}",
    ]
    with image.started(
        log, program, s3_server.environment, mounts={"/mnt": Path(socket)}
    ) as process:
        wait_until_ready(process, http_port, log)
        target = ("--target", f"127.0.0.1:{grpc_port}")
        report = result("import", tmp_path / "photos", "--dataset", "pets", *target)
        assert (report["accepted"], report["rejected"]) == (1, [])
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    assert "Traceback" not in log.read_text()
    stored = [stat.key for stat in open_store(s3_url).list("blobs/")]
    assert len(stored) == 1
