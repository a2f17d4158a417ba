"""How a plan (`plans`) is made from the first ModelInferRequest of its kind.

Everything that a request says but its data is checked here, against the version's signature and
what this server offers. It is done once for a kind, so words matter more than microseconds.
"""

import math
from collections.abc import Sequence

from visionloop.bundle import ClassifierBundle
from visionloop.errors import InvalidInputError
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop.signature import MAX_DIMENSIONS, Signature, TensorSpec
from visionloop_inference.datatypes import DATATYPES
from visionloop_inference.levels import LAST
from visionloop_inference.model_config import Offer
from visionloop_inference.parameters import MAX_PARAMETER, Span, refuse_sequences, span_of, whole
from visionloop_inference.plans import InputPlan, OutputPlan, Plan
from visionloop_inference.routed_version import RoutedVersion
from visionloop_inference.shared_memory import no_shared_memory
from visionloop_inference.tensors import InputTensor, check_shape, check_size, typed_data

MAX_CLASSES = 1000  # of the classification extension, for each row


def make_plan(request: pb.ModelInferRequest, version: RoutedVersion, offer: Offer) -> Plan:
    """The plan for requests like this one (its raw contents do not matter) on a RoutedVersion.

    Raises InvalidInputError for what the version does not take, UnimplementedError for what this
    server does not offer.
    """
    signature = version.signature
    encoded = _is_encoded(request, version)
    inputs, rows = _inputs(request, signature, offer.max_rows, encoded=encoded)
    outputs = _outputs(request, signature)
    places = [plan.span for plan in inputs] + [plan.span for plan in outputs]
    spans = [span for span in places if span is not None]
    refuse_sequences(request.parameters)
    timeout = whole(request.parameters, "timeout", "parameters", MAX_PARAMETER)
    return Plan(
        rows=rows,
        inputs=inputs,
        raws=sum(plan.raw >= 0 for plan in inputs),
        outputs=outputs,
        typed=any(plan.typed is not None for plan in inputs),
        encoded=encoded,
        timeout=timeout / 1e6 if timeout else None,
        priority=whole(request.parameters, "priority", "parameters", LAST) or 0,
        regions=tuple(span.region for span in spans),
        shared_bytes=_shared_bytes(spans, offer),
    )


def _shared_bytes(spans: Sequence[Span], offer: Offer) -> int:
    """What the request moves through shared memory. It is held like what comes in a message."""
    if spans and not offer.shared_memory:
        raise no_shared_memory()
    size = sum(span.size for span in spans)
    if size > offer.max_bytes:
        raise InvalidInputError(
            f"the request names {size} bytes of shared memory; the limit is {offer.max_bytes}",
            field="parameters.shared_memory_byte_size",
        )
    return size


def _is_encoded(request: pb.ModelInferRequest, version: RoutedVersion) -> bool:
    """Whether the request brings encoded images to a model of images."""
    return (
        isinstance(version.bundle, ClassifierBundle)
        and len(request.inputs) == 1
        and request.inputs[0].datatype == "BYTES"
    )


def _inputs(
    request: pb.ModelInferRequest, signature: Signature, max_rows: int, *, encoded: bool
) -> tuple[list[InputPlan], int]:
    """The inputs in the signature's order, and the rows that all of them have."""
    sent = {tensor.name: place for place, tensor in enumerate(request.inputs)}
    wanted = {spec.name: spec for spec in signature.inputs}
    if len(sent) != len(request.inputs) or sent.keys() != wanted.keys():
        names = [tensor.name[:100] for tensor in request.inputs[:20]]
        raise InvalidInputError(
            f"inputs are {names}; the model takes each of {list(wanted)[:20]} once", field="inputs"
        )
    planned: dict[str, InputPlan] = {}
    rows = raws = 0
    typed = any(tensor.HasField("contents") for tensor in request.inputs)
    for place, tensor in enumerate(request.inputs):
        where = f"inputs[{place}]"
        spec = wanted[tensor.name]
        if encoded:
            plan, found = _images(tensor, max_rows, where)
        else:
            plan, found = _input(tensor, spec, signature, max_rows, where)
        if rows and found != rows:
            raise InvalidInputError(
                f"input {tensor.name!r} has {found} rows and {request.inputs[0].name!r} has "
                f"{rows}; all inputs of a request have the same number",
                field=f"{where}.shape",
            )
        rows = found
        raws = _find_contents(plan, tensor, raws, where, typed=typed)
        planned[tensor.name] = plan
    return [planned[spec.name] for spec in signature.inputs], rows


