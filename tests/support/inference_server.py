"""The real inference server as a process, for tests: started, asked, stopped, killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from support.waiting import PATIENCE, wait_for

from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop.proto.v1 import recognition_pb2_grpc


class Server:
    """A running `visionloop-inference`."""

    def __init__(self, folder: Path, store: str, *flags: str, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._ready_file = folder / "ready.json"
        self._ready_file.unlink(missing_ok=True)
        self.log = folder / "server.log"
        arguments = [
            f"--store={store}", "--port=0", "--http-port=0", f"--ready-file={self._ready_file}",
            "--poll-seconds=0.1", "--threads=1", "--drain-quiet-seconds=0.2", *flags,
        ]  # fmt: skip
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "visionloop_inference", *arguments],
                stderr=output,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            )
        self._channel: grpc.Channel | None = None
        self._addresses: dict[str, str] = {}

    def listening(self) -> "Server":
        """Waits until it listens (it may still have no model)."""

        def look() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the server exited: {self.text()}")
            return self._ready_file.exists()

        wait_for(look, hint="the ready file")
        self._addresses = json.loads(self._ready_file.read_text())
        assert self._addresses["pid"] == self.process.pid
        return self

    def ready(self) -> "Server":
        """Waits until it is ready for requests."""
        self.listening()
        wait_for(lambda: self.get("/readyz")[0] == 200, hint=f"readiness; log: {self.log}")
        return self

    @property
    def target(self) -> str:
        return self._addresses["grpc"]

    def address(self, name: str) -> str:
        """What the ready file says: "grpc", "http" or "https"."""
        return self._addresses[name]

    @property
    def channel(self) -> grpc.Channel:
        if self._channel is None:
            self._channel = grpc.insecure_channel(self.target)
        return self._channel

    def recognize(
        self, *images: bytes, timeout: float | None = 30.0, **fields: Any
    ) -> pb.RecognizeResponse:
        """One Recognize call; raises grpc.RpcError."""
        stub = recognition_pb2_grpc.RecognitionStub(self.channel)
        request = pb.RecognizeRequest(images=[pb.EncodedImage(data=i) for i in images], **fields)
        return stub.Recognize(request, timeout=timeout)

    def get(self, path: str) -> tuple[int, str]:
        """HTTP status and body."""
        try:
            url = f"http://{self._addresses['http']}{path}"
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """The value of one series of /metrics; 0.0 when it is not there."""
        for line in self.get("/metrics")[1].splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and all(
                f'{key}="{wanted}"' in series for key, wanted in labels.items()
            ):
                return float(value)
        return 0.0

    def serves(self, version: int, **model: str) -> None:
        """Waits until this version answers: of any model, or of `model=`."""
        wanted = {"version": str(version), "alias": "stable", **model}
        wait_for(
            lambda: self.metric("visionloop_model_info", **wanted) == 1.0,
            hint=f"version {version}; log: {self.log}",
        )

    def text(self) -> str:
        return self.log.read_text()

    def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE)

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def running_server(folder: Path, store: str, *flags: str, **environment: str) -> Iterator[Server]:
    """A server that listens; killed at the end if it still runs."""
    server = Server(folder, store, *flags, **environment)
    try:
        yield server.listening()
    finally:
        server.close()
