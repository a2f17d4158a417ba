"""Backbones are cut as their libraries run them, and keep doing so when exported."""

import numpy as np
import pytest
import timm
import torch
import torchvision.models as zoo

from visionloop.errors import ConfigurationError
from visionloop_training import backbones
from visionloop_training.backbones import torchvision_cuts
from visionloop_training.export import Graph, Session, export
from visionloop_training.links import Softmax
from visionloop_training.network import Network

# One small member of every family, with an input it takes.
FAMILIES = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "googlenet": 64,
    "inception_v3": 75,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_x_400mf": 32,
    "resnet18": 32,
    "shufflenet_v2_x0_5": 32,
    "swin_t": 32,
    "vgg11": 32,
    "vit_b_32": 64,
}
EXPORTED = (  # bench.backbones: more
    "mobilenet_v3_small",
    pytest.param("shufflenet_v2_x0_5", marks=pytest.mark.long),
    "convnext_atto",
)


@pytest.mark.parametrize(("name", "size"), FAMILIES.items())
def test_the_cut_network_is_the_librarys(name: str, size: int, monkeypatch):
    built: list[torch.nn.Module] = []
    original = zoo.get_model

    def keep(*arguments, **options):
        built.append(original(*arguments, **options))
        return built[-1]

    monkeypatch.setattr(zoo, "get_model", keep)
    torch.manual_seed(0)
    backbone, pixels = backbones.build(name, "none", size)
    net = built[0].eval()
    heads = [layer for path, layer in net.named_modules() if is_classifier(path, layer)]
    torch.nn.init.normal_(heads[-1].weight)  # ViT's is all zeros, which would hide everything
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        embedding = backbone(x)
        assert embedding.shape == (2, backbone.width)
        assert torch.equal(heads[-1](embedding), net(x))
    assert pixels.size >= 224
    # every weight but the classifier's is in some stage
    parts = {id(p) for p in backbone.parameters()} | {id(p) for p in heads[-1].parameters()}
    unused = [n for n, p in net.named_parameters() if id(p) not in parts]
    assert all(n.startswith(("aux", "AuxLogits")) for n in unused)


def is_classifier(path: str, layer: torch.nn.Module) -> bool:
    return isinstance(layer, torch.nn.Linear) and not path.startswith(("aux", "AuxLogits"))


def test_squeezenet_gets_a_linear_head_on_its_features():
    backbone, _ = backbones.build("squeezenet1_1", "none", None)
    assert backbone(torch.randn(2, 3, 64, 64)).shape == (2, 512)


def test_every_torchvision_family_has_a_cutting_rule():
    families = {
        zoo.get_model_builder(name).__module__.rpartition(".")[2]
        for name in torchvision_cuts.names()
    }
    assert families == set(torchvision_cuts.CUTS)


# timm's: cut by a rule, by watching them run, or not at all. The input's side, and the stages.
TIMM = {
    "tf_efficientnet_lite0": (64, 9),
    "timm:resnet18": (64, 10),
    "convnext_atto": (64, 6),
    "mobilenetv3_small_050": (64, 8),
    "regnetx_002": (64, 6),
    "vit_tiny_patch16_224": (64, 15),
    "swin_tiny_patch4_window7_224": (64, 6),
    "levit_128s": (224, 2),
    "inception_next_atto": (64, 6),
}


@pytest.mark.parametrize("name", TIMM)
def test_timms_networks_are_cut_as_they_run(name: str, monkeypatch: pytest.MonkeyPatch):
    built: list[torch.nn.Module] = []
    original = timm.create_model

    def keep(*arguments, **options):
        built.append(original(*arguments, **options))
        return built[-1]

    monkeypatch.setattr(timm, "create_model", keep)
    size, stages = TIMM[name]
    torch.manual_seed(0)
    backbone, _ = backbones.build(name, "none", size)
    [net] = built
    net.eval()
    for parameter in net.parameters():  # zeros at the start of training would hide mistakes
        torch.nn.init.normal_(parameter, std=0.05)
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        embedding = backbone(x)
        assert embedding.shape == (2, backbone.width)
        assert torch.equal(embedding, net.forward_head(net.forward_features(x), pre_logits=True))
    assert len(backbone.stages) == stages, backbone.stage_names
    parts = {id(p) for p in backbone.parameters()}
    assert [n for n, p in net.named_parameters() if id(p) not in parts] == []


