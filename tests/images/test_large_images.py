"""The images with CUDA, built for real: gigabytes, so `make test-images-large` alone runs this.

The training chart's pod trains on digits and publishes; the inference chart's pod serves what it
published. Without a GPU: training uses the CPU, and the inference image says what it lacks.
"""

import json

import pytest
from support.built_images import BuiltImage
from support.digits import pictures, write_digits
from support.pod_cluster import Cluster

from visionloop.client import Client
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository

pytestmark = [pytest.mark.large_images, pytest.mark.s3, pytest.mark.timeout(5400)]

PROGRAMS = {"inference-cuda": "visionloop-inference", "training": "visionloop-train"}
MOST_MEGABYTES = {"inference-cuda": 4500, "training": 7500}  # unpacked, with the base
CONFIG = {
    "backbone": {"name": "squeezenet1_1", "weights": "none"},
    "pixels": {"image_size": 64, "shape": "squash"},
    "fit": {"epochs": 6, "batch_size": 8},
    "gate": {"policy": "not-significantly-worse"},
}


@pytest.fixture(params=PROGRAMS)
def image(request: pytest.FixtureRequest, built_large: dict[str, BuiltImage]) -> BuiltImage:
    return built_large[request.param]


def test_what_is_inside(image: BuiltImage) -> None:
    assert image.config["User"] == "65532:65532"
    assert image.config["Entrypoint"] == [PROGRAMS[image.name]]
    packages = next((image.files / "opt/visionloop/lib").glob("python3*/site-packages"))
    names = {path.name for path in packages.iterdir()}
    assert names & {"pip", "tests"} == set()
    assert (image.name == "training") == ("torch" in names)
    assert {"nvidia", "onnxruntime"} <= names
    bill = json.loads((image.files / "opt/visionloop/share/visionloop/sbom.cdx.json").read_text())
    parts = {part["name"] for part in bill["components"]}
    assert ("torch" if image.name == "training" else "onnxruntime-gpu") in parts


def test_nothing_of_ours_can_be_changed_by_the_program(image: BuiltImage) -> None:
    assert image.changeable() == []


def test_size(image: BuiltImage) -> None:
    assert image.megabytes < MOST_MEGABYTES[image.name]


@pytest.mark.usefixtures("helm_program", "built_large")
def test_the_cuda_pod_names_what_its_node_lacks(cluster: Cluster) -> None:
    refused = cluster.pod("inference", "minimal", "--set=gpu.mode=device-plugin")
    with refused.running():
        assert refused.ended(120) == 64, refused.said
        assert "libcuda.so.1" in refused.said
        assert "Traceback" not in refused.said


@pytest.mark.usefixtures("helm_program", "built", "built_large")
def test_what_the_training_pod_publishes_the_inference_pod_serves(
    cluster: Cluster, s3_url: str
) -> None:
    store = open_store(s3_url)
    write_digits(store, "digits", {"0": 60, "1": 60})
    trains = cluster.pod(
        "training",
        "minimal",
        "--set=dataset=digits,model=reader",
        f"--set-json=config={json.dumps(CONFIG)}",
        kind="CronJob",
    )
    with trains.running():
        trains.assert_confined()
        assert trains.ended(1200) == 0, trains.said
    repository = ModelRepository(store)
    assert repository.aliases("reader").aliases.stable == 1

    serves = cluster.pod("inference", "minimal")
    with serves.running():
        serves.wait_until_ready()
        with Client(f"{serves.address}:8001") as client:
            answers = client.recognize(
                [unseen for name in "01" for unseen in pictures(int(name))[-10:]]
            )
        assert serves.stop() == 0, serves.said
    assert {one.version for one in answers} == {1}
    said = [one.labels[0].class_id for one in answers]
    assert sum(said[place] == "01"[place // 10] for place in range(20)) > 15, said