def _input(
    tensor: InputTensor, spec: TensorSpec, signature: Signature, max_rows: int, where: str
) -> tuple[InputPlan, int]:
    if tensor.datatype != spec.datatype:
        raise InvalidInputError(
            f"input {spec.name!r} has the datatype {tensor.datatype[:20]!r}; it must be "
            f"{spec.datatype}",
            field=f"{where}.datatype",
        )
    shape = _shape(tensor, where)
    rows = check_shape(shape, spec, batched=signature.batched, max_rows=max_rows, field=where)
    elements = math.prod(shape)
    size = DATATYPES[spec.datatype].size
    plan = InputPlan(spec.name, spec.datatype, shape, elements, size * elements if size else -1)
    return plan, rows


def _shape(tensor: InputTensor, where: str) -> tuple[int, ...]:
    """A caller can send one of millions of sizes; none is looked at then."""
    if len(tensor.shape) > MAX_DIMENSIONS + 1:
        raise InvalidInputError(
            f"input {tensor.name[:100]!r} has {len(tensor.shape)} dimensions; the limit is "
            f"{MAX_DIMENSIONS} and the batch dimension",
            field=f"{where}.shape",
        )
    return tuple(tensor.shape)


def _images(tensor: InputTensor, max_rows: int, where: str) -> tuple[InputPlan, int]:
    """Encoded images: BYTES of the shape [n] or [n, 1]."""
    shape = _shape(tensor, where)
    if len(shape) not in (1, 2) or shape[1:] not in ((), (1,)) or not 1 <= shape[0] <= max_rows:
        raise InvalidInputError(
            f"input {tensor.name!r} of BYTES (encoded images) has the shape {list(shape[:8])}; it "
            f"must be [n] or [n, 1] with n from 1 to {max_rows}",
            field=f"{where}.shape",
        )
    return InputPlan(tensor.name, "BYTES", shape, shape[0], -1), shape[0]


def _find_contents(
    plan: InputPlan, tensor: InputTensor, raws: int, where: str, *, typed: bool
) -> int:
    """Notes where an input's bytes come from; returns how many inputs came raw so far."""
    plan.span = span_of(tensor.parameters, f"{where}.parameters")
    if plan.span is not None and tensor.HasField("contents"):
        raise InvalidInputError(
            f"input {plan.name!r} has contents, and a region of shared memory too; use one",
            field=f"{where}.contents",
        )
    if plan.span is not None:
        _check_span(plan, where)
        return raws
    if typed:
        plan.typed = typed_data(tensor, plan.datatype, plan.shape, where)
        return raws
    plan.raw = raws
    return raws + 1


def _check_span(plan: InputPlan, where: str) -> None:
    """Before anything is read: the size of the region is the caller's word."""
    if plan.span is not None and plan.size >= 0:
        found = plan.span.size
        check_size(plan.name, plan.shape, found, plan.size, f"{where} (shared_memory_byte_size)")


def _outputs(request: pb.ModelInferRequest, signature: Signature) -> list[OutputPlan]:
    """The outputs to give; none asked for means all."""
    known = {spec.name: spec for spec in signature.outputs}
    if not request.outputs:
        return [OutputPlan(spec) for spec in signature.outputs]
    planned: dict[str, OutputPlan] = {}
    for place, output in enumerate(request.outputs):
        where = f"outputs[{place}]"
        spec = known.get(output.name)
        if spec is None:
            raise InvalidInputError(
                f"output {output.name[:100]!r} is not one of {', '.join(list(known)[:20])}",
                field=f"{where}.name",
            )
        if output.name in planned:
            raise InvalidInputError(
                f"output {output.name!r} is asked for twice", field=f"{where}.name"
            )
        parameters = f"{where}.parameters"
        classes = whole(output.parameters, "classification", parameters, MAX_CLASSES) or 0
        span = span_of(output.parameters, parameters)
        _check_classes(spec, classes, span, parameters)
        planned[output.name] = OutputPlan(spec, classes, span)
    return list(planned.values())


def _check_classes(spec: TensorSpec, classes: int, span: Span | None, where: str) -> None:
    if classes and spec.datatype == "BYTES":
        raise InvalidInputError(
            f"output {spec.name!r} holds strings; classification needs numbers", field=where
        )
    if classes and span is not None:
        raise InvalidInputError(
            f"output {spec.name!r} asks for classification and for shared memory; use one",
            field=where,
        )
