"""docs/models.md says how a trained file is run without us: its lines give our numbers."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.bundles import publish_bundle

from visionloop.images import decode
from visionloop.objectstore import open_store
from visionloop.preprocessing import eval_preprocessing
from visionloop.repository import ModelRepository

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.fixture
def documented(tmp_path: Path) -> tuple[dict[str, Any], list[float]]:
    """What the lines leave behind, run on a golden image, and the answer they are to find."""
    found = re.search(r"<!-- plain onnxruntime -->\n```python\n(.*?)```", PAGE.read_text(), re.S)
    assert found
    publish_bundle(ModelRepository(open_store(tmp_path.as_uri())), "birds", seed=1)
    folder = tmp_path / "models" / "birds" / "versions" / "1"
    [golden, *_] = json.loads((folder / "golden" / "golden.json").read_text())
    code = found[1]
    for written, real in (
        ("visionloop-data/store/models/birds/versions/7", str(folder)),
        ("some-bird.jpg", str(folder / golden["file"])),
    ):
        assert written in code
        code = code.replace(written, real)
    script = tmp_path / "plain.py"
    script.write_text(code)
    return runpy.run_path(str(script)), golden["probabilities"]


def test_the_probabilities_are_those_that_were_published(
    documented: tuple[dict[str, Any], list[float]],
) -> None:
    names, expected = documented
    np.testing.assert_allclose(names["probabilities"][0], expected, atol=1e-6)
    assert names["names"] == [label["name"] for label in names["bundle"]["labels"]]


@pytest.mark.parametrize("size", [(300, 300), (341, 257), (200, 517), (64, 65)])
@pytest.mark.parametrize("squash", [True, False])
def test_its_pixels_are_ours(
    documented: tuple[dict[str, Any], list[float]],
    tmp_path: Path,
    size: tuple[int, int],
    squash: bool,
) -> None:
    names, _ = documented
    ours = eval_preprocessing(224, 0.875, "bicubic", (0.5,) * 3, (0.5,) * 3, squash=squash)
    names["bundle"]["preprocessing"] = json.loads(ours.model_dump_json())
    random = np.random.default_rng(0)
    file = tmp_path / "photo.png"
    Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(file)
    np.testing.assert_array_equal(names["pixels"](file), ours(decode(file.read_bytes())))
