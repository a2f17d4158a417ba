"""A graph cut at its embedding and given another head answers as the two parts do."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from visionloop.errors import RefusedError
from visionloop_training.body import Body, LinearHead
from visionloop_training.export import Session
from visionloop_training.links import Link, Sigmoids, Softmax

WIDTH, CLASSES = 5, 3


def classifier(path: Path, *, embedding: str = "embedding") -> None:
    """uint8 (n, 4, 4, 3) -> embedding (n, 5) -> logits, probabilities: tiny, of our shape."""
    random = np.random.default_rng(0)
    body = random.normal(size=(48, WIDTH)).astype(np.float32) / 255
    head = random.normal(size=(WIDTH, CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "body.weight"], ["linear"]),
        helper.make_node("Relu", ["linear"], [embedding]),
        helper.make_node("MatMul", [embedding, "head.weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 4, 4, 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("logits", CLASSES), ("probabilities", CLASSES), (embedding, WIDTH))
    ]
    weights = [
        numpy_helper.from_array(body, "body.weight"),
        numpy_helper.from_array(head, "head.weight"),
    ]
    graph = helper.make_graph(nodes, "g", [images], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def new_head(classes: int, link: Link | None = None) -> LinearHead:
    random = np.random.default_rng(1)
    return LinearHead(
        random.normal(size=(classes, WIDTH)).astype(np.float32),
        random.normal(size=classes).astype(np.float32),
        link or Softmax(1.7),
    )


def test_the_new_head_answers_on_the_old_embedding(tmp_path: Path):
    classifier(tmp_path / "old.onnx")
    head = new_head(classes=4)
    Body.cut(tmp_path / "old.onnx", "embedding").with_head(head, tmp_path / "new.onnx", {"a": "b"})
    images = np.random.default_rng(2).integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)
    old, new = (Session(tmp_path / f"{name}.onnx", 1)(images) for name in ("old", "new"))
    np.testing.assert_array_equal(new["embedding"], old["embedding"])
    logits = old["embedding"] @ head.weight.T + head.bias
    np.testing.assert_allclose(new["logits"], logits, rtol=1e-5, atol=1e-5)
    scaled = np.exp(logits / 1.7)
    expected = scaled / scaled.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(new["probabilities"], expected, rtol=1e-4)
    written = onnx.load(tmp_path / "new.onnx")
    names = {one.name for one in written.graph.initializer}
    assert "head.weight" not in names  # nothing of the old head is carried along
    assert [(p.key, p.value) for p in written.metadata_props] == [("a", "b")]


def test_the_new_head_may_answer_each_class_by_itself(tmp_path: Path):
    classifier(tmp_path / "old.onnx")
    link = Sigmoids([0.5, 1.0, 2.0, 3.0], [0.0, -1.0, 2.0, 0.5])
    head = new_head(classes=4, link=link)
    Body.cut(tmp_path / "old.onnx", "embedding").with_head(head, tmp_path / "new.onnx", {})
    images = np.random.default_rng(2).integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)
    found = Session(tmp_path / "new.onnx", 1)(images)
    expected = link(torch.from_numpy(found["logits"])).numpy()
    np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-5, atol=1e-6)


def test_a_body_keeps_its_digest_through_heads(tmp_path: Path):
    classifier(tmp_path / "0.onnx")
    digests = set()
    for number in range(3):
        body = Body.cut(tmp_path / f"{number}.onnx", "embedding")
        digests.add(body.digest)
        body.with_head(new_head(classes=2 + number), tmp_path / f"{number + 1}.onnx", {})
    assert len(digests) == 1


def test_what_cannot_be_cut_is_refused(tmp_path: Path):
    classifier(tmp_path / "old.onnx")
    with pytest.raises(RefusedError, match="no value 'features' to cut at"):
        Body.cut(tmp_path / "old.onnx", "features")
