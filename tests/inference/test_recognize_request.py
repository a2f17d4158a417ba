"""RecognizeRequests read from their bytes: protobuf's meaning, and images that are not copied."""

import os
import random
import tracemalloc

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mutations import mutated

from visionloop.errors import InvalidInputError
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop_inference.recognize_request import MAX_FIELDS, read, serialized
from visionloop_inference.settings import MOST_IMAGES

CASES = int(os.environ.get("FUZZ_CASES", "12000"))
LARGE = 2**20

names = st.text(max_size=12)
images = st.builds(pb.EncodedImage, data=st.binary(max_size=300), id=names)
requests = st.builds(
    pb.RecognizeRequest,
    model=names,
    version=names,
    images=st.lists(images, max_size=4),
    top_k=st.integers(0, 2**32 - 1),
    routing_key=names,
    priority=st.integers(0, 2**32 - 1),
)

# Fields of every wire type, unknown numbers, groups, lengths that are padded, cut off or huge.
INTERESTING = (
    b"\x0a\x01m", b"\x12\x011", b"\x1a\x00", b"\x1a\x02\x0a\x00", b"\x1a\x02\x12\x00",
    b"\x1a\x03\x12\x01\xff", b"\x1a\x06\x12\x01i\x0a\x01d", b"\x1a\x06\x0a\x01d\x0a\x01e",
    b"\x1a\x06\x12\x01i\x12\x01j", b"\x1a\x02\x1a\x00", b"\x1a\x81\x00", b"\x20\x05",
    b"\x20\x80\x00", b"\x22\x00", b"\x2a\x01k", b"\x2a\x01\xff", b"\x30\x80",
    b"\x30\xff\xff\xff\xff\x0f", b"\x3d\0\0\0\0", b"\x39\0\0\0\0\0\0\0\0", b"\x3b\x3c", b"\x3b",
    b"\x3c", b"\x42\x01u", b"\x1a\x81\x80\x00\x00", b"\x1a\xff\xff\xff\xff\x07", b"\x9a\x00\x00",
    b"\x00", b"\x02\x00",
)  # fmt: skip


def protobuf_s(data: bytes) -> tuple[pb.RecognizeRequest, list[bytes]] | None:
    """What protobuf's parser says; None: refused."""
    try:
        request = pb.RecognizeRequest.FromString(data)
    except DecodeError:
        return None
    found = [image.data for image in request.images]
    for image in request.images:
        image.ClearField("data")
    return request, found


def ours(data: bytes) -> tuple[pb.RecognizeRequest, list[bytes]] | None:
    try:
        asked = read(data)
    except DecodeError:
        return None
    assert asked.size == len(data)
    return asked.message, [bytes(image) for image in asked.images]


@settings(max_examples=500, deadline=None)
@given(requests, st.randoms(use_true_random=False))
def test_any_request_and_its_damaged_copies(
    request: pb.RecognizeRequest, chance: random.Random
) -> None:
    data = request.SerializeToString()
    assert ours(data) == protobuf_s(data)
    for damaged in (mutated(data, chance, INTERESTING) for _ in range(4)):
        assert ours(damaged) == protobuf_s(damaged)


def test_thousands_of_damaged_messages() -> None:
    chance = random.Random(20)
    whole = pb.RecognizeRequest(model="m", top_k=300, routing_key="k", priority=1)
    whole.images.add(data=b"abc", id="seven")
    whole.images.add(data=b"x")
    seeds = [whole.SerializeToString(), b"", b"".join(INTERESTING[:6])]
    refused = 0
    for case in range(CASES):
        data = mutated(chance.choice(seeds), chance, INTERESTING)
        wanted = protobuf_s(data)
        assert ours(data) == wanted, (case, data)
        refused += wanted is None
    assert CASES / 50 < refused < CASES * 0.9


@settings(max_examples=200, deadline=None)
@given(requests)
def test_what_is_written_is_what_protobuf_writes(request: pb.RecognizeRequest) -> None:
    bare = pb.RecognizeRequest()
    bare.CopyFrom(request)
    bare.ClearField("images")
    data = serialized(bare, [(image.data, image.id) for image in request.images])
    assert pb.RecognizeRequest.FromString(data) == request


def test_images_are_views_of_what_came() -> None:
    sent = pb.RecognizeRequest(images=[pb.EncodedImage(data=bytes(LARGE), id="a")] * 3)
    data = sent.SerializeToString()
    tracemalloc.start()
    try:
        asked = read(data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [len(image) for image in asked.images] == [LARGE] * 3
    assert all(image.obj is data for image in asked.images)
    assert asked.message.ByteSize() < 100
    assert most < 2**16


def test_as_many_images_as_a_server_may_take_fit_beside_the_rest() -> None:
    sent = pb.RecognizeRequest(
        model="m", version="1", top_k=3, routing_key="k", priority=3,
        images=[pb.EncodedImage(data=b"x", id="i")] * MOST_IMAGES,
    )  # fmt: skip
    assert len(read(sent.SerializeToString()).images) == MOST_IMAGES


@pytest.mark.parametrize("field", [b"\x1a\x00", b"\x0a\x00", b"\x20\x00", b"\xb8\x3e\x07"])
def test_a_million_fields_are_refused_before_they_are_parsed(field: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match=f"more than {MAX_FIELDS} fields"):
            read(field * 2**20)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2**23
