"""Thousands of strange requests: a typed error or a right answer, and no growth."""

import asyncio
import gc
import os
import random
import struct
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from support import runners
from support.open_inference import NO_DEADLINE, served

from visionloop.errors import InvalidInputError, VisionloopError
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop_inference.datatypes import DATATYPES
from visionloop_inference.open_inference import OpenInference
from visionloop_inference.replies import varint

CASES = int(os.environ.get("FUZZ_CASES", "8000"))
STRANGE_SIZES = (0, 1, 2, 3, 4, 5, 15, 16, 17, -1, -2, 2**31, 2**62, 2**63 - 1, -(2**63))
STRANGE_NAMES = ("x", "y", "t", "", "X", "é\0", "x" * 300, "shared_memory_region")
STRANGE_PARAMETERS = (
    "sequence_id", "sequence_start", "priority", "timeout", "classification", "routing_key",
    "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "binary_data", "",
)  # fmt: skip


def both() -> tuple[bytes, Any]:
    """y = x, s = t: numbers and strings."""
    return runners.model(
        [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["t"], ["s"])],
        [("x", "INT16", [-1]), ("t", "BYTES", [2])],
        [("y", "INT16", [-1]), ("s", "BYTES", [2])],
    )


def strange(chance: random.Random) -> pb.ModelInferRequest:
    """A good request in which a few things are changed, mostly for the worse."""
    rows, width = chance.randint(1, 4), chance.randint(0, 3)
    x = np.arange(rows * width, dtype=np.int16).reshape(rows, width)
    made = pb.ModelInferRequest(model_name="small", id=str(chance.random()))
    made.inputs.add(name="x", datatype="INT16", shape=x.shape)
    made.inputs.add(name="t", datatype="BYTES", shape=[rows, 2])
    texts = b"".join(struct.pack("<I", n % 3) + b"abc"[: n % 3] for n in range(2 * rows))
    made.raw_input_contents.extend([x.tobytes(), texts])
    for _ in range(chance.randint(0, 3)):
        chance.choice(CHANGES)(made, chance)
    return made


def change_shape(made: pb.ModelInferRequest, chance: random.Random) -> None:
    for tensor in made.inputs:
        if tensor.shape and chance.random() < 0.6:
            tensor.shape[chance.randrange(len(tensor.shape))] = chance.choice(STRANGE_SIZES)
        if chance.random() < 0.1:
            tensor.shape.append(chance.choice(STRANGE_SIZES))


def change_raw(made: pb.ModelInferRequest, chance: random.Random) -> None:
    raws = [bytearray(raw) for raw in made.raw_input_contents]
    for raw in raws:
        if raw and chance.random() < 0.6:
            raw[chance.randrange(len(raw))] = chance.choice((0, 1, 2, 4, 127, 128, 255))
        if chance.random() < 0.2:
            raw[chance.randint(0, len(raw)) :] = bytes(chance.randint(0, 4))
    made.ClearField("raw_input_contents")
    made.raw_input_contents.extend(map(bytes, raws))


def change_contents(made: pb.ModelInferRequest, chance: random.Random) -> None:
    if chance.random() < 0.5:
        made.ClearField("raw_input_contents")
    for tensor in made.inputs:
        contents = tensor.contents
        field = chance.choice(contents.DESCRIPTOR.fields)
        value = b"ab" if field.name == "bytes_contents" else 1
        getattr(contents, field.name).extend([value] * chance.randint(0, 9))


def change_names(made: pb.ModelInferRequest, chance: random.Random) -> None:
    for tensor in made.inputs:
        if chance.random() < 0.3:
            tensor.name = chance.choice(STRANGE_NAMES)
        if chance.random() < 0.3:
            tensor.datatype = chance.choice((*DATATYPES, "", "int16", "INT99"))
    if chance.random() < 0.2:
        made.model_name = chance.choice(("", "small", "Small", "../small", "é" * 200))
    if chance.random() < 0.2:
        made.model_version = chance.choice(("", "1", "01", "2", "-1", "stable", "canary", "9" * 99))


def change_tensors(made: pb.ModelInferRequest, chance: random.Random) -> None:
    match chance.randint(0, 3):
        case 0 if made.inputs:
            del made.inputs[0]
        case 1 if made.inputs:
            made.inputs.add().CopyFrom(made.inputs[-1])
        case 2 if made.raw_input_contents:
            del made.raw_input_contents[-1]
        case _:
            made.raw_input_contents.append(b"\0" * chance.randint(0, 9))


def change_outputs(made: pb.ModelInferRequest, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 2)):
        output = made.outputs.add(name=chance.choice(("y", "s", *STRANGE_NAMES)))
        if chance.random() < 0.5:
            change_parameters(output, chance)


