"""The 16-bit sibling for GPUs: what it is, that its proof sees what a GPU would do, that it is left
out where it fails."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.training_site import FIRST, PROBE, Site, make_site
from torch import nn

from visionloop.cli import main as cli
from visionloop_inference.providers import CPU
from visionloop_inference.session import Session as Served
from visionloop_inference.session import choose_graph
from visionloop_training import half_precision, lanes
from visionloop_training.backbones.stages import Backbone, PixelSpec, pool
from visionloop_training.config import ExportConfig
from visionloop_training.data import Blobs, Item
from visionloop_training.export import OUTPUTS, Graph, Session, export
from visionloop_training.familiarity import Familiarity
from visionloop_training.half_graph import HalfGraph, fold_norms
from visionloop_training.half_precision import HalfPrecision, rounded
from visionloop_training.links import Link, Sigmoids, Softmax
from visionloop_training.network import Network
from visionloop_training.reproduce import reproduce

SIDE, CLASSES, WIDTH = 32, 3, 128
LINK = Softmax(0.8)
PIXELS = PixelSpec(SIDE, SIDE, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGES = np.random.default_rng(0).integers(0, 256, (40, SIDE, SIDE, 3), dtype=np.uint8)
IMAGES_64 = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
ITEMS = [Item(f"{number:064x}", 0, "", (), 1.0) for number in range(len(IMAGES))]


def make_network(seed: int = 3) -> Network:
    """Convolutions with norms that have seen data, half a megabyte of them."""
    torch.manual_seed(seed)
    stages: list[tuple[str, nn.Module]] = []
    for index, (before, after) in enumerate([(3, 64), (64, WIDTH), (WIDTH, WIDTH)]):
        norm = nn.BatchNorm2d(after)
        with torch.no_grad():
            norm.running_mean.normal_(std=0.2)
            norm.running_var.uniform_(0.2, 2.0)
            norm.weight.uniform_(0.5, 2.0)
            norm.bias.normal_(std=0.2)
        stages.append(
            (f"{index}", nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), norm, nn.ReLU()))
        )
    backbone = Backbone("small", [*stages, ("pool", pool())], WIDTH)
    network = Network(backbone, PIXELS.preprocessing(SIDE, "squash"), CLASSES, frozen=1).eval()
    nn.init.normal_(network.head.weight, std=0.3)
    return network


class OneLane:
    """What `half_precision` needs of a lane."""

    preprocessing = None

    def __init__(self, network: Network, *, on_gpu: bool = True) -> None:
        self.on_gpu = on_gpu
        self._network = network

    def export_half(self, path: Path, link: Link, metadata: dict[str, str]) -> None:
        graph = HalfGraph(self._network, link, SIDE, SIDE)
        export(graph, path, SIDE, SIDE, metadata)


class SomeImages(Blobs):
    """Blobs that hold IMAGES."""

    def __init__(self):
        pass

    def prepared(self, shas, preprocessing):
        return [IMAGES[int(sha, 16)] for sha in shas]


def made(
    folder: Path,
    network: Network,
    lane: OneLane | None = None,
    limit: float = 0.02,
    link: Link = LINK,
) -> HalfPrecision:
    """model.onnx and its sibling in the folder, with the same familiar images in both."""
    exact = folder / "model.onnx"
    export(Graph(network, link), exact, SIDE, SIDE, {"a": "b"})
    known = Familiarity.of(Session(exact, 1)(IMAGES[:20])["embedding"])
    known.into(exact)
    return half_precision.add(
        folder / "model.fp16.onnx", lane or OneLane(network), link, {"a": "b"}, known,
        Session(exact, 1), ITEMS, SomeImages(), limit,
    )  # fmt: skip


def signature(model: onnx.ModelProto) -> list[tuple[str, int, list[int | str]]]:
    """Names, types and shapes of the inputs and outputs."""
    return [
        (
            value.name,
            value.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        )
        for value in (*model.graph.input, *model.graph.output)
    ]


def test_it_has_half_the_bytes_the_same_signature_and_the_same_answers(tmp_path: Path):
    network = make_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = made(tmp_path, network)
    assert found.passed, found.reason
    assert found.images == len(ITEMS)
    assert 0 < found.max_probability_difference <= 0.02
    assert 0 < found.max_distance_difference <= 0.02
    exact, half = (onnx.load(tmp_path / name) for name in ("model.onnx", "model.fp16.onnx"))
    sizes = [(tmp_path / name).stat().st_size for name in ("model.onnx", "model.fp16.onnx")]
    assert sizes[1] < 0.6 * sizes[0]  # what both have of familiar images is in 16 bits anyway
    assert signature(half) == signature(exact)
    assert [name for name, *_ in signature(half)[1:]] == [*OUTPUTS, "distance"]
    assert [(p.key, p.value) for p in half.metadata_props] == [("a", "b")]
    constants = [
        {c.name: c for c in m.graph.initializer if "familiarity" in c.name} for m in (exact, half)
    ]
    assert constants[0] == constants[1] != {}
    kinds = {node.op_type for node in half.graph.node}
    assert "BatchNormalization" not in kinds  # each is part of its convolution
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_each_class_by_itself(tmp_path: Path):
    found = made(tmp_path, make_network(), link=Sigmoids([0.5, 1.0, 2.0], [0.0, -1.0, 2.0]))
    assert found.passed, found.reason
    assert 0 < found.max_probability_difference <= 0.02


def test_norms_are_folded_exactly_and_only_where_they_follow_a_convolution():
    network = make_network()
    lone = nn.BatchNorm2d(3)
    nn.init.constant_(lone.weight, 1.5)
    plain = nn.Sequential(lone, *list(network.backbone.stages)[:3]).eval()
    x = torch.randn(4, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = plain(x)
        fold_norms(plain, x[:1])
        torch.testing.assert_close(plain(x), expected, rtol=1e-4, atol=1e-4)
    norms = [module for module in plain.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [norm.eps for norm in norms] == [1e-5, 1e-12, 1e-12, 1e-12]


def too_large_weights(network: Network) -> None:
    """More than 65,504, and the layer after it makes up for that."""
    network.backbone.stages[1][0].weight[0] *= 1e7


def too_large_values(network: Network) -> None:
    """Weights that fit, whose sums do not, and the layer after them makes up for that."""
    norm = network.backbone.stages[1][1]
    norm.weight *= 3e4
    norm.bias *= 3e4
    network.backbone.stages[2][0].weight /= 3e4


@pytest.mark.parametrize("spoil", [too_large_weights, too_large_values])
def test_what_does_not_fit_into_sixteen_bits_is_left_out(spoil, tmp_path: Path, caplog):
    network = make_network()
    with torch.no_grad():
        spoil(network)
    found = made(tmp_path, network)
    assert not found.passed
    assert "are no numbers; 16 bits hold values up to 65,504" in found.reason
    assert found.max_probability_difference is None
    assert not (tmp_path / "model.fp16.onnx").exists()
    assert "the version gets no 16-bit graph: its answers to 40 of 40" in caplog.text
    assert (tmp_path / "model.onnx").exists()


def test_onnxruntime_alone_would_not_see_what_a_gpu_does(tmp_path: Path):
    """Why there is `rounded`; where this fails because both see it, that can go."""
    network = make_network()
    with torch.no_grad():
        too_large_values(network)
    path = tmp_path / "model.fp16.onnx"
    OneLane(network).export_half(path, LINK, {})
    assert np.isfinite(Session(path, 1)(IMAGES)["probabilities"]).all()
    model = onnx.load(path)
    before = model.SerializeToString()
    (tmp_path / "rounded.onnx").write_bytes(rounded(model).SerializeToString())
    assert model.SerializeToString() == before
    assert np.isnan(Session(tmp_path / "rounded.onnx", 1)(IMAGES)["probabilities"]).any()


def test_rounding_is_torchs(tmp_path: Path):
    """Step by step as torch does it in 16 bits, but for the order of sums."""
    graph = HalfGraph(make_network(), LINK, SIDE, SIDE)
    export(graph, tmp_path / "half.onnx", SIDE, SIDE, {})
    copy = tmp_path / "rounded.onnx"
    copy.write_bytes(rounded(onnx.load(tmp_path / "half.onnx")).SerializeToString())
    found = Session(copy, 1)(IMAGES)
    with torch.no_grad():
        logits, probabilities, embedding = graph(torch.from_numpy(IMAGES))
    np.testing.assert_allclose(found["embedding"], embedding.numpy(), rtol=4e-3, atol=1e-3)
    np.testing.assert_allclose(found["logits"], logits.numpy(), rtol=4e-3, atol=1e-2)
    np.testing.assert_allclose(found["probabilities"], probabilities.numpy(), atol=5e-3)


def test_a_difference_above_the_limit_is_told(tmp_path: Path):
    found = made(tmp_path, make_network(), limit=1e-6)
    assert "differs from model.onnx by" in found.reason
    assert "on 40 real images (limit 1e-06)" in found.reason
    assert found.max_probability_difference > 1e-6
    assert not (tmp_path / "model.fp16.onnx").exists()


def test_another_signature_is_told(tmp_path: Path):
    other = make_network()
    other.head = nn.Linear(WIDTH, CLASSES + 1)
    found = made(tmp_path, make_network(), OneLane(other.eval()))
    assert found.reason == "its inputs and outputs are not those of model.onnx"


def test_what_cannot_be_exported_ends_no_run(tmp_path: Path):
    class Odd(OneLane):
        def export_half(self, path, link, metadata):
            path.write_bytes(b"begun")
            raise RuntimeError("no kernel for Half\nat 0x123")

    network = make_network()
    found = made(tmp_path, network, Odd(network))
    assert (found.passed, found.reason) == (False, "no kernel for Half")
    assert not (tmp_path / "model.fp16.onnx").exists()


def test_when_one_is_made(monkeypatch: pytest.MonkeyPatch):
    cpu, gpu = (OneLane(make_network(), on_gpu=on) for on in (False, True))
    for setting, expected in {"auto": [False, True], "on": [True] * 2, "off": [False] * 2}.items():
        config = ExportConfig(half_precision=setting)
        assert [half_precision.wanted(config, lane) for lane in (cpu, gpu)] == expected
    full = lanes.FullLane.__new__(lanes.FullLane)
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert full.on_gpu is there


HALF = (*PROBE, "export.half_precision=on", "export.half_max_probability_difference=0.1")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Version 1 with a sibling. Tests must not change it."""
    site = make_site(tmp_path_factory.mktemp("halves"))
    site.write(FIRST)
    result = site.train(*HALF)
    assert result.summary["half_precision"]["reason"] == ""
    return site


