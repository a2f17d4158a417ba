"""What an ONNX file takes and gives, found by loading and running it: one JSON document on stdout.

    python -m visionloop_inference.describe model.onnx

`visionloop models add` runs this as a process, because a graph can crash the runtime that loads it.
The answer is a `visionloop.graph_file.Description`, or {"error": {"reason", "message"}} and the
error's exit code.
"""

import json
import sys
from pathlib import Path

import onnxruntime
from pydantic import ValidationError

from visionloop.bundle_files import file_entry
from visionloop.errors import (
    InvalidInputError,
    NotFoundError,
    RefusedError,
    VisionloopError,
)
from visionloop.graph_file import Description
from visionloop.signature import FREE, Signature, TensorSpec
from visionloop_inference.datatypes import DATATYPES
from visionloop_inference.graph import GraphFacts, check_graph
from visionloop_inference.session import runtime_words
from visionloop_inference.trial import Declared, Findings, Trial

MAX_FILE_BYTES = 2**31 - 1  # what protobuf can hold

_DATATYPES = {f"tensor({datatype.onnx})": name for name, datatype in DATATYPES.items()}


def describe(path: Path) -> Description:
    """Checks, loads and tries the graph, on the CPU.

    Raises NotFoundError, InvalidInputError for what cannot be read, CorruptError for what is not
    ONNX, RefusedError for what cannot be served.
    """
    _check_file(path)
    try:
        entry = file_entry(path)
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}", field="file") from error
    facts = check_graph(path)
    session = _session(path)
    inputs = [_declared("input", node) for node in session.get_inputs()]
    outputs = [_declared("output", node) for node in session.get_outputs()]
    _check_inputs(path, inputs, facts)
    findings = Trial(session, inputs, outputs).findings()
    try:
        signature = Signature(
            inputs=tuple(_input(spec, findings) for spec in inputs),
            outputs=tuple(_output(spec, i, findings) for i, spec in enumerate(outputs)),
            batched=findings.batched,
        )
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise RefusedError(f"{path.name}: {place}: {error.errors()[0]['msg']}") from None
    return Description(
        file=entry,
        producer=facts.producer,
        signature=signature,
        batching=findings.batching,
        warm_up=findings.warm_up,
    )


def _check_file(path: Path) -> None:
    if not path.exists():
        raise NotFoundError(f"{path} is not there")
    if not path.is_file():
        raise InvalidInputError(f"{path} is not a file", field="file")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise RefusedError(
            f"{path.name} has {size} bytes; an ONNX file with all weights inside has at most "
            f"{MAX_FILE_BYTES}"
        )


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what goes wrong is raised, and said once
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise RefusedError(
            f"onnxruntime {onnxruntime.__version__} does not load {path.name}: "
            f"{runtime_words(error)}"
        ) from error


def _declared(what: str, node: onnxruntime.NodeArg) -> Declared:
    if node.type not in _DATATYPES:
        tensors = node.type.startswith("tensor(")
        raise RefusedError(
            f"{what} {node.name!r} is of the type {node.type}; "
            + (
                f"the protocol carries {', '.join(DATATYPES)}: cast it inside the graph"
                if tensors
                else "only tensors can be served: export it without sequences, maps and optionals"
            )
        )
    shape = [size if isinstance(size, int) and size >= 0 else FREE for size in node.shape]
    return Declared(node.name, _DATATYPES[node.type], shape)


def _check_inputs(path: Path, inputs: list[Declared], facts: GraphFacts) -> None:
    if not inputs:
        raise RefusedError(f"{path.name} takes no inputs, so there is nothing to ask it")
    for spec in inputs:
        if spec.name in facts.shapeless:
            raise RefusedError(
                f"input {spec.name!r} of {path.name} declares no shape; export it with one (its "
                "sizes may be free)"
            )
        if 0 in spec.shape:
            raise RefusedError(
                f"input {spec.name!r} of {path.name} has the shape {spec.shape}; sizes "
                "of 0 hold nothing"
            )


def _input(spec: Declared, findings: Findings) -> TensorSpec:
    shape = spec.shape[1:] if findings.batched else spec.shape
    return TensorSpec.model_validate({"name": spec.name, "datatype": spec.datatype, "shape": shape})


def _output(spec: Declared, place: int, findings: Findings) -> TensorSpec:
    """Where a graph gives other shapes than it declares, what it gives counts."""
    seen = findings.seen[place] if findings.seen else []
    shape = spec.shape
    for found in seen:
        if len(found) != len(shape):  # also where it declares no shape at all
            shape = [FREE] * len(found)
        shape = [
            declared if declared == size and size > 0 else FREE
            for declared, size in zip(shape, found, strict=True)
        ]
    shape = shape[1:] if findings.batched else shape
    return TensorSpec.model_validate({"name": spec.name, "datatype": spec.datatype, "shape": shape})


def main() -> int:
    """The program."""
    try:
        if len(sys.argv) != 2:
            raise InvalidInputError("give one ONNX file", field="file")
        said = describe(Path(sys.argv[1])).model_dump_json()
    except VisionloopError as error:
        failure = {"reason": error.reason, "message": str(error)}
        sys.stdout.write(json.dumps({"error": failure}) + "\n")
        return error.exit_code
    sys.stdout.write(said + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