def change_parameters(made: Any, chance: random.Random) -> None:
    where = chance.choice([made, *getattr(made, "inputs", [])])
    parameter = where.parameters[chance.choice(STRANGE_PARAMETERS)]
    kind = chance.choice(parameter.DESCRIPTOR.fields).name
    value: Any = chance.choice((0, 1, 2, 60_000_000, 2**62))
    if kind == "string_param":
        value = chance.choice(("", "in", "é" * 300))
    elif kind == "bool_param":
        value = bool(value)
    elif kind == "int64_param":
        value = chance.choice((value, -1, -(2**63)))
    setattr(parameter, kind, value)


CHANGES: tuple[Callable[[Any, random.Random], None], ...] = (
    change_shape, change_raw, change_contents, change_names, change_tensors, change_outputs,
    change_parameters,
)  # fmt: skip


def run(folder: Path, use: Callable[[OpenInference], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        async with served(folder, both()) as open_inference:
            await use(open_inference)

    asyncio.run(all_of_it())


def test_thousands_of_strange_requests(tmp_path: Path) -> None:
    chance = random.Random(42)
    answered = refused = 0

    async def ask(served: OpenInference) -> None:
        nonlocal answered, refused
        asked = strange(chance)
        [data] = await asyncio.gather(
            served.ModelInfer(asked.SerializeToString(), NO_DEADLINE), return_exceptions=True
        )
        if isinstance(data, BaseException):
            refused += 1
            assert isinstance(data, VisionloopError), (asked, data)
            assert data.grpc_code not in ("INTERNAL", "UNAVAILABLE"), (asked, data)
            assert 10 < len(str(data)) < 3000
            return
        answered += 1
        answer = pb.ModelInferResponse.FromString(data)
        assert answer.id == asked.id
        if not asked.outputs:
            assert [output.name for output in answer.outputs] == ["y", "s"]
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=False):
            if output.name == "y" and output.datatype == "INT16" and asked.raw_input_contents:
                assert raw in asked.raw_input_contents

    async def use(served: OpenInference) -> None:
        for _ in range(CASES):
            await ask(served)
        model = served._catalogue.model("small")
        assert model.admission.rows == 0
        assert model.admission._budget.held == 0

    run(tmp_path, use)
    assert answered > CASES / 8
    assert refused > CASES / 4


@pytest.mark.long
def test_the_same_refusals_again_take_no_memory(tmp_path: Path) -> None:
    async def use(served: OpenInference) -> None:
        async def some() -> None:
            chance = random.Random(7)
            for _ in range(1500):
                try:
                    await served.ModelInfer(strange(chance).SerializeToString(), NO_DEADLINE)
                except VisionloopError:
                    pass

        await some()
        tracemalloc.start()
        try:
            await some()
            gc.collect()
            first, _ = tracemalloc.get_traced_memory()
            await some()
            gc.collect()
            second, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert second - first < 2**18

    run(tmp_path, use)


EMPTY = 2**20


def memory_now() -> int:
    """KiB of this process, from where `most_memory` begins anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return most_memory()


def most_memory() -> int:
    """The most KiB since `memory_now`."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def one_input(tag: bytes, content: bytes | None = None) -> bytes:
    """A request, serialized, whose first input has the right name and type, and this field."""
    field = tag if content is None else tag + varint(len(content)) + content
    first = b"\x0a\x01x\x12\x05INT16" + field
    second = b"\x0a\x01t\x12\x05BYTES\x1a\x02\x01\x02"
    return b"".join(b"\x2a" + varint(len(tensor)) + tensor for tensor in (first, second))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("inputs", b"\x2a\x00" * EMPTY),
        ("outputs", b"\x32\x00" * EMPTY),
        ("parameters", b"\x22\x00" * EMPTY),
        ("raw contents", b"\x3a\x00" * EMPTY),
        ("names", b"\x0a\x00" * EMPTY),
        ("unknown", b"\x42\x00" * EMPTY),
        ("groups", b"\x43" * EMPTY + b"\x44" * EMPTY),
        ("a shape", one_input(b"\x1a", b"\x80\x08" * 4 * EMPTY)),
        ("a packed shape and other contents", one_input(b"\x1a", b"\x01" * EMPTY) * 2),
        ("strings", one_input(b"\x2a", b"\x42\x00" * EMPTY)),
        ("bools", one_input(b"\x2a", b"\x0a" + varint(4 * EMPTY) + bytes(4 * EMPTY))),
        ("parameters of an input", one_input(b"\x22\x00" * EMPTY)),
        ("unknown fields of an input", one_input(b"\x7a\x00" * EMPTY)),
        ("zeros", bytes(EMPTY)),
        ("ones", b"\xff" * EMPTY),
    ],
)
def test_a_small_message_makes_no_large_thing(tmp_path: Path, name: str, data: bytes) -> None:
    """Two bytes each of a million tensors would be a hundred MB once parsed. What one tensor holds
    takes up to twenty times its size while protobuf's arrays grow, and is let go."""

    async def use(served: OpenInference) -> None:
        before = memory_now()
        with pytest.raises(InvalidInputError):
            await served.ModelInfer(data, NO_DEADLINE)
        grown = most_memory() - before
        assert grown < 24 * len(data) // 1024 + 8192, name  # KiB

    run(tmp_path, use)
