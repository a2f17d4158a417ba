"""Answers as serialized ModelInferResponse messages.

The part of an answer that says what it holds (model, version, names, shapes) depends on the plan
and the shapes alone, so it is serialized once and kept; a reply is that part, the id and the raw
outputs, joined in one copy. What is seldom asked for (typed contents) goes through protobuf.
"""

import math
from collections.abc import Sequence

from visionloop.bundle import Bundle, ClassifierBundle, TensorsBundle
from visionloop.errors import InvalidInputError
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop_inference.classes import classified, endings
from visionloop_inference.datatypes import Answer, Buffer, Tensor
from visionloop_inference.plans import OutputPlan, Plan
from visionloop_inference.routed_version import RoutedVersion, RowFailedError
from visionloop_inference.shared_memory import Regions, no_shared_memory
from visionloop_inference.tensors import add_typed_output, has_contents_field

MAX_HEADS = 64  # shapes of answers that one plan keeps

_ID = b"\x1a"  # the tags of ModelInferResponse.id and raw_output_contents
_RAW = b"\x32"
# parameters {key: "triton_final_response" value {bool_param: true}}
FINAL = pb.ModelInferResponse(
    parameters={"triton_final_response": pb.InferParameter(bool_param=True)}
).SerializeToString()
_STREAMED = b"\x12"  # the tag of ModelStreamInferResponse.infer_response


async def outputs(plan: Plan, version: RoutedVersion, answer: Answer) -> list[Tensor]:
    """What a request of this plan asked for, in its order.

    Raises RowFailedError when a row failed: a request is one unit here.
    """
    if answer.failures:
        row, problem = min(answer.failures.items())
        raise RowFailedError(f"row {row}: {problem}")
    return [
        await _classified(output, answer, version)
        if output.classes
        else answer.outputs[output.spec.name]
        for output in plan.outputs
    ]


def reply(
    plan: Plan, bundle: Bundle, tensors: Sequence[Tensor], ident: bytes, regions: Regions | None
) -> bytes:
    """The answer to a request of this plan, whose `outputs` these are.

    Raises what `Regions.write` raises.
    """
    if plan.typed and all(has_contents_field(tensor.datatype) for tensor in tensors):
        return _typed(plan, bundle, tensors, ident)
    key = tuple([tensor.shape for tensor in tensors])
    head = plan.heads.get(key)
    if head is None:
        head = _head(plan, bundle, tensors)
        if len(plan.heads) < MAX_HEADS and not _varies(plan):
            plan.heads[key] = head
    parts: list[Buffer] = [head]
    if ident:
        parts += (_ID, varint(len(ident)), ident)
    for output, tensor in zip(plan.outputs, tensors, strict=True):
        data = tensor.data
        if output.span is not None:
            data = _written(output, tensor, regions)
        parts += (_RAW, varint(len(data)), data)
    return b"".join(parts)


def streamed(response: bytes) -> bytes:
    """A reply as a ModelStreamInferResponse, marked as the only one to its request."""
    return b"".join((_STREAMED, varint(len(response) + len(FINAL)), response, FINAL))


def stream_error(message: str, ident: bytes) -> bytes:
    """The refusal of one request of a stream."""
    response = pb.ModelStreamInferResponse(error_message=message)
    response.infer_response.id = ident.decode(errors="replace")
    response.infer_response.parameters["triton_final_response"].bool_param = True
    return response.SerializeToString()


def varint(number: int) -> bytes:
    """A length as protobuf writes it."""
    if number < 128:
        return _SHORT[number]
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)


_SHORT = [bytes((number,)) for number in range(128)]


async def _classified(output: OutputPlan, answer: Answer, version: RoutedVersion) -> Tensor:
    tensor, batched = answer.outputs[output.spec.name], version.signature.batched
    labelled = _endings(version)
    elements = math.prod(tensor.shape[1:] if batched else tensor.shape)
    if elements != len(labelled):
        labelled = []
    return await classified(tensor, output.classes, labelled, batched=batched)


def _endings(version: RoutedVersion) -> list[bytes]:
    """Those of the version's labels, made once for all plans: there may be thousands."""
    found = version.plans.get(endings)
    if not isinstance(found, list):
        version.plans[endings] = found = endings(_labels(version.bundle))
    return found


def _varies(plan: Plan) -> bool:
    """Whether heads say more than shapes: how long the strings in a region of shared memory are."""
    return any(output.span and output.spec.datatype == "BYTES" for output in plan.outputs)


def _written(output: OutputPlan, tensor: Tensor, regions: Regions | None) -> bytes:
    """Puts an output into shared memory; clients expect an empty entry in its place."""
    span = output.span
    if regions is None or span is None:
        raise no_shared_memory()
    if len(tensor.data) > span.size:
        raise InvalidInputError(
            f"output {output.spec.name!r} is {len(tensor.data)} bytes; shared_memory_byte_size is "
            f"{span.size}",
            field="outputs.parameters.shared_memory_byte_size",
        )
    regions.write(span.region, span.offset, tensor.data)
    return b""


def _head(plan: Plan, bundle: Bundle, tensors: Sequence[Tensor]) -> bytes:
    response = _begun(bundle)
    for output, tensor in zip(plan.outputs, tensors, strict=True):
        added = response.outputs.add(
            name=output.spec.name, datatype=tensor.datatype, shape=tensor.shape
        )
        if output.span is not None:
            added.parameters["shared_memory_region"].string_param = output.span.region
            added.parameters["shared_memory_byte_size"].int64_param = len(tensor.data)
            if output.span.offset:
                added.parameters["shared_memory_offset"].int64_param = output.span.offset
    return response.SerializeToString()


def _typed(plan: Plan, bundle: Bundle, tensors: Sequence[Tensor], ident: bytes) -> bytes:
    response = _begun(bundle)
    response.id = ident.decode()
    for output, tensor in zip(plan.outputs, tensors, strict=True):
        add_typed_output(response, output.spec.name, tensor)
    return response.SerializeToString()


def _begun(bundle: Bundle) -> pb.ModelInferResponse:
    return pb.ModelInferResponse(model_name=bundle.model, model_version=str(bundle.version))


def _labels(bundle: Bundle) -> Sequence[str]:
    """The classes' names. They are an output's where a row of it has one element for each."""
    if not isinstance(bundle, (ClassifierBundle, TensorsBundle)):
        return ()
    return [label.name for label in bundle.labels]
