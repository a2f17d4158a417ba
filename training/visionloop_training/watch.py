"""What a run tells while it goes: metrics for Prometheus, and curves for TensorBoard if wanted.

The training loop says what happens (`Watch.step`, `Watch.epoch`); where it goes is decided here.
Setting a gauge is a store to memory: a step costs nothing that could be measured.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import start_http_server

from visionloop.disk_space import room_for
from visionloop.errors import ConfigurationError
from visionloop.flags import check_port, is_loopback
from visionloop.telemetry import metrics, training

_log = logging.getLogger(__name__)


class Point(Protocol):
    """One point of the learning curves, as `fit` makes them; epoch 0 is the linear probe."""

    @property
    def epoch(self) -> int: ...
    @property
    def train_loss(self) -> float: ...
    @property
    def val_loss(self) -> float: ...
    @property
    def val_accuracy(self) -> float: ...
    @property
    def learning_rate(self) -> float: ...


class Watch:
    """The observer of one run. `curves` are TensorBoard's."""

    def __init__(self, curves: "Curves | None" = None) -> None:
        self._curves = curves
        self._stage = ""
        self._began = time.perf_counter()
        self._waited = 0.0
        self._images = 0
        self.wait_ratio = 0.0  # of the newest epoch
        self.images_per_second = 0.0

    def stage(self, name: str) -> None:
        """The run has come to this stage."""
        if self._stage:
            training.STAGE_INFO.labels(self._stage).set(0)
        training.STAGE_INFO.labels(name).set(1)
        self._stage = name

    def begin(self, epoch: int) -> None:
        """An epoch begins."""
        training.EPOCH.set(epoch)
        self._began, self._waited, self._images = time.perf_counter(), 0.0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The loop has nothing to compute while it is in here."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def step(self, number: int, images: int) -> None:
        """The optimiser step `number` is done, on so many images."""
        self._images += images
        training.STEP.set(number)
        training.LAST_STEP_TIMESTAMP.set(time.time())

    def steps_done(self) -> None:
        """The epoch's last step is done; what follows is no training."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        self.images_per_second = self._images / seconds
        self.wait_ratio = min(1.0, self._waited / seconds)
        training.IMAGES_PER_SECOND.set(self.images_per_second)
        training.LOADER_WAIT_RATIO.set(self.wait_ratio)

    def epoch(self, point: Point) -> None:
        """The epoch is judged."""
        training.LOSS.labels("train").set(point.train_loss)
        training.LOSS.labels("val").set(point.val_loss)
        if self._curves is not None:
            self._curves.add(point, self.images_per_second, self.wait_ratio)

    def close(self) -> None:
        """Writes what is left to write."""
        if self._curves is not None:
            self._curves.close()


class Curves:
    """Learning curves as TensorBoard reads them, one folder a run."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigurationError where the package is missing."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigurationError(
                "--tensorboard needs the package tensorboard; install it: pip install tensorboard "
                "(or leave the flag out: the report holds the curves, too)",
                field="tensorboard",
            ) from error
        with room_for(folder, setting="--tensorboard"):
            self._writer: Any = SummaryWriter(str(folder))
        self._folder = folder
        self._over = False

    def add(self, point: Point, images_per_second: float, wait_ratio: float) -> None:
        """One epoch; 0 is the linear probe. A full disk ends the curves, not the run."""
        if not self._over:
            with self._bearing():
                self._add(point, images_per_second, wait_ratio)

    def close(self) -> None:
        """Writes what is left to write."""
        with self._bearing():
            self._writer.close()

    @contextmanager
    def _bearing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._over:
                words = "--tensorboard %s cannot be written (%s): the curves end here"
                _log.warning(words, self._folder, error.strerror or error)
            self._over = True

    def _add(self, point: Point, images_per_second: float, wait_ratio: float) -> None:
        values = {
            "loss/train": point.train_loss,
            "loss/val": point.val_loss,
            "accuracy/val": point.val_accuracy,
            "learning_rate": point.learning_rate,
            "speed/images_per_second": images_per_second,
            "speed/loader_wait_ratio": wait_ratio,
        }
        for name, value in values.items():
            self._writer.add_scalar(name, value, point.epoch)
        self._writer.flush()


@contextmanager
def served(port: int | None, host: str, *, insecure: bool) -> Iterator[int | None]:
    """/metrics over HTTP while inside, if there is a port (0: any free one); gives its number.

    Raises ConfigurationError where it cannot be had, or must not be.
    """
    if port is None:
        yield None
        return
    if not is_loopback(host) and not insecure:
        raise ConfigurationError(
            f"--metrics-host {host} is reachable from other machines, and /metrics is without TLS "
            "and authentication; add --insecure if the network around it is trusted",
            field="metrics_host",
        )
    check_port("metrics-port", port)
    try:
        server, thread = start_http_server(port, host, metrics.REGISTRY)
    except OSError as error:
        raise ConfigurationError(
            f"--metrics-port {port} on {host} cannot be used: {error.strerror}; name another, or "
            "0 for any free one",
            field="metrics_port",
        ) from error
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
