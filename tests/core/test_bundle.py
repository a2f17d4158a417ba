"""The format of bundle.json: what parses, of which class, and what is refused in which words."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.file_bundles import write_bundle

from visionloop.bundle import (
    BundleFile,
    BundleLabel,
    ClassificationBundle,
    Signature,
    Source,
    TensorsBundle,
    TensorSpec,
    WarmUp,
    parse_bundle,
)
from visionloop.calibration import ConformalSets, Thresholds
from visionloop.errors import CorruptError
from visionloop.record import record_bytes

# As an earlier Visionloop wrote it, to the byte.
OLD = Path(__file__).with_name("bundle-format-1.json")


def tensors_bundle(**changes: Any) -> TensorsBundle:
    fields: dict[str, Any] = {
        "model": "any",
        "version": 3,
        "created": "2026-11-22T08:00:00Z",
        "files": {"model.onnx": BundleFile(size=1, sha256="0" * 64)},
        "inputs": [TensorSpec(name="in/x:0", datatype="FP32", shape=[-1, 4])],
        "outputs": [TensorSpec(name="scores", datatype="FP32", shape=[3])],
        "batched": True,
        "warm_up": WarmUp(shapes=[[8, 4]], value=0),
        "source": Source(
            file="x.onnx", run_id="add-1", who="me", why="it is new", producer="", batching="found"
        ),
    }
    return TensorsBundle.model_validate({**fields, **changes})


def labels(*names: str) -> list[BundleLabel]:
    return [BundleLabel(id=name, name=name) for name in names]


def test_a_bundle_of_an_earlier_version_parses_unchanged() -> None:
    data = OLD.read_bytes()
    bundle = parse_bundle(data)
    assert isinstance(bundle, ClassificationBundle)
    assert json.loads(record_bytes(bundle)) == json.loads(data)


def test_thresholds_that_are_not_set_are_not_written(tmp_path: Path) -> None:
    """So that programs before them read the bundle; what is set survives."""
    plain = write_bundle(tmp_path, 1)
    assert json.loads(record_bytes(plain))["thresholds"] == {"not_sure": 0.6}
    full = Thresholds(
        not_sure=0.7,
        energy=-3.5,
        distance=0.2,
        conformal=ConformalSets(score="lac", coverage=0.9, quantile=0.3),
    )
    parsed = parse_bundle(record_bytes(plain.model_copy(update={"thresholds": full})))
    assert isinstance(parsed, ClassificationBundle)
    assert parsed.thresholds == full


def test_a_bundle_without_a_task_is_a_classification() -> None:
    without = json.loads(OLD.read_bytes())
    del without["task"]
    assert isinstance(parse_bundle(json.dumps(without).encode()), ClassificationBundle)


def test_a_classification_tells_its_signature(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, 1)
    assert bundle.signature == Signature(
        inputs=(TensorSpec(name="images", datatype="UINT8", shape=[8, 8, 3]),),
        outputs=(TensorSpec(name="probabilities", datatype="FP32", shape=[2]),),
        batched=True,
    )
    assert bundle.run_id == bundle.provenance.run_id


def test_a_tensors_bundle_there_and_back() -> None:
    bundle = tensors_bundle(labels=labels("a", "b", "c"))
    parsed = parse_bundle(record_bytes(bundle))
    assert isinstance(parsed, TensorsBundle)
    assert parsed == bundle
    assert parsed.signature.inputs == (bundle.inputs[0],)
    assert parsed.run_id == "add-1"


@pytest.mark.parametrize(
    "datatype",
    [
        "BOOL",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "FP16",
        "FP32",
        "FP64",
        "BF16",
        "BYTES",
    ],
)
def test_every_datatype_of_the_protocol(datatype: str) -> None:
    bundle = tensors_bundle(outputs=[{"name": "y", "datatype": datatype, "shape": []}])
    assert parse_bundle(record_bytes(bundle)) == bundle


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("inputs", [], "inputs"),
        ("outputs", [], "outputs"),
        ("inputs", [{"name": "", "datatype": "FP32", "shape": [4]}], "name"),
        ("inputs", [{"name": "x" * 2000, "datatype": "FP32", "shape": [4]}], "name"),
        ("inputs", [{"name": "x", "datatype": "FLOAT", "shape": [4]}], "datatype"),
        ("inputs", [{"name": "x", "datatype": "fp32", "shape": [4]}], "datatype"),
        ("inputs", [{"name": "x", "datatype": "FP32", "shape": [0]}], "size of 0"),
        ("inputs", [{"name": "x", "datatype": "FP32", "shape": [-2]}], "shape"),
        ("inputs", [{"name": "x", "datatype": "FP32", "shape": [2**31]}], "shape"),
        ("inputs", [{"name": "x", "datatype": "FP32", "shape": [1] * 33}], "shape"),
        ("inputs", [{"name": "x", "datatype": "FP32", "shape": [1.5]}], "shape"),
        ("inputs", [{"name": "x", "datatype": "FP32"}], "shape"),
        ("batched", None, "batched"),
        ("files", {}, "files does not list model.onnx"),
        ("graph", "other.onnx", "files does not list other.onnx"),
        ("warm_up", {"shapes": [[8, 5]], "value": 0}, "warm_up.shapes are not those"),
        ("warm_up", {"shapes": [[8]], "value": 0}, "warm_up.shapes are not those"),
        ("warm_up", {"shapes": [], "value": 0}, "warm_up.shapes are not those"),
        ("warm_up", {"shapes": [[8, 4]], "value": 7}, "warm_up"),
        ("labels", [{"id": "a", "name": "A"}], "1 labels, but output 'scores' has 3 elements"),
        ("labels", [{"id": "a", "name": n} for n in "ABC"], "two classes with one id"),
        ("surprise", 1, "surprise"),
    ],
)
def test_what_is_wrong_is_named(field: str, value: object, words: str) -> None:
    wrong = json.loads(record_bytes(tensors_bundle())) | {field: value}
    with pytest.raises(CorruptError) as caught:
        parse_bundle(json.dumps(wrong).encode(), "s3://b/bundle.json")
    assert words in str(caught.value)
    assert str(caught.value).startswith("s3://b/bundle.json is torn or not ours")


@pytest.mark.parametrize("what", ["inputs", "outputs"])
def test_names_are_unique(what: str) -> None:
    twice = [{"name": "same", "datatype": "FP32", "shape": [4]}] * 2
    wrong = json.loads(record_bytes(tensors_bundle())) | {what: twice, "warm_up": None}
    with pytest.raises(CorruptError, match=f"{what} has two tensors of the name 'same'"):
        parse_bundle(json.dumps(wrong).encode())


def test_an_input_and_an_output_may_share_a_name() -> None:
    outputs = [{"name": "in/x:0", "datatype": "FP32", "shape": [3]}]
    assert tensors_bundle(outputs=outputs).signature.outputs[0].name == "in/x:0"


def test_labels_need_one_output_of_numbers() -> None:
    three = labels("a", "b", "c")
    second = {"name": "z", "datatype": "FP32", "shape": [3]}
    bundle = tensors_bundle()
    with pytest.raises(ValueError, match="labels need a model of one output; this one has 2"):
        tensors_bundle(labels=three, outputs=[*bundle.outputs, second])
    with pytest.raises(ValueError, match="'z' holds strings"):
        tensors_bundle(labels=three, outputs=[{**second, "datatype": "BYTES"}])
    free = tensors_bundle(labels=three, outputs=[{**second, "shape": [-1]}])
    assert [label.name for label in free.labels] == ["a", "b", "c"]


def test_json_deeper_than_a_parser_may_call_itself_is_torn() -> None:
    """A RecursionError would end whoever looks through the versions of all models."""
    with pytest.raises(CorruptError, match="torn or not ours"):
        parse_bundle(b'{"task": ' + b"[" * 100_000, "bundle.json")


def test_a_task_of_a_later_version_says_what_to_do() -> None:
    later = json.loads(OLD.read_bytes()) | {"task": "detection"}
    with pytest.raises(CorruptError, match="task 'detection', this program knows classification"):
        parse_bundle(json.dumps(later).encode(), "bundle.json")


def test_a_later_format_is_said_before_its_task() -> None:
    later = json.loads(OLD.read_bytes()) | {"task": "detection", "format_version": 2}
    with pytest.raises(CorruptError, match="of format version 2, this program knows 1"):
        parse_bundle(json.dumps(later).encode())


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"task": 3}', b'{"task": null}']
)
def test_other_bytes_are_no_bundle(data: bytes) -> None:
    with pytest.raises(CorruptError, match="torn or not ours"):
        parse_bundle(data)
