"""Regions of shared memory: names, bounds, objects that change behind the server's back."""

import asyncio
import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from support import runners
from support.open_inference import NO_DEADLINE, OFFER, outputs, request, served

from visionloop.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    UnimplementedError,
    VisionloopError,
)
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop_inference.open_inference import OpenInference
from visionloop_inference.shared_memory import FOLDER, MAX_REGIONS, Change, Region, Regions

SIZE = 4096


class Shared:
    """An object in shared memory, as a client makes one."""

    def __init__(self, size: int = SIZE) -> None:
        self.key = f"/visionloop-test-{secrets.token_hex(8)}"
        self.path = FOLDER / self.key[1:]
        self.path.write_bytes(bytes(range(256)) * (size // 256))

    def bytes(self) -> bytes:
        return self.path.read_bytes()


@pytest.fixture
def shared() -> Iterator[Shared]:
    made = Shared()
    yield made
    made.path.unlink(missing_ok=True)


@pytest.fixture
def regions() -> Iterator[Regions]:
    made = Regions()
    yield made
    made.close()


def register(regions: Regions, *details: Any) -> None:
    asyncio.run(regions.register(*details))


def test_bytes_go_both_ways(regions: Regions, shared: Shared) -> None:
    register(regions, "r", shared.key, 256, 1024)
    assert regions.read("r", 0, 4) == bytes([0, 1, 2, 3])
    assert regions.read("r", 1020, 4) == bytes([252, 253, 254, 255])
    regions.write("r", 10, memoryview(b"abc"))
    assert shared.bytes()[266:269] == b"abc"
    assert regions.read("r", 9, 5) == b"\x09abc\x0d"
    assert regions.status("r") == regions.status("") == [Region("r", shared.key, 256, 1024)]


@pytest.mark.parametrize(("offset", "size"), [(0, 1025), (1024, 1), (1025, 0), (2**62, 1), (-1, 1)])
def test_nothing_beyond_the_region(
    regions: Regions, shared: Shared, offset: int, size: int
) -> None:
    register(regions, "r", shared.key, 0, 1024)
    with pytest.raises(InvalidInputError, match="go beyond the shared memory region 'r' of 1024"):
        regions.read("r", offset, size)
    if size < 2048:
        with pytest.raises(InvalidInputError, match="go beyond"):
            regions.write("r", offset, bytes(size or 1))
    assert shared.bytes() == bytes(range(256)) * 16


@pytest.mark.parametrize(
    "key",
    [
        "", "/", "//", ".", "..", "/..", "/../etc/passwd", "../../etc/passwd", "/a/b", "a/../b",
        "a\0b", "/" + "x" * 256, "\ud800",
    ],
)  # fmt: skip
def test_keys_are_plain_names(regions: Regions, key: str) -> None:
    with pytest.raises((InvalidInputError, NotFoundError)):
        register(regions, "r", key, 0, 1)
    assert not regions.status("")


@pytest.mark.parametrize(
    ("offset", "size"), [(0, SIZE + 1), (SIZE, 1), (2**63, 2**63), (0, 2**64 - 1), (0, 0)]
)
def test_regions_lie_within_their_object(
    regions: Regions, shared: Shared, offset: int, size: int
) -> None:
    with pytest.raises(InvalidInputError, match=r"go beyond|must be 1 or more"):
        register(regions, "r", shared.key, offset, size)
    assert not regions.status("")


def test_only_objects_of_shared_memory(regions: Regions, tmp_path: Path, shared: Shared) -> None:
    with pytest.raises(NotFoundError, match="no shared memory object '/visionloop-test-none'"):
        register(regions, "r", "/visionloop-test-none", 0, 1)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for make in (
        lambda: shared.path.symlink_to(secret),
        lambda: os.mkfifo(shared.path),
        lambda: shared.path.mkdir(),
    ):
        shared.path.unlink()
        make()
        with pytest.raises(InvalidInputError):
            register(regions, "r", shared.key, 0, 1)
    shared.path.rmdir()


def test_names_are_used_once(regions: Regions, shared: Shared) -> None:
    register(regions, "r", shared.key, 0, 16)
    with pytest.raises(ConflictError, match="'r' is registered already; unregister it first"):
        register(regions, "r", shared.key, 16, 16)
    assert regions.status("r")[0].offset == 0
    asyncio.run(regions.unregister("r"))
    asyncio.run(regions.unregister("r"))
    register(regions, "r", shared.key, 16, 16)
    asyncio.run(regions.unregister(""))
    with pytest.raises(NotFoundError, match="no shared memory region 'r'"):
        regions.read("r", 0, 1)
    for name in ("", "n" * 300):
        with pytest.raises(InvalidInputError, match="name is"):
            register(regions, name, shared.key, 0, 1)


def test_regions_are_bounded_and_closed(regions: Regions, shared: Shared) -> None:
    before = open_files()
    for number in range(MAX_REGIONS):
        register(regions, f"r{number}", shared.key, 0, 1)
    with pytest.raises(InvalidInputError, match="which is the limit"):
        register(regions, "one more", shared.key, 0, 1)
    asyncio.run(regions.unregister(""))
    assert open_files() == before


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("size", [0, 100, SIZE - 1])
def test_objects_that_become_shorter(regions: Regions, shared: Shared, size: int) -> None:
    """A mapping would kill the process here (SIGBUS)."""
    register(regions, "r", shared.key, 0, SIZE)
    os.truncate(shared.path, size)
    with pytest.raises(InvalidInputError, match=f"has become shorter: it ends at byte {size}"):
        regions.read("r", 0, SIZE)
    with pytest.raises(InvalidInputError, match="has become shorter"):
        regions.write("r", 0, bytes(SIZE))
    assert shared.path.stat().st_size == size  # and it stays as long as its owner made it


def test_others_are_told_and_follow(shared: Shared) -> None:
    told: list[Change] = []

    async def changed(change: Change) -> None:
        told.append(change)

    async def both() -> None:
        ours, theirs = Regions(changed), Regions()
        await ours.register("a", shared.key, 0, 16)
        await ours.register("b", shared.key, 16, 16)
        await ours.unregister("a")
        assert [c.added.name if c.added else c.removed for c in told] == ["a", "b", "a"]
        theirs.replace(ours.status(""))
        assert theirs.read("b", 0, 1) == b"\x10"
        shared.path.unlink()  # whoever has it open keeps it
        theirs.replace([*ours.status(""), Region("gone", shared.key, 0, 1)])
        assert theirs.read("b", 0, 1) == b"\x10"
        with pytest.raises(NotFoundError):
            theirs.read("gone", 0, 1)
        await ours.unregister("")
        assert told[-1] == Change(removed="")
        theirs.replace([])
        assert not theirs.status("")

    asyncio.run(both())


def test_an_unknown_region_may_be_on_its_way(shared: Shared) -> None:
    """Asking whoever knows brings it: what was said before comes before the answer."""
    asked: list[Change] = []

    async def changed(change: Change) -> None:
        asked.append(change)
        if change == Change():
            regions.replace([Region("late", shared.key, 0, 16)])

    regions = Regions(changed)
    asyncio.run(regions.catch_up(["late"]))
    assert regions.read("late", 1, 1) == b"\x01"
    asyncio.run(regions.catch_up(["late"]))
    assert asked == [Change()]
    regions.close()


def test_a_region_that_others_were_not_told_of_is_not_there(shared: Shared) -> None:
    async def refuse(_: Change) -> None:
        raise UnimplementedError("the supervisor is gone")

    regions = Regions(refuse)
    with pytest.raises(UnimplementedError):
        asyncio.run(regions.register("r", shared.key, 0, 1))
    assert not regions.status("")


keys = st.text(st.sampled_from("/.ab\0\n é~%"), max_size=6) | st.text(max_size=300)


@settings(max_examples=1000, deadline=None)
@given(st.text(max_size=5), keys, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_any_registration(name: str, key: str, offset: int, size: int) -> None:
    regions = Regions()
    try:
        register(regions, name, key, offset, size)
    except VisionloopError:
        assert not regions.status("")
    finally:
        regions.close()


# By requests.


def shared_request(
    x: np.ndarray, *, region: str = "in", **changes: tuple[str, Any]
) -> pb.ModelInferRequest:
    asked = request(x=x)
    asked.ClearField("raw_input_contents")
    parameters = asked.inputs[0].parameters
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_byte_size"].int64_param = x.nbytes
    for name, (kind, value) in changes.items():
        setattr(parameters[f"shared_memory_{name}"], kind, value)
    return asked


def test_inputs_and_outputs_in_shared_memory(tmp_path: Path, shared: Shared) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    shared.path.write_bytes(bytes(64) + x.tobytes() + bytes(1024))

    async def use(served: OpenInference) -> None:
        for name, offset, size in (("in", 32, 64), ("out", 128, 64)):
            await served.SystemSharedMemoryRegister(
                pb.SystemSharedMemoryRegisterRequest(
                    name=name, key=shared.key, offset=offset, byte_size=size
                ),
                None,
            )
        status = await served.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(), None)
        assert sorted(status.regions) == ["in", "out"]
        assert (status.regions["in"].key, status.regions["in"].offset) == (shared.key, 32)
        asked = shared_request(x, offset=("int64_param", 32))
        answer = await served.ModelInfer(asked, NO_DEADLINE)
        np.testing.assert_array_equal(outputs(answer)["y"], 2 * x + 1)
        output = asked.outputs.add(name="y")
        output.parameters["shared_memory_region"].string_param = "out"
        output.parameters["shared_memory_byte_size"].int64_param = 32
        output.parameters["shared_memory_offset"].int64_param = 16
        for _ in range(2):
            shared.path.open("r+b").write(bytes(32))
            answer = await served.ModelInfer(asked, NO_DEADLINE)
            assert list(answer.raw_output_contents) == [b""]
            [given] = answer.outputs
            assert list(given.shape) == [2, 4]
            assert given.parameters["shared_memory_region"].string_param == "out"
            assert given.parameters["shared_memory_byte_size"].int64_param == 32
            written = np.frombuffer(shared.bytes()[144:176], np.float32).reshape(2, 4)
            np.testing.assert_array_equal(written, 2 * x + 1)
        output.parameters["shared_memory_byte_size"].int64_param = 31
        with pytest.raises(InvalidInputError, match=r"'y' is 32 bytes; .* is 31"):
            await served.ModelInfer(asked, NO_DEADLINE)
        os.truncate(shared.path, 80)
        with pytest.raises(InvalidInputError, match="has become shorter"):
            await served.ModelInfer(asked, NO_DEADLINE)
        unregister = pb.SystemSharedMemoryUnregisterRequest()
        await served.SystemSharedMemoryUnregister(unregister, None)
        with pytest.raises(NotFoundError, match="no shared memory region 'in'"):
            await served.ModelInfer(asked, NO_DEADLINE)

    run(tmp_path, use)


def run(folder: Path, use: Any, **options: Any) -> None:
    async def all_of_it() -> None:
        async with served(folder, runners.tiny(), **options) as open_inference:
            await use(open_inference)

    asyncio.run(all_of_it())


def test_wrong_uses_are_said(tmp_path: Path, shared: Shared) -> None:
    x = np.zeros((2, 4), np.float32)
    classified = shared_request(x)
    output = classified.outputs.add(name="y")
    output.parameters["shared_memory_region"].string_param = "in"
    output.parameters["shared_memory_byte_size"].int64_param = 32
    output.parameters["classification"].int64_param = 1
    both = shared_request(x)
    both.inputs[0].contents.fp32_contents.extend([0] * 8)
    extra = shared_request(x)
    extra.raw_input_contents.append(bytes(32))
    unnamed = shared_request(x)
    unnamed.inputs[0].parameters["shared_memory_region"].int64_param = 1
    cases = [
        (shared_request(x, region="none"), "no shared memory region 'none'"),
        (shared_request(x, byte_size=("int64_param", 31)), "31 bytes .* needs 32"),
        (shared_request(x, byte_size=("int64_param", 2**40)), "needs 32"),
        (shared_request(x, byte_size=("string_param", "32")), "byte_size is string_param"),
        (shared_request(x, offset=("int64_param", SIZE)), "go beyond"),
        (shared_request(x, offset=("int64_param", -1)), "offset is -1"),
        (unnamed, "shared_memory_region must be a string"),
        (classified, "asks for classification and for shared memory"),
        (both, "has contents, and a region of shared memory too"),
        (extra, "1 entries for 0 inputs"),
    ]

    async def use(served: OpenInference) -> None:
        await served._regions.register("in", shared.key, 0, SIZE)
        for asked, words in cases:
            with pytest.raises((InvalidInputError, NotFoundError), match=words):
                await served.ModelInfer(asked, NO_DEADLINE)

    run(tmp_path, use)


def test_huge_strings_in_a_sparse_object_are_not_read(tmp_path: Path, shared: Shared) -> None:
    os.truncate(shared.path, 2**40)
    asked = pb.ModelInferRequest(model_name="small")
    tensor = asked.inputs.add(name="x", datatype="BYTES", shape=[1])
    tensor.parameters["shared_memory_region"].string_param = "in"
    tensor.parameters["shared_memory_byte_size"].int64_param = 2**40
    made = runners.model(
        [helper.make_node("Identity", ["x"], ["y"])], [("x", "BYTES", [])], [("y", "BYTES", [])]
    )

    async def all_of_it() -> None:
        async with served(tmp_path, made) as open_inference:
            await open_inference._regions.register("in", shared.key, 0, 2**40)
            with pytest.raises(InvalidInputError, match="bytes of shared memory; the limit is"):
                await open_inference.ModelInfer(asked, NO_DEADLINE)

    asyncio.run(all_of_it())


def test_it_is_off_unless_the_server_was_told(tmp_path: Path, shared: Shared) -> None:
    async def use(served: OpenInference) -> None:
        metadata = await served.ServerMetadata(pb.ServerMetadataRequest(), None)
        assert "system_shared_memory" not in metadata.extensions
        asked = pb.SystemSharedMemoryRegisterRequest(name="r", key=shared.key, byte_size=1)
        with pytest.raises(UnimplementedError, match="opened by --shared-memory"):
            await served.SystemSharedMemoryRegister(asked, None)
        with pytest.raises(UnimplementedError, match="opened by --shared-memory"):
            await served.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(), None)
        await served.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(), None)
        with pytest.raises(UnimplementedError, match="opened by --shared-memory"):
            await served.ModelInfer(shared_request(np.zeros((2, 4), np.float32)), NO_DEADLINE)

    run(tmp_path, use, offer=replace(OFFER, shared_memory=False))