def test_plain_names_are_torchvisions_where_it_has_them():
    assert backbones.library_of("resnet18") == ("torchvision", "resnet18")
    assert backbones.library_of("timm:resnet18") == ("timm", "resnet18")
    assert backbones.library_of("convnext_tiny.fb_in22k")[0] == "timm"
    assert {"resnet18", "timm:resnet18", "convnext_atto"} <= set(backbones.names())
    with pytest.raises(ConfigurationError, match="torchvision has no weights for convnext_atto"):
        backbones.build("convnext_atto", "torchvision", None)


@pytest.mark.parametrize("name", EXPORTED)
def test_the_exported_graph_answers_as_the_network(name: str, tmp_path):
    torch.manual_seed(1)
    size = FAMILIES.get(name, 64)
    backbone, pixels = backbones.build(name, "none", size)
    network = Network(backbone, pixels.preprocessing(size, "squash"), classes=3, frozen=0).eval()
    graph = Graph(network, Softmax(0.5))
    export(graph, tmp_path / "model.onnx", size, size, {"visionloop.dataset": "test"})
    session = Session(tmp_path / "model.onnx", threads=1)
    images = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = [tensor.numpy() for tensor in graph(torch.from_numpy(images))]
    for count in (1, 2, 5):
        found = session(images[:count])
        for name_, values in zip(("logits", "probabilities", "embedding"), expected, strict=True):
            np.testing.assert_allclose(found[name_], values[:count], rtol=1e-3, atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]  # no external data


def test_each_backbone_keeps_its_own_pixels():
    _, lite = backbones.build("tf_efficientnet_lite0", "none", None)
    _, vgg = backbones.build("squeezenet1_1", "none", None)
    spec = lite.preprocessing(None, "crop")
    assert (spec.mean, spec.output_size) == ((0.5, 0.5, 0.5), (224, 224))
    assert spec.steps[0].interpolation == "bicubic"
    assert spec.steps[0].size == 256
    other = vgg.preprocessing(96, "squash")
    assert other.mean == (0.485, 0.456, 0.406)
    assert [step.step for step in other.steps] == ["resize"]
    assert other.output_size == (96, 96)


def test_the_packaged_weights_are_real_and_pinned():
    backbone, _ = backbones.build("tf_efficientnet_lite0", "default", None)
    assert backbone.weights_sha256 is not None
    assert backbone.weights_sha256.startswith("579344248a93e230")
    untrained, _ = backbones.build("tf_efficientnet_lite0", "none", None)
    assert untrained.weights_sha256 is None
    first = [next(b.stages[0].parameters()) for b in (backbone, untrained)]
    assert not torch.equal(*first)


@pytest.mark.parametrize(("given", "near"), [("resnet5O", "resnet50"), ("vgg_16", "vgg16")])
def test_unknown_names_get_near_ones(given: str, near: str):
    with pytest.raises(ConfigurationError, match=near):
        backbones.build(given, "none", None)


def test_freeze_points_are_shares_or_names():
    backbone, _ = backbones.build("tf_efficientnet_lite0", "none", None)
    assert backbone.freeze_point(0.0) == 0
    assert backbone.freeze_point(1.0) == len(backbone.stages) == 9
    assert backbone.freeze_point("blocks.4") == 6
    with pytest.raises(ConfigurationError, match=r"stem, blocks\.0"):
        backbone.freeze_point("layer3")
