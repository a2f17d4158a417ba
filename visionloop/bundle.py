"""The model bundle: the only thing that is handed to inference.

A bundle is a folder `models/<model>/versions/<n>/` whose `bundle.json`, written last, is both its
commit marker and its table of contents: every other file with size and sha256. This module is the
format (what the JSON says); `visionloop.repository` writes, reads and verifies it in a store.

Every bundle has a task, which says what it holds beside the graph:

    classification   what training makes: image in, calibrated class probabilities out
    multi_label      the same, where an image may have several classes or none: each a yes or no
    tensors          any ONNX graph as it is: tensors in, tensors out (`visionloop models add`)
"""

import json
import math
from abc import abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from visionloop.calibration import Calibration, LabelCalibration, LabelThresholds, Thresholds
from visionloop.errors import CorruptError
from visionloop.preprocessing import Preprocessing
from visionloop.record import Record, Sha256, parse_record
from visionloop.signature import FREE, DatatypeName, Signature, TensorSpec

__all__ = [
    "Bundle",
    "BundleFile",
    "BundleLabel",
    "ClassificationBundle",
    "ClassifierBundle",
    "DatatypeName",
    "GoldenItem",
    "GoldenSet",
    "MultiLabelBundle",
    "Provenance",
    "Signature",
    "Source",
    "TensorInput",
    "TensorOutput",
    "TensorSpec",
    "TensorsBundle",
    "WarmUp",
    "parse_bundle",
]

FORMAT_VERSION = 1
MODEL_NAME_PATTERN = r"^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$"


class BundleFile(Record):
    """One file beside bundle.json."""

    size: Annotated[int, Field(ge=0)]
    sha256: Sha256


class BundleLabel(Record):
    """A class the model tells apart; its place in the list is its index in the outputs."""

    id: str
    name: str


class TensorInput(Record):
    """The graph's one input: uint8 pixels; cast and normalisation happen inside the graph."""

    name: str
    datatype: Literal["UINT8"] = "UINT8"
    layout: Literal["NHWC"] = "NHWC"
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]


class TensorOutput(Record):
    """One named output. `shape` leaves out the batch dimension."""

    name: str
    kind: Literal["logits", "probabilities", "embedding", "distance"]
    datatype: Literal["FP32"] = "FP32"
    shape: list[int]


class GoldenSet(Record):
    """Real encoded images with the answers that the tested graph gave.

    `file` (golden/golden.json) holds a list of GoldenItem. A reader replays `before_ready` of them
    before it serves and the rest soon after, through its own decoder and runtime.
    `max_probability_difference` maps "<precision>/<provider>" to the largest absolute difference
    it may see; "default" stands for what is not listed.
    """

    file: str
    items: Annotated[int, Field(ge=1)]
    before_ready: Annotated[int, Field(ge=1)] = 8
    max_probability_difference: dict[str, float]


class GoldenItem(Record):
    """One golden image: its file in the bundle, and the expected probabilities in label order."""

    file: str
    probabilities: list[float]


