"""The images with CUDA, built for real: gigabytes, so `make test-images-large` alone runs this.

The training chart's pod trains on digits and publishes; the inference chart's pod serves what it
published. Without a GPU: training uses the CPU, and the inference image says what it lacks.
"""

import json
from pathlib import Path

import pytest
from support.built_images import BuiltImage, wait_until_ready
from support.charts import objects_of, one_of, pod_of, template
from support.digits import pictures, write_digits
from support.rendered_pods import RenderedPod
from support.stores import S3Server

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


def test_the_cuda_image_names_what_a_node_lacks(
    built_large: dict[str, BuiltImage], s3_url: str, s3_server: S3Server
) -> None:
    flags = (f"--store={s3_url}", "--provider=cuda", "--port=0", "--http-port=0")
    refused = built_large["inference-cuda"].run(
        "visionloop-inference", *flags, **s3_server.environment
    )
    assert refused.returncode == 64, refused.stderr
    assert "libcuda.so.1" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.usefixtures("helm_program")
def test_what_the_training_pod_publishes_the_inference_pod_serves(
    built: dict[str, BuiltImage],
    built_large: dict[str, BuiltImage],
    s3_url: str,
    s3_server: S3Server,
    tmp_path: Path,
) -> None:
    store = open_store(s3_url)
    write_digits(store, "digits", {"0": 60, "1": 60})
    keys = {name: value for name, value in s3_server.environment.items() if "KEY" in name}
    common = (
        f"--set=global.store.url={s3_url},global.store.endpoint={s3_server.endpoint}",
        "--set=global.store.region=us-east-1,global.store.existingSecret=keys",
    )
    objects = objects_of(
        template(
            "training", *common, "--set=dataset=digits,model=reader",
            f"--set-json=config={json.dumps(CONFIG)}",
        )
    )  # fmt: skip
    job = one_of(objects, "CronJob")["spec"]["jobTemplate"]["spec"]
    trains = RenderedPod(
        job["template"]["spec"],
        built_large,
        _folder(tmp_path / "training"),
        {"keys": keys},
        {"demo-training": one_of(objects, "ConfigMap")["data"]},
        {"metadata.labels['batch.kubernetes.io/job-name']": "demo-training-1"},
    )
    with trains.running() as process:
        code = process.wait(timeout=1200)
    assert code == 0, trains.said
    repository = ModelRepository(store)
    assert repository.aliases("reader").aliases.stable == 1

    deployment = one_of(
        objects_of(template("inference", *common, "--set=insecure=true")), "Deployment"
    )
    spec = pod_of(deployment)
    assert spec is not None
    serves = RenderedPod(spec, built, _folder(tmp_path / "inference"), {"keys": keys})
    with serves.running() as process:
        wait_until_ready(process, 8002, serves.log)
        with Client("127.0.0.1:8001") as client:
            answers = client.recognize(
                [unseen for name in "01" for unseen in pictures(int(name))[-10:]]
            )
        assert serves.stop(process) == 0
    assert {one.version for one in answers} == {1}
    said = [one.labels[0].class_id for one in answers]
    assert sum(said[place] == "01"[place // 10] for place in range(20)) > 15, said


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
