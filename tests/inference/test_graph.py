"""What a graph file may hold."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.onnx_ml_pb2 as onnx_pb2
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.bundles import graph

from visionloop.errors import ConfigurationError, CorruptError, RefusedError
from visionloop_inference import providers
from visionloop_inference.graph import (
    _FIELDS,
    MAX_FIELDS_OF_A_TENSOR,
    GraphFacts,
    _read,
    _varint,
    check_graph,
)


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def with_node(model: onnx.ModelProto, node: onnx.NodeProto) -> onnx.ModelProto:
    model.graph.node.append(node)
    return model


def external_tensor() -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def test_a_plain_graph_passes(tmp_path: Path) -> None:
    check_graph(saved(tmp_path, graph(1, trap=True, hidden=8)))


def test_external_data_is_refused(tmp_path: Path) -> None:
    model = graph(1)
    model.graph.initializer.append(external_tensor())
    with pytest.raises(RefusedError, match="'w' in another file"):
        check_graph(saved(tmp_path, model))


def test_external_data_in_a_branch_is_refused(tmp_path: Path) -> None:
    branch = helper.make_graph([], "branch", [], [], [external_tensor()])
    node = helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch)
    with pytest.raises(RefusedError, match="external data"):
        check_graph(saved(tmp_path, with_node(graph(1), node)))


def test_external_data_in_a_constant_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Constant", [], ["d"], value=external_tensor())
    with pytest.raises(RefusedError, match="external data"):
        check_graph(saved(tmp_path, with_node(graph(1), node)))


def test_foreign_operators_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("Steal", ["pixels"], ["d"], domain="com.example")
    with pytest.raises(RefusedError, match=r"com\.example:Steal"):
        check_graph(saved(tmp_path, with_node(graph(1), node)))


@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff", b"not onnx at all"])
def test_other_files_are_corrupt(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r"model\.onnx is not an ONNX file"):
        check_graph(path)


def onnx_message(message: str) -> Any:
    """ONNX's own descriptor of a message that we describe in part."""
    if message == "TensorType":
        return onnx.TypeProto.Tensor.DESCRIPTOR
    if message == "Dimension":
        return onnx.TensorShapeProto.Dimension.DESCRIPTOR
    names = {"Entry": "StringStringEntryProto", "Value": "ValueInfoProto"}
    names["Shape"] = "TensorShapeProto"
    return onnx_pb2.DESCRIPTOR.message_types_by_name[names.get(message, f"{message}Proto")]


def test_the_partial_description_agrees_with_onnx() -> None:
    for message, fields in _FIELDS.items():
        real = onnx_message(message).fields_by_name
        for field, (number, _, repeated) in fields.items():
            assert (real[field].number, real[field].is_repeated) == (number, repeated), field


def test_every_field_of_onnx_that_can_hold_a_node_or_a_tensor_is_looked_at() -> None:
    known = {message: set(fields) for message, fields in _FIELDS.items()}
    # Training graphs are not run; types, shapes and metadata hold neither nodes nor tensors.
    harmless = {"training_info", "metadata_props", "opset_import", "value_info", "input", "output"}
    harmless |= {"quantization_annotation", "tp", "type_protos", "configuration"}
    harmless |= {"device_configurations", "segment", "dim"}
    harmless |= {
        f"{kind}_type" for kind in ("sequence", "map", "optional", "sparse_tensor", "opaque")
    }
    for message, fields in known.items():
        for field in onnx_message(message).fields:
            if field.message_type is not None and field.name not in fields:
                assert field.name in harmless, f"{message}.{field.name}"


def test_what_the_file_says_of_itself(tmp_path: Path) -> None:
    model = graph(1)
    model.producer_name, model.producer_version = "exporter", "2.9"
    facts = check_graph(saved(tmp_path, model))
    assert facts == GraphFacts("exporter 2.9", frozenset(), facts.structure)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.ClearField("producer_name")
    model.ClearField("producer_version")
    facts = check_graph(saved(tmp_path, model))
    assert facts == GraphFacts("", frozenset({"pixels"}), facts.structure)


