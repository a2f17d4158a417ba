"""The real programs around one store, with traffic, for tests of what they tell Prometheus.

Both services run as processes with small real models. `turn` makes everything happen once that
happens on an ordinary day: images that are recognised and refused, corrections, uploads, labels, a
snapshot.
"""

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import Request, urlopen

import grpc
from support.bundles import LABELS, encoded, publish_bundle
from support.inference_server import Server, running_server
from support.labeling_server import LabelingServer, running_labeling
from support.waiting import wait_for

from visionloop.client import Client
from visionloop.errors import NotFoundError
from visionloop.objectstore import open_store
from visionloop.proto.v1 import labeling_pb2 as labeling_pb
from visionloop.repository import ModelRepository
from visionloop_labeling import backup, backup_report
from visionloop_labeling.backup_report import BackupReport

DATASET = "test"  # the one that the test bundles say they were trained on
MODEL = "cells"
SUGGESTED_WITHIN = 5.0  # seconds; the service asks for suggestions every two
CUT_SHORT = 2_000  # bytes that are left of an image that cannot be decoded


class RunningLoop:
    """Inference and labeling-ingest on one store."""

    def __init__(self, inference: Server, labeling: LabelingServer) -> None:
        self.inference = inference
        self.labeling = labeling
        self._turns = 0
        self._waiting: list[tuple[float, bytes]] = []  # since when; without a label

    def scrape(self) -> list[str]:
        """What /metrics of each program says now."""
        return [program.get("/metrics")[1] for program in (self.inference, self.labeling)]

    def turn(self) -> None:
        """An ordinary day, once."""
        self._turns += 1
        first = 10 * self._turns
        images = [encoded(first + number) for number in range(3)]
        with Client(self.inference.target) as client:
            results = list(client.recognize([*images, images[0][:CUT_SHORT]], model=MODEL))
            client.submit_feedback(results[0], class_id=LABELS[0], image=images[0])
            list(client.recognize(images[:1], model=MODEL, version="canary"))
            with contextlib.suppress(NotFoundError):
                client.recognize(images[:1], model="no-such-model")
        rows = [
            labeling_pb.SubmitImageRequest(
                dataset=DATASET,
                batch=f"turn-{self._turns}",
                ordinal=number,
                image=image,
                author_kind=labeling_pb.AUTHOR_KIND_IMPORT,
                **({"label": labeling_pb.Label(class_name=LABELS[number % 3])} if number else {}),
            )
            for number, image in enumerate([encoded(first + 5), *images, images[1][:CUT_SHORT]])
        ]
        self.labeling.submit(rows)
        self._waiting.append((time.monotonic(), rows[0].image))
        self._label_what_waited()
        self.labeling.stub.CreateSnapshot(labeling_pb.CreateSnapshotRequest(dataset=DATASET))
        with contextlib.suppress(grpc.RpcError):
            self.labeling.stub.CreateSnapshot(labeling_pb.CreateSnapshotRequest(dataset="no-such"))
        for path in ("/v1/datasets", f"/v1/datasets/{DATASET}/images", "/no-such-page"):
            self.labeling.get(path)

    def _label_what_waited(self) -> None:
        """A person accepts the suggestions for the images that have waited for some seconds."""
        while self._waiting and time.monotonic() - self._waiting[0][0] > SUGGESTED_WITHIN:
            _, image = self._waiting.pop(0)
            with Client(self.inference.target) as client:
                [said] = client.recognize([image], model=MODEL)
            assert said.label is not None
            self.labeling.stub.SubmitLabel(
                labeling_pb.SubmitLabelRequest(
                    dataset=DATASET,
                    sha256=hashlib.sha256(image).hexdigest(),
                    label=labeling_pb.Label(class_name=said.label.class_id),
                    author_kind=labeling_pb.AUTHOR_KIND_HUMAN,
                    author="ada",
                    suggested_by=f"{MODEL}:1",
                    suggestion="accepted",
                )
            )

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Turns in the background, one after the other; what goes wrong in one is raised here."""
        stop = threading.Event()

        def work() -> None:
            while not stop.wait(0.2):
                self.turn()

        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(work)
            try:
                yield
            finally:
                stop.set()
            working.result()


def store_in(folder: Path) -> str:
    """The URL of the store that all programs share."""
    return f"file://{folder / 'store'}"


def first_snapshot(folder: Path, store: str) -> str:
    """The id of a snapshot of some labels in the database of the service that will run there."""
    with running_labeling(folder, store=store) as labeling:
        labeling.create_dataset(DATASET)
        labeling.submit(
            labeling_pb.SubmitImageRequest(
                dataset=DATASET,
                batch="first",
                ordinal=number,
                image=encoded(number),
                label=labeling_pb.Label(class_name=LABELS[number]),
                author_kind=labeling_pb.AUTHOR_KIND_IMPORT,
            )
            for number in range(3)
        )
        request = labeling_pb.CreateSnapshotRequest(dataset=DATASET)
        found: str = labeling.stub.CreateSnapshot(request).id
        labeling.terminate()
    return found


@contextlib.contextmanager
def running_loop(folder: Path, inference_port: int, labeling_port: int) -> Iterator[RunningLoop]:
    """Both programs, a stable version and a canary, and a turn behind them."""
    store = store_in(folder)
    repository = ModelRepository(open_store(store))
    first = first_snapshot(folder / "labeling", store)
    publish_bundle(repository, MODEL, seed=1, golden=4, promote=True, snapshot=first)
    publish_bundle(repository, MODEL, seed=2, golden=4)
    now = repository.aliases(MODEL)
    repository.set_canary(MODEL, 2, 5.0, expected=now, who="a test", why="to see both")
    backed_up = BackupReport(day=backup.day_of(datetime.now(UTC)), damaged=0)
    backup_report.leave(open_store(store), backed_up)
    with (
        running_server(folder / "inference", store, f"--http-port={inference_port}") as inference,
        running_labeling(
            folder / "labeling",
            f"--inference={inference.target}",
            f"--http-port={labeling_port}",
            store=store,
        ) as labeling,
    ):
        loop = RunningLoop(inference, labeling)
        labeling.create_dataset(DATASET)
        inference.serves(1)
        canary = {"version": "2", "alias": "canary"}
        wait_for(lambda: inference.metric("visionloop_model_info", **canary), hint="the canary")
        loop.turn()
        for told in (
            "visionloop_suggestions_total",
            "visionloop_feedback_drained_total",
            "visionloop_published_version",
            "visionloop_backup_timestamp_seconds",
        ):
            wait_for(lambda told=told: f"\n{told}" in labeling.get("/metrics")[1], hint=told)
        yield loop


def ask(url: str, data: bytes | None = None) -> bytes:
    """The body of an HTTP answer."""
    with urlopen(Request(url, data=data), timeout=30) as answer:  # noqa: S310 - loopback
        return answer.read()
