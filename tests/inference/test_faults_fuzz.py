"""Damaged messages over the wire, to every method of the real service: typed statuses only, no
process dies, and memory stays where it was."""

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from support.bundles import SIDE, encoded, publish_bundle
from support.inference_server import Server, running_server
from support.process_tree import children

from visionloop.objectstore import open_store
from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop.proto.v1 import recognition_pb2
from visionloop.repository import ModelRepository

CASES = int(os.environ.get("FUZZ_CASES", "4000"))
ROOM = 24 * 2**20  # bytes
FAULTS = {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED", "DATA_LOSS"}
INFERENCE, RECOGNITION = "/inference.GRPCInferenceService/", "/visionloop.v1.Recognition/"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("fuzz")
    url = f"file://{folder}/store"
    publish_bundle(ModelRepository(open_store(url)), seed=1, promote=True)
    flags = ("--front-ends=1", "--shared-memory")
    with running_server(folder / "server", url, *flags) as running_one:
        yield running_one.ready()


def good() -> dict[str, bytes]:
    """A request that is answered, for each method; the damage starts from these."""
    infer = pb.ModelInferRequest(model_name="cells", id="a")
    infer.inputs.add(name="pixels", datatype="UINT8", shape=[1, SIDE, SIDE, 3])
    infer.raw_input_contents.append(np.zeros((SIDE, SIDE, 3), np.uint8).tobytes())
    recognize = recognition_pb2.RecognizeRequest(top_k=2)
    recognize.images.add(data=encoded(1, size=40))
    made = {
        INFERENCE + "ModelInfer": infer,
        INFERENCE + "ModelReady": pb.ModelReadyRequest(name="cells"),
        INFERENCE + "ModelMetadata": pb.ModelMetadataRequest(name="cells", version="1"),
        INFERENCE + "ModelConfig": pb.ModelConfigRequest(name="cells"),
        INFERENCE + "ModelStatistics": pb.ModelStatisticsRequest(name="cells"),
        INFERENCE + "RepositoryIndex": pb.RepositoryIndexRequest(ready=True),
        INFERENCE + "SystemSharedMemoryStatus": pb.SystemSharedMemoryStatusRequest(),
        RECOGNITION + "Recognize": recognize,
    }
    return {path: message.SerializeToString() for path, message in made.items()}


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, removed, doubled or put in, mostly near the beginning."""
    made = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, min(len(made), chance.choice((16, 64, 2**20))))
        match chance.randint(0, 4):
            case 0:
                del made[at : at + chance.randint(1, 8)]
            case 1:
                made[at:at] = made[at : at + chance.randint(1, 32)]
            case 2:
                made[at:at] = chance.randbytes(chance.randint(1, 8))
            case 3:
                made[at : at + 1] = bytes([chance.choice((0, 1, 0x7F, 0x80, 0xFF))])
            case _:
                del made[at:]
    return bytes(made)


def ask(server: Server, path: str, data: bytes) -> str:
    try:
        server.channel.unary_unary(path)(data, timeout=30)
    except grpc.RpcError as error:
        return f"{error.code().name}"
    return "OK"


def memory(pids: list[int]) -> int:
    """Bytes that are theirs alone."""
    lines = [
        line
        for pid in pids
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        if line.startswith("Private_")
    ]
    return sum(int(line.split()[1]) * 1024 for line in lines)


def test_thousands_of_damaged_messages_over_the_wire(server: Server) -> None:
    chance = random.Random(11)
    whole = good()
    paths = sorted(whole)
    assert {path: ask(server, path, whole[path]) for path in paths} == dict.fromkeys(paths, "OK")
    everybody = [server.process.pid, *children(server.process.pid)]
    codes: Counter[str] = Counter()
    before = 0
    for case in range(CASES):
        path = chance.choice(paths)
        data = damaged(whole[path], chance)
        code = ask(server, path, data)
        assert code not in FAULTS, (case, path, code, data)
        codes[code] += 1
        if case == CASES // 2:
            before = memory(everybody)
    assert [server.process.pid, *children(server.process.pid)] == everybody
    assert memory(everybody) - before < ROOM
    assert codes["OK"] > CASES / 20
    assert codes["INVALID_ARGUMENT"] > CASES / 20
    assert "Traceback" not in server.text()
