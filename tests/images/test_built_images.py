"""The images as they are, built for real. What their programs do, the rendered pods show."""

import json
from pathlib import Path

import pytest
from support.built_images import BuiltImage

pytestmark = [pytest.mark.images, pytest.mark.timeout(900)]

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
