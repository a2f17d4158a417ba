"""The program under measurement, and a sender that costs as little as a sender can."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench.serving.processes import usage
from visionloop.proto.v1 import labeling_pb2 as pb
from visionloop.proto.v1 import labeling_pb2_grpc

READY_SECONDS = 60.0
IN_FLIGHT = 256  # rows without a receipt


@dataclass(frozen=True, slots=True)
class Sent:
    """One stream of rows. CPU in seconds, of the service with its workers, and of the sender."""

    rows: int
    seconds: float
    service_cpu: float
    sender_cpu: float
    outcomes: dict[str, int]

    @property
    def cpu(self) -> float:
        """Of all of them."""
        return self.service_cpu + self.sender_cpu


class Service:
    """A running `visionloop-labeling` with its database and store in `folder`."""

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]", addresses: dict[str, str]):
        self.folder = folder
        self.pid = process.pid
        self.http = addresses["http"]
        self._channel = grpc.insecure_channel(addresses["grpc"])
        self._stub = labeling_pb2_grpc.LabelingIngestStub(self._channel)

    def create_dataset(self, name: str) -> None:
        """Makes a dataset."""
        self._stub.CreateDataset(pb.CreateDatasetRequest(name=name))

    def send(self, dataset: str, images: Iterable[bytes]) -> Sent:
        """Streams labelled rows as fast as receipts come back."""
        room = threading.Semaphore(IN_FLIGHT)

        def requests() -> Iterator[pb.SubmitImageRequest]:
            for number, image in enumerate(images):
                room.acquire()
                yield pb.SubmitImageRequest(
                    dataset=dataset,
                    batch="bench",
                    ordinal=number,
                    image=image,
                    label=pb.Label(class_name=f"class {number % 10}"),
                    author_kind=pb.AUTHOR_KIND_IMPORT,
                )

        before, cpu, start = usage(self.pid), time.process_time(), time.perf_counter()
        outcomes: Counter[str] = Counter()
        for receipt in self._stub.SubmitImages(requests()):
            outcomes[pb.SubmitImageReceipt.Outcome.Name(receipt.outcome).lower()] += 1
            room.release()
        seconds = time.perf_counter() - start
        return Sent(
            rows=outcomes.total(),
            seconds=seconds,
            service_cpu=usage(self.pid).cpu - before.cpu,
            sender_cpu=time.process_time() - cpu,
            outcomes=dict(outcomes),
        )


@contextmanager
def running(folder: Path) -> Iterator[Service]:
    """A service on fresh folders, as an operator starts it."""
    folder.mkdir(parents=True)
    ready = folder / "ready.json"
    command = [
        sys.executable, "-m", "visionloop_labeling", f"--store=file://{folder.resolve()}/store",
        f"--database=sqlite:///{folder.resolve()}/labeling.db", "--http-port=0", "--grpc-port=0",
        f"--ready-file={ready}",
    ]  # fmt: skip
    with (folder / "labeling.log").open("ab") as log:
        process = subprocess.Popen(command, stderr=log, env={**os.environ})
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "labeling.log").read_text()[-2000:])
            time.sleep(0.05)
        yield Service(folder, process, json.loads(ready.read_text()))
    finally:
        process.terminate()
        process.wait(timeout=READY_SECONDS)