def test_the_structure_is_that_of_the_network_not_of_its_weights(tmp_path: Path) -> None:
    def structure(model: onnx.ModelProto) -> str:
        return check_graph(saved(tmp_path, model)).structure

    first = structure(graph(1, hidden=8))
    again = graph(2, hidden=8)
    again.producer_name = "another"
    again.graph.doc_string = "trained on a Monday"
    again.graph.node[0].metadata_props.add(key="line", value="12")
    again.metadata_props.add(key="snapshot", value="sha256-2")
    assert structure(again) == first
    assert structure(graph(1, hidden=9)) != first
    other = graph(1, hidden=8)
    other.graph.node[-1].op_type = "Sigmoid"
    assert structure(other) != first
    strided = graph(1, hidden=8)
    strided.graph.node[0].attribute.add(name="k", type=onnx.AttributeProto.INT, i=2)
    assert structure(strided) != first


def test_weights_are_stepped_over_and_all_else_is_read(tmp_path: Path) -> None:
    model = graph(1, hidden=64)
    typed = onnx.TensorProto(name="typed", data_type=TensorProto.FLOAT, dims=[300])
    typed.float_data.extend([1.5] * 300)  # weights may stand outside raw_data, too
    model.graph.initializer.append(typed)
    path = saved(tmp_path, model)
    lean = onnx.load_from_string(_read(path))
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
    assert lean == model
    assert len(_read(path)) < path.stat().st_size / 4


def test_a_file_may_name_its_graph_twice(tmp_path: Path) -> None:
    # As protobuf merges it: the second part brings the external tensor.
    more = onnx.ModelProto()
    more.graph.initializer.append(external_tensor())
    path = saved(tmp_path, graph(1))
    path.write_bytes(path.read_bytes() + more.SerializeToString())
    with pytest.raises(RefusedError, match="external data"):
        check_graph(path)


def test_a_flood_of_fields_is_left_to_protobuf(tmp_path: Path) -> None:
    flood = external_tensor().SerializeToString() + b"\x08\x01" * (MAX_FIELDS_OF_A_TENSOR + 1)
    model = graph(1)
    path = saved(tmp_path, model)
    inside = onnx.GraphProto().SerializeToString() + b"\x2a" + _varint(len(flood)) + flood
    path.write_bytes(path.read_bytes() + b"\x3a" + _varint(len(inside)) + inside)
    with pytest.raises(RefusedError, match="external data"):
        check_graph(path)


def test_damaged_files_are_refused_in_words(tmp_path: Path) -> None:
    whole = graph(1).SerializeToString()
    path = tmp_path / "model.onnx"
    random = np.random.default_rng(0)
    outcomes = set()
    for cut in random.integers(0, len(whole), 300):
        path.write_bytes(whole[:cut])
        outcomes.add(outcome(path))
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] = random.integers(256)
        path.write_bytes(damaged)
        outcomes.add(outcome(path))
    assert CorruptError in outcomes
    assert outcomes <= {None, CorruptError, RefusedError}


def outcome(path: Path) -> type[Exception] | None:
    try:
        check_graph(path)
    except (CorruptError, RefusedError) as error:
        return type(error)
    return None


def test_the_probe_graph_is_a_valid_model() -> None:
    onnx.checker.check_model(onnx.load_from_string(providers.PROBE_GRAPH), full_check=True)
    session = providers.session(providers.PROBE_GRAPH, providers.CPU, threads=1)
    assert session.run(None, {"x": np.asarray([2.5], np.float32)})[0].tolist() == [2.5]


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_cannot_load_is_said(provider: str) -> None:
    if providers.PROVIDERS[provider] in onnxruntime.get_available_providers():
        providers.prove(provider)  # a GPU build: it must then really load
        return
    with pytest.raises(ConfigurationError, match=f"--provider {provider} cannot be loaded"):
        providers.prove(provider)
