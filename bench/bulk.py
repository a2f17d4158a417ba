"""What a bulk client costs those who wait for one answer, and what its share costs the bulk client.

    python -m bench.bulk

A real server with its defaults and mobilenet_v3_small serves photographs of 20 kB. One process
calls Recognize with one image at a time at a fixed rate, open loop; another runs
`Client.recognize_stream` with its defaults. Rounds in turns: calls alone, stream alone, both.
Prints one JSON object: refused calls, p50 and p99 (ms) with and without the stream, the images a
second of the stream with and without the calls, and what an image of the stream alone costs the
server's processes (ms of CPU), which other work on the machine changes little.

Environment: ROUNDS (3), SECONDS (8) of a round, RATE (15) calls a second, FLAGS of the server,
OUTPUT (build/bench) for the model and the pictures.
"""

import asyncio
import itertools
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from visionloop.client import Client
from visionloop.errors import VisionloopError
from visionloop.objectstore import open_store
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.proto.v1 import recognition_pb2_grpc
from visionloop.repository import ModelRepository

PICTURE_BYTES = 20_000
READY_SECONDS = 120.0
DEADLINE = 2.0  # seconds of a call
MODEL = "classifier"


def main() -> None:
    """Measures and prints."""
    # Here, for they bring PyTorch along, which the clients' processes do without.
    from bench.serving.bundles import add_classifier
    from bench.serving.graphs import write_classifier
    from bench.serving.pictures import write_pictures
    from bench.serving.processes import Program, usage

    output = Path(os.environ.get("OUTPUT", "build/bench"))
    pictures = write_pictures(output / f"pictures-{PICTURE_BYTES}", PICTURE_BYTES)
    graph = write_classifier(output / "models")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = f"file://{folder}/store"
        add_classifier(graph, pictures, ModelRepository(open_store(store)), "bench-bulk")
        command = [
            sys.executable, "-m", "visionloop_inference", f"--store={store}", "--port=0",
            "--http-port=0", f"--ready-file={folder}/ready.json",
            *shlex.split(os.environ.get("FLAGS", "")),
        ]  # fmt: skip
        server = Program(command, folder / "server.log")
        try:
            target = _target(folder / "ready.json", pictures[0])
            print(json.dumps(_measured(target, pictures[0], lambda: usage(server.pid).cpu)))
        finally:
            server.stop()


def _target(ready: Path, picture: Path) -> str:
    """Where the server listens, once its model answers."""
    end = time.monotonic() + READY_SECONDS
    while True:
        try:
            target: str = json.loads(ready.read_text())["grpc"]
            with Client(target) as client:
                client.recognize(picture, model=MODEL)
            return target
        except (OSError, VisionloopError):
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _measured(target: str, picture: Path, cpu: Callable[[], float]) -> dict[str, Any]:
    """`cpu()` is what the server has used so far, in seconds."""
    costs: list[float] = []
    calls: dict[str, list[dict[str, Any]]] = {"alone": [], "beside": []}
    streams: dict[str, list[float]] = {"alone": [], "beside": []}
    for _ in range(int(os.environ.get("ROUNDS", "3"))):
        calls["alone"].append(_ended(_begun("calls", target, picture)))
        before = cpu()
        alone = _ended(_begun("stream", target, picture))
        costs.append(1000 * (cpu() - before) / alone["images"])
        streams["alone"].append(alone["images_per_second"])
        stream = _begun("stream", target, picture)
        calls["beside"].append(_ended(_begun("calls", target, picture)))
        streams["beside"].append(_ended(stream)["images_per_second"])
    found: dict[str, Any] = {}
    for how, rounds in calls.items():
        found[f"calls_{how}"] = {
            "refused": sum(one["refused"] for one in rounds),
            "answered": sum(one["answered"] for one in rounds),
            "p50_ms": round(statistics.median(one["p50_ms"] for one in rounds), 1),
            "p99_ms": round(statistics.median(one["p99_ms"] for one in rounds), 1),
        }
        found[f"stream_{how}_images_per_second"] = round(statistics.median(streams[how]), 1)
    found["stream_alone_cpu_ms_an_image"] = round(statistics.median(costs), 2)
    found["p99_ratio"] = round(found["calls_beside"]["p99_ms"] / found["calls_alone"]["p99_ms"], 2)
    return found


def _begun(what: str, target: str, picture: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "bench.bulk", what, target, str(picture)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def _ended(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    told, _ = process.communicate()
    assert process.returncode == 0, "a client failed"
    found: dict[str, Any] = json.loads(told)
    return found


def _seconds() -> float:
    return float(os.environ.get("SECONDS", "8"))


async def _calls(target: str, picture: bytes) -> dict[str, Any]:
    """Single calls at a fixed rate, whatever becomes of those before."""
    rate, seconds = float(os.environ.get("RATE", "15")), _seconds()
    took: list[float] = []
    refused: list[str] = []
    async with grpc.aio.insecure_channel(target) as channel:
        stub = recognition_pb2_grpc.RecognitionStub(channel)
        request = pb.RecognizeRequest(model=MODEL, images=[pb.EncodedImage(data=picture)])

        async def one() -> None:
            began = time.perf_counter()
            try:
                await stub.Recognize(request, timeout=DEADLINE)
                took.append(1000 * (time.perf_counter() - began))
            except grpc.aio.AioRpcError as error:
                refused.append(error.code().name)

        await asyncio.sleep(1.0)  # a stream beside has filled what it may fill by then
        began = time.monotonic()
        sent = []
        for place in itertools.count():
            if place / rate > seconds - 2.0:
                break
            await asyncio.sleep(max(0.0, began + place / rate - time.monotonic()))
            sent.append(asyncio.create_task(one()))
        await asyncio.gather(*sent)
    answered = len(took)
    took = sorted(took) or [1000 * DEADLINE]  # where none is answered, that is what they waited
    p99 = took[min(len(took) - 1, int(0.99 * len(took)))]
    return {
        "refused": len(refused), "answered": answered,
        "p50_ms": statistics.median(took), "p99_ms": p99,
    }  # fmt: skip


def _stream(target: str, picture: bytes) -> dict[str, Any]:
    """Images as fast as the stream takes them; those of the first second do not count."""
    began = time.monotonic()

    def images() -> Iterator[bytes]:
        while time.monotonic() < began + _seconds():
            yield picture

    images_answered, answered, first, last = 0, 0, began, began
    with Client(target) as client:
        for result in client.recognize_stream(images(), model=MODEL):
            assert result.error is None, result.error
            images_answered += 1
            last = time.monotonic()
            if last < began + 1.0:
                first = last
            else:
                answered += 1
    return {"images": images_answered, "images_per_second": answered / (last - first)}


if __name__ == "__main__":
    if sys.argv[1:]:
        kind, server_target, file = sys.argv[1:]
        data = Path(file).read_bytes()
        made = (
            asyncio.run(_calls(server_target, data))
            if kind == "calls"
            else _stream(server_target, data)
        )
        print(json.dumps(made))
    else:
        main()
