"""What a runner holds: one version's graph, its queue, its golden images.

Loading is an order of trust: what the graph file may hold, then what the graph takes and gives,
then what it costs, then what it answers. A bundle for images is tested by its golden images, the
first of them before anything is served and the rest one at a time between the requests' rows; a
bundle of plain tensors has none, so it serves once it has run.
"""

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionloop.bundle import Bundle, ClassificationBundle, TensorsBundle, parse_bundle
from visionloop.errors import CorruptError, NotFoundError, RefusedError
from visionloop_inference.batching import BatchQueue
from visionloop_inference.control import Message
from visionloop_inference.datatypes import DATATYPES
from visionloop_inference.execution import Execution
from visionloop_inference.front_end_link import FrontEndLink
from visionloop_inference.golden import GoldenImage, GoldenTest, read_golden
from visionloop_inference.graph import check_graph
from visionloop_inference.pace import Pace
from visionloop_inference.providers import cores
from visionloop_inference.rows import Arena
from visionloop_inference.session import Arrays, GraphRunFailedError, OutOfMemoryError, Session
from visionloop_inference.wire import Layout

log = logging.getLogger(__name__)

BFLOAT16_ONE = 0x3F80
FIRST_GUESS = 0.001  # seconds a row takes, where no example could be run


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The `load` message."""

    folder: Path
    provider: str = "cpu"
    device: int = 0
    threads: int = 0  # 0: measured
    max_batch: int = 32
    tuning: Path | None = None
    precision: str = "auto"  # or fp32, fp16
    pad: bool = False

    @classmethod
    def of(cls, message: Message) -> "LoadOptions":
        tuning = message.get("tuning")
        return cls(
            folder=Path(message["folder"]),
            provider=message.get("provider", "cpu"),
            device=message.get("device", 0),
            threads=message.get("threads", 0),
            max_batch=message.get("max_batch", 32),
            tuning=None if tuning is None else Path(tuning),
            precision=message.get("precision", "auto"),
            pad=message.get("pad", False),
        )


class LoadedModel:
    """A graph that is ready to run, warmed up but not tested yet."""

    def __init__(self, options: LoadOptions) -> None:
        """Raises CorruptError, RefusedError or ConfigurationError for what must not serve."""
        began = perf_counter()
        bundle = _read_bundle(options.folder)
        graph = options.folder / bundle.graph
        check_graph(graph)
        self._bundle = bundle
        signature = bundle.signature
        self._layout = Layout(signature)
        self._golden = _golden(bundle, options.folder)
        self._threads = options.threads or cores()
        self._session = Session.load(
            graph, signature, provider=options.provider, threads=self._threads
        )
        pace = self._measure(options)
        self.queue = BatchQueue(pace.batch)
        self._links: list[FrontEndLink] = []
        self._execution = Execution(self._session, self._layout, self.queue, pace, bundle.model)
        self._test = self._golden_test(options.provider)
        self._replaying = False
        self._largest = 0.0
        log.info("%s version %d is loaded after %.2f s", bundle.model, bundle.version,
                 perf_counter() - began)  # fmt: skip

    def _measure(self, options: LoadOptions) -> Pace:
        most = options.max_batch if self._layout.batched else 1
        example = _example(self._bundle)
        if example is None:
            log.warning("%s has no example to run, so it is not measured", self._bundle.model)
            return Pace.of({1: FIRST_GUESS}, most)
        try:
            pace = Pace.measure(lambda rows: self._session.run(example(rows)), most)
            # The sizes that were tried and not chosen must not keep their memory (for
            # EfficientNet-Lite0 600 MB after 32 rows, 105 MB shrunk).
            self._session.run(example(1), shrink=True)
        except (GraphRunFailedError, OutOfMemoryError) as error:
            raise CorruptError(f"{self._bundle.graph} does not run: {error}") from error
        return pace

    def measured(self) -> Message:
        """What `loaded` says."""
        pace = self._execution.pace
        return {
            "batch": pace.batch,
            "row_seconds": pace.seconds(pace.batch) / pace.batch,
            "threads": self._threads,
            "cold": True,
        }

    # Golden images

    def _golden_test(self, provider: str) -> GoldenTest | None:
        bundle = self._bundle
        if not isinstance(bundle, ClassificationBundle):
            return None
        output = bundle.output("probabilities")
        if output is None:
            raise RefusedError("the bundle declares no output of kind probabilities")
        place = [spec.name for spec in bundle.signature.outputs].index(output.name)

        def run(row: NDArray[np.uint8]) -> NDArray[Any]:
            try:
                found: NDArray[Any] = self._session.run([row[None]])[place][0]
            except GraphRunFailedError as error:
                raise RefusedError(f"the graph fails on a golden image: {error}") from error
            return found

        return GoldenTest(bundle, run, provider=provider)

    def test(self) -> float:
        """Replays the first golden images; the largest difference. Raises RefusedError."""
        bundle = self._bundle
        if isinstance(bundle, ClassificationBundle):
            for _ in range(bundle.golden.before_ready):
                self._replay_one()
        return self._largest

    def _replay_one(self) -> None:
        if self._test is not None and self._golden:
            self._largest = max(self._largest, self._test(self._golden.pop(0)))

    def replay_rest(self) -> None:
        """From now on `step` replays the golden images that are left."""
        self._replaying = True

    # Requests

    def link(self, end: socket.socket, arena: Arena, name: str) -> FrontEndLink:
        """A link whose rows run here."""
        link = FrontEndLink(end, arena, self._layout, self.queue, name)
        link.board.publish(self._execution.pace)
        return link

    def publish(self, link: FrontEndLink) -> None:
        """Tells a front end what rows cost now."""
        link.board.update(self._execution.pace, self.queue.unanswered - link.rows)

    @property
    def busy(self) -> bool:
        return bool(self.queue) or self._replaying

    def step(self) -> Message | None:
        """One batch, and one golden image if some are to be replayed; what to say when they end."""
        self._execution.step()
        if not self._replaying:
            return None
        try:
            if self._golden:
                self._replay_one()
                return None
        except Exception as error:  # noqa: BLE001 — whatever it is, the version is not proven
            self._replaying = False
            self._golden.clear()
            return {"said": "demoted", "problem": str(error)}
        self._replaying = False
        return {"said": "proven", "difference": self._largest}


def _read_bundle(folder: Path) -> Bundle:
    try:
        return parse_bundle((folder / "bundle.json").read_bytes())
    except OSError as error:
        raise NotFoundError(f"no bundle in {folder}: {error}") from error


def _golden(bundle: Bundle, folder: Path) -> list[GoldenImage]:
    return read_golden(bundle, folder) if isinstance(bundle, ClassificationBundle) else []


def _example(bundle: Bundle) -> Callable[[int], Arrays] | None:
    """Inputs on which the graph is known to run, for so many rows; None when there are none.

    Black images, or what the bundle says of plain tensors.
    """
    signature = bundle.signature
    shapes, value = [spec.shape for spec in signature.inputs], 0
    if isinstance(bundle, TensorsBundle):
        if bundle.warm_up is None:
            return None
        shapes, value = bundle.warm_up.shapes, bundle.warm_up.value
    kinds = [DATATYPES[spec.datatype] for spec in signature.inputs]

    def example(rows: int) -> Arrays:
        arrays = []
        for kind, sizes in zip(kinds, shapes, strict=True):
            shape = (rows, *sizes) if signature.batched else tuple(sizes)
            one: object = "1" if kind.numpy.hasobject else value
            nothing: object = "" if kind.numpy.hasobject else 0
            if kind.name == "BF16":
                one = BFLOAT16_ONE
            arrays.append(np.full(shape, one if value else nothing, kind.numpy))
        return arrays

    return example
