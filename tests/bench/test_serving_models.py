"""The benchmark's models: what every server is given does what the docs say."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from bench.serving.graphs import OPSET, PixelNetwork, export, write_model
from bench.serving.limits import session
from bench.serving.models import INPUT, MODELS, OUTPUT
from bench.serving.pictures import truncated, write_pictures
from bench.serving.workloads import check
from visionloop.errors import ImageError
from visionloop.images import decode

QUICK = ("pool", "tiny")  # the others take a minute to make; export() is what makes them


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("name", QUICK)
def test_a_model_takes_any_batch_and_its_rows_do_not_depend_on_one_another(
    name: str, folder: Path
) -> None:
    model = MODELS[name]
    loaded = session(str(write_model(model, folder)), 1)
    rows = model.rows(3)
    together = loaded.run([OUTPUT], {INPUT: rows})[0]
    assert together.shape == (3, model.outputs)
    assert np.isfinite(together).all()
    alone = np.concatenate([loaded.run([OUTPUT], {INPUT: rows[i : i + 1]})[0] for i in range(3)])
    check(together, alone)
    with pytest.raises(ValueError, match="differs"):  # so that a mixed-up row would be seen
        check(together, alone[::-1])


@pytest.mark.parametrize("name", QUICK)
def test_a_models_file_is_as_declared(name: str, folder: Path) -> None:
    model = MODELS[name]
    file = write_model(model, folder)
    written = onnx.load(file)
    assert [opset.version for opset in written.opset_import if not opset.domain] == [OPSET]
    (given,) = written.graph.input
    sizes = given.type.tensor_type.shape.dim
    assert tuple(size.dim_value for size in sizes[1:]) == model.shape
    assert sizes[0].dim_param  # the batch is free
    before = file.stat().st_mtime_ns
    assert write_model(model, folder).stat().st_mtime_ns == before  # made once


def test_an_exported_network_takes_pixels_of_any_batch(tmp_path: Path) -> None:
    torch.manual_seed(1)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 7, stride=7), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    network = PixelNetwork(layers).eval()
    export(network, tmp_path / "small.onnx", OUTPUT)
    rows = MODELS["pool"].rows(3)
    loaded = session(str(tmp_path / "small.onnx"), 1)
    assert loaded.get_inputs()[0].type == "tensor(uint8)"
    with torch.no_grad():
        expected = network(torch.from_numpy(rows)).numpy()
    for count in (1, 3):
        check(loaded.run([OUTPUT], {INPUT: rows[:count]})[0], expected[:count])


def test_an_image_is_a_quarter_of_its_float32_bytes() -> None:
    assert MODELS["resnet50"].row_bytes == 224 * 224 * 3
    assert MODELS["tiny"].row_bytes == 16


@pytest.mark.parametrize("target", [20_000, 100_000])
def test_pictures_are_real_jpegs_of_about_the_wanted_size(target: int, tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path, target)
    assert len({picture.read_bytes() for picture in pictures}) > 4
    for picture in pictures:
        assert 0.85 * target < picture.stat().st_size < 1.15 * target
    assert decode(pictures[0].read_bytes()).shape[2] == 3
    with pytest.raises(ImageError):
        decode(truncated(pictures[0].read_bytes()))