class Provenance(Record):
    """Where the model comes from; enough to say what it has seen and to build it again.

    `lane` is `full` (trained from the backbone) or `fast` (a new head on the body of
    `body_version`, which for the full lane is the version itself). `threads`, `processes`,
    `device` and `cpu` can change the last bits; they are empty where nobody wrote them down. These
    came later: at their defaults they are not written, so a bundle without them is as it was.
    """

    dataset: str
    snapshot: str
    parent_version: int | None
    run_id: str
    code_version: str
    seed: int
    backbone: str
    backbone_sha256: Sha256 | None
    config: dict[str, object]
    libraries: dict[str, str]
    lane: Literal["full", "fast"] = "full"
    body_version: Annotated[int, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    processes: Annotated[int, Field(ge=1)] = 1
    device: str = ""
    cpu: str = ""

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        later = ("lane", "body_version", "threads", "processes", "device", "cpu")
        defaults = {name: type(self).model_fields[name].default for name in later}
        return {
            name: value
            for name, value in fields.items()
            if name not in defaults or value != defaults[name]
        }


class Source(Record):
    """Where a graph that was added as a file comes from."""

    file: str  # its name on the machine it was added from
    run_id: str
    who: str
    why: str
    producer: str  # what exported it, in the file's own words; may be empty
    batching: str  # what was found about a batch dimension, in words


class WarmUp(Record):
    """Inputs on which the graph was seen to run: tensors of one value, free sizes filled in.

    `shapes` follow the signature's inputs; the rows of a batch are left out as there. Strings are
    empty for the value 0 and "1" for 1.
    """

    shapes: list[list[Annotated[int, Field(ge=1)]]]
    value: Literal[0, 1]
    # Whether all it answered were numbers: then a server whose answer is not one refuses to serve.
    finite: bool = False


class Bundle(Record):
    """What every bundle.json holds. The task's own fields stand in the subclasses."""

    format_version: Literal[1] = 1
    model: Annotated[str, Field(pattern=MODEL_NAME_PATTERN)]
    version: Annotated[int, Field(ge=1)]
    created: datetime
    task: str
    graph: str = "model.onnx"
    files: dict[str, BundleFile]

    @property
    def half_graph(self) -> str:
        """The file of the graph in 16 bits, which a bundle may have besides, for GPUs."""
        return f"{self.graph.removesuffix('.onnx')}.fp16.onnx"

    @property
    @abstractmethod
    def signature(self) -> Signature:
        """The graph's inputs and outputs."""

    @property
    @abstractmethod
    def run_id(self) -> str:
        """The run that claimed the version number."""

    @model_validator(mode="after")
    def _graph_is_listed(self) -> "Bundle":
        _check_listed([self.graph], self.files)
        return self


class ClassifierBundle(Bundle):
    """Images in, class probabilities out, with everything that proves it serves as tested.

    What a probability means, and when an answer is given, the subclasses say.
    """

    labels: Annotated[list[BundleLabel], Field(min_length=2)]
    input: TensorInput
    preprocessing: Preprocessing
    outputs: Annotated[list[TensorOutput], Field(min_length=1)]
    golden: GoldenSet
    metrics: dict[str, float]
    provenance: Provenance

    @property
    def signature(self) -> Signature:
        """Pixels in, float32 out, by rows."""
        pixels = self.input
        return Signature(
            inputs=(
                TensorSpec(
                    name=pixels.name,
                    datatype=pixels.datatype,
                    shape=[pixels.height, pixels.width, 3],
                ),
            ),
            outputs=tuple(
                TensorSpec(name=output.name, datatype=output.datatype, shape=output.shape)
                for output in self.outputs
            ),
            batched=True,
        )

    @property
    def run_id(self) -> str:
        """The training run."""
        return self.provenance.run_id

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "ClassifierBundle":
        _check_listed([self.golden.file], self.files)
        _check_label_ids(self.labels)
        _ = self.signature  # names and shapes
        return self

    def output(self, kind: str) -> TensorOutput | None:
        """The output of this kind, or None when the bundle has none."""
        return next((output for output in self.outputs if output.kind == kind), None)


class ClassificationBundle(ClassifierBundle):
    """One class an image: the probabilities of an image are of one distribution."""

    task: Literal["classification"] = "classification"
    calibration: Calibration
    thresholds: Thresholds


class MultiLabelBundle(ClassifierBundle):
    """Any number of classes an image, or none: each probability answers a question of its own."""

    task: Literal["multi_label"] = "multi_label"
    calibration: LabelCalibration
    thresholds: LabelThresholds

    @model_validator(mode="after")
    def _one_of_each_for_a_label(self) -> "MultiLabelBundle":
        for name, values in (
            ("calibration.temperatures", self.calibration.temperatures),
            ("calibration.biases", self.calibration.biases),
            ("thresholds.present", self.thresholds.present),
        ):
            if len(values) != len(self.labels):
                raise ValueError(f"{name} has {len(values)} values for {len(self.labels)} labels")
        return self


class TensorsBundle(Bundle):
    """Any ONNX graph, served as tensors. `labels` name the elements of its only output, for the
    protocol's classification extension; without them there are only indices."""

    task: Literal["tensors"] = "tensors"
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    batched: bool
    warm_up: WarmUp | None  # None: it runs neither on zeros nor on ones; it may on real inputs
    labels: list[BundleLabel] = Field(default_factory=list)
    source: Source

    @property
    def signature(self) -> Signature:
        """The graph's inputs and outputs, in its own order."""
        return Signature(
            inputs=tuple(self.inputs), outputs=tuple(self.outputs), batched=self.batched
        )

    @property
    def run_id(self) -> str:
        """The run that added the file."""
        return self.source.run_id

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "TensorsBundle":
        _ = self.signature  # names and shapes
        if self.warm_up is not None:
            _check_fits(self.warm_up.shapes, self.inputs)
        if self.labels:
            _check_label_ids(self.labels)
            _check_labelled(self.labels, self.outputs)
        return self


_TASKS: dict[str, type[Bundle]] = {
    "classification": ClassificationBundle,
    "multi_label": MultiLabelBundle,
    "tensors": TensorsBundle,
}


def parse_bundle(data: bytes, name: str = "bundle.json") -> Bundle:
    """The bundle that bundle.json describes, of the class that its task says.

    Raises CorruptError that names `name` (a path or URL) for what is torn or of a format version or
    task not known here.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    # A bundle.json without a task is of the time when there was only one.
    task = found.get("task", "classification") if isinstance(found, dict) else "classification"
    if isinstance(task, str) and task not in _TASKS and found.get("format_version") == 1:
        raise CorruptError(
            f"{name} is of the task {task!r}, this program knows {', '.join(_TASKS)}; install the "
            "version of Visionloop that wrote it"
        )
    kind = _TASKS.get(task, ClassificationBundle) if isinstance(task, str) else ClassificationBundle
    return parse_record(kind, data, name)


def _check_listed(names: Sequence[str], files: dict[str, BundleFile]) -> None:
    missing = [name for name in names if name not in files]
    if missing:
        raise ValueError(f"files does not list {', '.join(missing)}")


def _check_label_ids(labels: Sequence[BundleLabel]) -> None:
    if len({label.id for label in labels}) != len(labels):
        raise ValueError("labels has two classes with one id")


def _check_fits(shapes: Sequence[Sequence[int]], inputs: Sequence[TensorSpec]) -> None:
    """Raises ValueError unless each shape is one that its input takes."""
    fits = len(shapes) == len(inputs) and all(
        len(shape) == len(spec.shape)
        and all(declared in (FREE, size) for size, declared in zip(shape, spec.shape, strict=True))
        for shape, spec in zip(shapes, inputs, strict=False)
    )
    if not fits:
        raise ValueError("warm_up.shapes are not those of the inputs")


def _check_labelled(labels: Sequence[BundleLabel], outputs: Sequence[TensorSpec]) -> None:
    """Raises ValueError unless there is one output of numbers with an element for each label."""
    if len(outputs) != 1:
        raise ValueError(f"labels need a model of one output; this one has {len(outputs)}")
    output = outputs[0]
    if output.datatype == "BYTES":
        raise ValueError(f"labels need an output of numbers; {output.name!r} holds strings")
    elements = math.prod(output.shape)
    if FREE not in output.shape and elements != len(labels):
        raise ValueError(
            f"there are {len(labels)} labels, but output {output.name!r} has {elements} elements"
        )
