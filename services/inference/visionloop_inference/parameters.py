"""The parameters that requests and tensors carry beside their data, as far as they mean something.

Those that would change an answer and are not offered are refused; unknown ones are ignored, as the
protocol lets clients send their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from visionloop.errors import InvalidInputError, UnimplementedError
from visionloop.proto.inference import open_inference_pb2 as pb

MAX_PARAMETER = 2**62
# What makes a request one of a sequence, whose answers depend on one another.
SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")

Parameters = Mapping[str, pb.InferParameter]


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a registered region of shared memory."""

    region: str
    offset: int
    size: int


def span_of(parameters: Parameters, where: str) -> Span | None:
    """The piece of shared memory that a tensor's parameters name, if any; `where` they stand.

    Raises InvalidInputError for values that say no piece.
    """
    if "shared_memory_region" not in parameters:
        return None
    region = parameters["shared_memory_region"]
    if region.WhichOneof("parameter_choice") != "string_param":
        raise InvalidInputError(
            f"{where}: shared_memory_region must be a string", field=f"{where}.shared_memory_region"
        )
    size = whole(parameters, "shared_memory_byte_size", where, MAX_PARAMETER)
    if size is None:
        raise InvalidInputError(
            f"{where} names a shared_memory_region without shared_memory_byte_size",
            field=f"{where}.shared_memory_byte_size",
        )
    offset = whole(parameters, "shared_memory_offset", where, MAX_PARAMETER) or 0
    return Span(region.string_param, offset, size)


def whole(parameters: Parameters, name: str, where: str, limit: int) -> int | None:
    """A parameter that is a whole number from 0 to `limit`; None when it is not given.

    Raises InvalidInputError for anything else.
    """
    if name not in parameters:
        return None
    parameter = parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else None
    if value is None or not 0 <= value <= limit:
        given = kind or "nothing" if value is None else value
        raise InvalidInputError(
            f"{where}: {name} is {given}; it must be a whole number from 0 to {limit}",
            field=f"{where}.{name}",
        )
    return int(value)


def refuse_sequences(parameters: Parameters) -> None:
    """Raises UnimplementedError for a request that is one of a sequence."""
    for name in SEQUENCE:
        if name not in parameters:
            continue
        parameter = parameters[name]
        kind = parameter.WhichOneof("parameter_choice")
        if kind is not None and getattr(parameter, kind):
            raise UnimplementedError(
                f"the parameter {name!r} is not offered by this server: its models keep no state "
                "between requests"
            )
