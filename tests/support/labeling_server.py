"""The real labeling-ingest program as a process, for tests: started, fed, stopped, killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
from support.waiting import PATIENCE, wait_for

from visionloop.proto.v1 import labeling_pb2 as pb
from visionloop.proto.v1 import labeling_pb2_grpc


class LabelingServer:
    """A running `visionloop-labeling`, on the store and database in `folder` if not told others."""

    def __init__(
        self, folder: Path, *flags: str, store: str = "", database: str = "", **environment: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._ready_file = folder / "ready.json"
        self._ready_file.unlink(missing_ok=True)
        self.store = store or f"file://{folder / 'store'}"
        self.database = database or f"sqlite:///{folder / 'labeling.db'}"
        self.log = folder / "labeling.log"
        arguments = [
            f"--store={self.store}", f"--database={self.database}", "--http-port=0",
            "--grpc-port=0", f"--ready-file={self._ready_file}", "--drain-quiet-seconds=0.1",
            *flags,
        ]  # fmt: skip
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "visionloop_labeling", *arguments],
                stderr=output,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            )
        self.http_address = ""
        self.grpc_address = ""
        self._channel: grpc.Channel | None = None

    def listening(self) -> "LabelingServer":
        """Waits until both ports answer."""
        self.wait(self._ready_file.exists)
        addresses = json.loads(self._ready_file.read_text())
        assert addresses["pid"] == self.process.pid
        self.http_address = addresses["http"]
        self.grpc_address = addresses["grpc"]
        self._channel = grpc.insecure_channel(
            addresses["grpc"], options=[("grpc.max_send_message_length", -1)]
        )
        return self

    @property
    def channel(self) -> grpc.Channel:
        assert self._channel is not None
        return self._channel

    @property
    def stub(self) -> Any:
        return labeling_pb2_grpc.LabelingIngestStub(self.channel)

    def create_dataset(self, name: str) -> pb.Dataset:
        return self.stub.CreateDataset(pb.CreateDatasetRequest(name=name), timeout=PATIENCE)

    def submit(self, rows: Iterable[pb.SubmitImageRequest]) -> list[pb.SubmitImageReceipt]:
        return list(self.stub.SubmitImages(iter(rows), timeout=PATIENCE))

    def get(self, path: str) -> tuple[int, str]:
        """HTTP status and body."""
        try:
            url = f"http://{self.http_address}{path}"
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE)

    def wait_killed(self) -> None:
        """Waits until a failpoint has killed it."""
        assert self.process.wait(timeout=PATIENCE) == -signal.SIGKILL, self.log.read_text()

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def wait(self, what: Callable[[], bool]) -> None:
        """Until it is so; a program that has exited meanwhile is told with its log."""

        def look() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the program exited: {self.log.read_text()}")
            return what()

        wait_for(look, hint=f"{what}; log: {self.log}")


@contextlib.contextmanager
def running_labeling(
    folder: Path, *flags: str, store: str = "", database: str = "", **environment: str
) -> Iterator[LabelingServer]:
    """A program that listens; killed at the end if it still runs."""
    server = LabelingServer(folder, *flags, store=store, database=database, **environment)
    try:
        yield server.listening()
    finally:
        server.close()
