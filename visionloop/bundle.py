"""The model bundle: the only thing that training hands to inference.

A bundle is a folder `models/<model>/versions/<n>/` whose `bundle.json`, written last, is both its
commit marker and its table of contents: every other file with size and sha256. This module is the
format (what the JSON says); `visionloop.repository` writes, reads and verifies it in a store.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, model_validator

from visionloop.preprocessing import Preprocessing
from visionloop.record import Probability, Record, Sha256

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
    kind: Literal["logits", "probabilities", "embedding"]
    datatype: Literal["FP32"] = "FP32"
    shape: list[int]


class Calibration(Record):
    """How `probabilities` are made from `logits`: softmax(logits / temperature).

    Fitted on val by minimising the negative log-likelihood (Guo et al. 2017); the division is in
    the graph. ECE over 15 equal-width bins, on val before and after.
    """

    method: Literal["temperature"] = "temperature"
    temperature: Annotated[float, Field(gt=0.0)]
    ece_before: Probability
    ece_after: Probability


class Thresholds(Record):
    """Below `not_sure` the best probability counts as "not sure"."""

    not_sure: Probability


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
    """Where the model comes from; enough to say what it has seen and to build it again."""

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


class Bundle(Record):
    """The content of bundle.json."""

    format_version: Literal[1] = 1
    model: Annotated[str, Field(pattern=MODEL_NAME_PATTERN)]
    version: Annotated[int, Field(ge=1)]
    created: datetime
    task: Literal["classification"] = "classification"
    labels: Annotated[list[BundleLabel], Field(min_length=2)]
    graph: str = "model.onnx"
    input: TensorInput
    preprocessing: Preprocessing
    outputs: Annotated[list[TensorOutput], Field(min_length=1)]
    calibration: Calibration
    thresholds: Thresholds
    golden: GoldenSet
    metrics: dict[str, float]
    provenance: Provenance
    files: dict[str, BundleFile]

    @model_validator(mode="after")
    def _named_files_are_listed(self) -> "Bundle":
        missing = [name for name in (self.graph, self.golden.file) if name not in self.files]
        if missing:
            raise ValueError(f"files does not list {', '.join(missing)}")
        names = [label.id for label in self.labels]
        if len(set(names)) != len(names):
            raise ValueError("labels has two classes with one id")
        return self

    def output(self, kind: str) -> TensorOutput | None:
        """The output of this kind, or None when the bundle has none."""
        return next((output for output in self.outputs if output.kind == kind), None)


class AliasMove(Record):
    """One move of one alias: the audit entry, kept for ever."""

    sequence: Annotated[int, Field(ge=1)]
    alias: str
    version: int | None
    previous: int | None
    who: str
    why: str
    metrics: dict[str, float] = Field(default_factory=dict)
    at: datetime


class Canary(Record):
    """A second version that gets a share of the requests."""

    version: int
    percent: Annotated[float, Field(gt=0.0, lt=100.0)]


class Aliases(Record):
    """The content of aliases.json. `last_move` repeats the newest history entry, so that a writer
    killed between this file and the history leaves nothing lost: the next one completes it."""

    stable: int | None = None
    canary: Canary | None = None
    sequence: int = 0
    last_move: AliasMove | None = None
