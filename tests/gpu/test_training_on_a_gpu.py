"""The training job on a real GPU: a whole run, one that goes on, and what it leaves behind."""

from pathlib import Path

import pytest
import torch
from support.digits import pictures
from support.inference_server import running_server
from support.training_site import Site, StopAfter, make_site

from visionloop.client import Client
from visionloop.snapshot import SnapshotRepository
from visionloop_training import backbones, config
from visionloop_training.checkpoint import Checkpoints
from visionloop_training.data import Blobs, dataset
from visionloop_training.distributed import Workers
from visionloop_training.features import Features
from visionloop_training.fit import fit
from visionloop_training.learner import Learner
from visionloop_training.network import Network
from visionloop_training.stop import PreemptedError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
]
SETTINGS = (
    "backbone.name=resnet18",
    "backbone.weights=none",
    "pixels.image_size=64",
    "pixels.shape=squash",
    "augment.symmetries=[]",
    "augment.variants=2",
    "fit.epochs=8",
    "fit.batch_size=32",
    "fit.learning_rate=1e-3",
    "gate.policy=not-significantly-worse",
)
CLASSES = {"0": 120, "1": 120, "2": 120}


@pytest.fixture
def digits(tmp_path: Path) -> Site:
    site = make_site(tmp_path)
    site.write(CLASSES)
    return site


@pytest.mark.parametrize("freeze", ["0", "0.5"])
def test_a_run_learns_and_its_graph_answers_on_the_cpu_as_the_network_did(
    digits: Site, freeze: str
) -> None:
    result = digits.train(*SETTINGS, f"fit.freeze={freeze}")
    assert result.version == 1
    bundle = digits.repository.read("reader", 1)
    assert bundle.provenance.device == torch.cuda.get_device_name()
    assert bundle.metrics["accuracy"] > 0.9
    assert bundle.metrics["parity_max_abs_probability_difference"] < 1e-4


def test_what_a_gpu_trained_a_gpu_serves_in_16_bits(digits: Site, tmp_path: Path) -> None:
    digits.train(*SETTINGS, "fit.freeze=0")
    bundle = digits.repository.read("reader", 1)
    assert {"model.onnx", "model.fp16.onnx"} <= set(bundle.files)
    cached = f"--cache={tmp_path / 'served'}"
    with running_server(tmp_path / "server", digits.url, "--provider=cuda", cached) as server:
        server.ready()
        with Client(server.target) as client:
            for digit in CLASSES:
                shown = list(pictures(int(digit))[:40])
                found = client.recognize(shown, model="reader")
                right = sum(r.label is not None and r.label.class_id == digit for r in found)
                assert right > 36
        assert '"precision": "fp16"' in server.text()


def network_of(site: Site, settings: config.TrainingConfig) -> tuple[Network, Features]:
    torch.manual_seed(0)
    backbone, pixels = backbones.build("resnet18", "none", 64)
    preprocessing = pixels.preprocessing(64, "squash")
    network = Network(backbone, preprocessing, 3, 0)
    network = network.to(memory_format=torch.channels_last).to("cuda")
    blobs = Blobs(site.store, site.cache / "blobs")
    return network, Features(network, blobs, preprocessing, settings.augment, site.cache)


def test_a_stopped_run_goes_on_from_its_step(digits: Site) -> None:
    settings = config.load(overrides=(*SETTINGS, "fit.freeze=0"))
    data = dataset(SnapshotRepository(digits.store).read("digits", "latest"))
    saves = Checkpoints(digits.store, "reader", "a-run", every_seconds=1e6)
    network, features = network_of(digits, settings)
    with pytest.raises(PreemptedError):
        fit(network, features, data, settings, saves, StopAfter(9))
    saves.close()
    saves = Checkpoints(digits.store, "reader", "a-run", every_seconds=1e6)
    found = saves.latest()
    assert found is not None
    assert found.step == 10
    network, features = network_of(digits, settings)
    fitted = fit(network, features, data, settings, saves)
    assert len(fitted.history) == 9
    assert fitted.history[-1].val_accuracy > 0.9
    assert next(fitted.network.parameters()).device.type == "cpu"  # ready for export


def test_the_gpu_computes_in_bfloat16_and_keeps_float32_weights(digits: Site) -> None:
    settings = config.load(overrides=(*SETTINGS, "fit.freeze=0"))
    data = dataset(SnapshotRepository(digits.store).read("digits", "latest"))
    network, _ = network_of(digits, settings)
    learner = Learner(network, data, settings, Workers())
    assert learner._half
    seen = []
    network.backbone.stages[-1].register_forward_hook(lambda *call: seen.append(call[2].dtype))
    with torch.autocast("cuda", torch.bfloat16, enabled=learner._half):
        network.embed(network.normalise(torch.zeros((2, 64, 64, 3), dtype=torch.uint8).cuda()))
    assert seen == [torch.bfloat16]
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
