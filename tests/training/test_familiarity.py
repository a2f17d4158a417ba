"""The distance to what the model learned from: in the graph as in numpy, and that it tells."""

from pathlib import Path

import numpy as np
import pytest
from support.bundles import encoded, graph, preprocessing

from visionloop.images import decode
from visionloop_training import familiarity
from visionloop_training.data import Item
from visionloop_training.export import OPSET, Session
from visionloop_training.familiarity import Familiarity


def item(number: int, label: int) -> Item:
    return Item(f"{number:064x}", label, "", (), 1.0)


def test_the_graph_gives_the_distances_of_its_embeddings(tmp_path: Path):
    path = tmp_path / "model.onnx"
    model = graph(1)
    model.opset_import[0].version = OPSET  # as training exports
    path.write_bytes(model.SerializeToString())
    prepare = preprocessing()
    images = [prepare(decode(encoded(index))) for index in range(30)]
    images.append(np.full_like(images[0], 127))  # as good as nothing: a short embedding
    before = Session(path).batched(images)
    found = Familiarity.of(before["embedding"][:20])
    found.into(path)
    session = Session(path)
    expected = found.distances(before["embedding"])
    for size in (1, 7, 31):
        after = session.batched(images, size)
        assert list(after) == ["logits", "probabilities", "embedding", "distance"]
        assert after["distance"].shape == (31, 1)
        np.testing.assert_allclose(after["distance"][:, 0], expected, atol=1e-5)
        np.testing.assert_allclose(after["probabilities"], before["probabilities"], atol=1e-6)
    assert expected[:20].max() < 1e-3  # its own, but for their rounding
    assert expected[20:].min() > 1e-3


def test_nothing_has_no_direction_and_still_a_distance():
    found = Familiarity.of(np.eye(3, dtype=np.float32))
    assert found.distances(np.zeros((1, 3), np.float32)).tolist() == [1.0]


def test_rare_classes_are_among_the_known(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(familiarity, "_KNOWN", 8)
    items = [item(n, 0) for n in range(20)] + [item(100 + n, 1) for n in range(3)]
    chosen = familiarity.known(items)
    assert [one.label for one in chosen] == [0, 1, 0, 1, 0, 1, 0, 0]
    assert familiarity.known(items[:2]) == items[:2]
