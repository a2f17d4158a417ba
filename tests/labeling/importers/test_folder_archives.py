"""Archives with a folder per class."""

import numpy as np
import pytest
from PIL import Image
from support.imports import receipts, run, tarred, zipped
from support.photographs import encode


def noise(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    return encode(Image.fromarray(pixels), "PNG")


FILES = {
    "set/cats/1.png": noise(1),
    "set/cats/deep/2.png": noise(2),
    "set/dogs/3.png": noise(3),
    "set/readme.txt": b"hello",
    "__MACOSX/set/cats/._1.png": b"x",
}


@pytest.mark.parametrize("pack", [zipped, tarred, lambda files: tarred(files, "w:gz")])
def test_the_first_folder_is_the_class(core, pack) -> None:
    job = run(core, "archive", pack(FILES))
    assert job.state == "done", job.message
    assert (job.rows, job.counts, job.checkpoint) == (3, {"accepted": 3}, 3)
    labels = {one.source: one.class_name for one in core.labels().values()}
    assert labels == {
        "set/cats/1.png": "cats", "set/cats/deep/2.png": "cats", "set/dogs/3.png": "dogs",
    }  # fmt: skip
    assert "1 files" in job.message
    assert not list(core.store.list("staging/"))
    assert [row.outcome for row in receipts(core, job)] == ["accepted"] * 3