def test_the_service_takes_it_from_the_published_bundle(
    published: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    bundle = published.repository.fetch("reader", 1, tmp_path)  # digests are checked
    assert choose_graph(bundle, "cuda") == ("model.fp16.onnx", "fp16")
    assert choose_graph(bundle, "tensorrt") == ("model.fp16.onnx", "fp16")
    assert choose_graph(bundle, "cpu") == ("model.onnx", "fp32")
    files = [tmp_path / name for name in (bundle.graph, bundle.half_graph)]
    served = [Served.load(file, bundle.signature, CPU, 1, 8).run([IMAGES_64]) for file in files]
    for exact, half in zip(*served, strict=True):
        assert (half.shape, half.dtype) == (exact.shape, exact.dtype)
    limits = {"default": 1e-3, "fp16/cuda": 0.1, "fp16/tensorrt": 0.1}
    assert bundle.golden.max_probability_difference == limits
    report = json.loads((tmp_path / "report/report.json").read_text())["half_precision"]
    measured = bundle.metrics["half_max_abs_probability_difference"]
    assert 0 < measured == report["max_probability_difference"] <= 0.1
    assert report["images"] == sum(FIRST.values())
    assert "in 16 bits, for GPUs" in (tmp_path / "report/report.html").read_text()
    assert cli(["models", "show", "reader", "1", "--store", published.url]) == 0
    told = capsys.readouterr().out
    assert f"model.fp16.onnx on cuda, tensorrt: {measured:.1e} from model.onnx (limit 0.1)" in told


@pytest.mark.long
def test_a_new_head_gets_the_stable_versions_body(published: Site, tmp_path: Path):
    site = published.copied(tmp_path)
    site.write(dict.fromkeys(FIRST, 60))
    fast = (*PROBE, "export.half_max_probability_difference=0.1")  # auto: stable has one
    assert site.train(*fast, lane="fast").summary["half_precision"]["reason"] == ""
    bundle = site.repository.read("reader", 2)
    assert choose_graph(bundle, "cuda") == ("model.fp16.onnx", "fp16")
    for number in (1, 2):
        assert reproduce(site.store, "reader", number, site.cache).identical


def test_a_new_head_on_a_body_without_one_says_so(probed: Site):
    site = probed
    site.write(dict.fromkeys(FIRST, 60))
    half = site.train(*HALF, lane="fast").summary["half_precision"]
    assert "version 1, whose body it has, has no model.fp16.onnx" in half["reason"]
    bundle = site.repository.read("reader", 2)
    assert "model.fp16.onnx" not in bundle.files
    assert bundle.golden.max_probability_difference == {"default": 1e-3}
    assert "half_max_abs_probability_difference" not in bundle.metrics
    assert choose_graph(bundle, "cuda") == ("model.onnx", "fp32")
    page = site.store.get("models/reader/versions/2/report/report.html").data.decode()
    assert "No graph in 16 bits: version 1, whose body it has" in page


def test_without_one_nothing_is_said(first_probe: Site):
    bundle = first_probe.repository.read("reader", 1)
    if torch.cuda.is_available():
        pytest.skip("a GPU trained it")
    assert "model.fp16.onnx" not in bundle.files
    page = first_probe.store.get("models/reader/versions/1/report/report.html").data.decode()
    assert "16 bits" not in page
