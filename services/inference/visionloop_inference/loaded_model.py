"""What a runner holds: one version's graph, its queue, its golden images.

Loading is an order of trust: what the graph file may hold, then what the graph takes and gives,
then what it costs, then what it answers. A bundle for images is tested by its golden images, the
first of them before anything is served and the rest one at a time between the requests' rows; a
bundle of plain tensors has none, so it serves once it has run.
"""

import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visionloop.bundle import Bundle, ClassifierBundle, TensorsBundle, parse_bundle
from visionloop.errors import CorruptError, NotFoundError, RefusedError
from visionloop_inference.batching import BatchQueue
from visionloop_inference.control import Message
from visionloop_inference.datatypes import is_finite
from visionloop_inference.execution import Execution
from visionloop_inference.front_end_link import FrontEndLink
from visionloop_inference.golden import GoldenImage, GoldenTest, read_golden
from visionloop_inference.graph import check_graph
from visionloop_inference.pace import Pace
from visionloop_inference.providers import Target
from visionloop_inference.rows import Arena
from visionloop_inference.session import (
    GraphRunFailedError,
    OutOfMemoryError,
    Session,
    choose_graph,
)
from visionloop_inference.tuning import candidates, example_of, run_each, tune
from visionloop_inference.tuning_file import Tuned, TuningFile, key
from visionloop_inference.wire import Layout

log = logging.getLogger(__name__)

# What a batch of low priority may take while others call: on a GPU a full one as a rule, on a CPU
# one or two rows of a network.
SOON = 0.01  # seconds


# Paths among the load options: JSON has them as text.
_PATHS = ("folder", "tuning", "engine_cache")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The `load` message."""

    folder: Path
    provider: str = "cpu"
    device: int = 0
    threads: int = 0  # 0: measured
    max_batch: int = 32
    tuning: Path | None = None
    pad: str = "auto"  # where the provider is a GPU; or always, never
    engine_cache: Path | None = None

    @classmethod
    def of(cls, message: Message) -> "LoadOptions":
        """Of what the supervisor sent; what it left out, or sent as null, has its default."""
        known = {option.name for option in fields(cls)}
        given: dict[str, Any] = {
            name: Path(value) if name in _PATHS else value
            for name, value in message.items()
            if name in known and value is not None
        }
        return cls(**given)


class LoadedModel:
    """A graph that is ready to run, warmed up but not tested yet."""

    @classmethod
    def of_bundle(cls, options: LoadOptions) -> "LoadedModel":
        """With the graph that is best here.

        A 16-bit graph which does not run here, or whose first golden images come out differently,
        gives way to the one that it stands for: a card may lack what the one had on which it was
        made. Raises CorruptError, RefusedError or ConfigurationError for what must not serve, and
        OutOfMemoryError (of a GPU) or UnavailableError for what may work later.
        """
        bundle = _read_bundle(options.folder)
        graph, precision = choose_graph(bundle, options.provider)
        model = cls._of_half(options, bundle, graph) if precision == "fp16" else None
        return model or cls(options, bundle, bundle.graph, "fp32")

    @classmethod
    def _of_half(cls, options: LoadOptions, bundle: Bundle, graph: str) -> "LoadedModel | None":
        """None where it is not good enough. Nothing of it is left on the card then: the other graph
        wants the room."""
        try:
            model = cls(options, bundle, graph, "fp16")
            model.test()
        except (CorruptError, RefusedError) as error:
            log.warning("%s is not used: %s; %s is", graph, str(error), bundle.graph)
            return None
        return model

    def __init__(self, options: LoadOptions, bundle: Bundle, graph: str, precision: str) -> None:
        began = perf_counter()
        structure = check_graph(options.folder / graph).structure
        self._bundle = bundle
        self._layout = Layout(bundle.signature)
        self._golden = _golden(bundle, options.folder)
        self._example = example_of(bundle)
        target = Target(
            options.provider, options.device, options.engine_cache, fp16=precision == "fp16"
        )
        self._session, self._tuned, self._cold = self._tune(options, graph, structure, target)
        padded = options.pad == "always" or (options.pad == "auto" and target.gpu)
        pace = Pace.of(self._tuned.seconds, self._tuned.batch, padded=padded)
        self.queue = BatchQueue(pace.batch, lambda: pace.rows_within(SOON), pace.padded_to)
        self._execution = Execution(
            self._session, self._layout, self.queue, pace, bundle, self._example
        )
        self._test = self._golden_test(options.provider, precision)
        self._tested = False
        self._replaying = False
        self._largest = 0.0
        log.info(
            "%s version %d is loaded after %.2f s", bundle.model, bundle.version,
            perf_counter() - began,
            extra={"precision": precision, "threads": self._tuned.threads, "batch": pace.batch},
        )  # fmt: skip

    def _tune(
        self, options: LoadOptions, graph: str, structure: str, target: Target
    ) -> tuple[Session, Tuned, bool]:
        """A session that has run, what it costs, and whether that had to be measured."""
        signature = self._layout.signature
        most = options.max_batch if signature.batched else 1

        def load(threads: int) -> Session:
            return Session.load(options.folder / graph, signature, target, threads, most)

        tried = candidates(options.threads, target)
        example = self._example
        if example is None:
            log.warning("%s has no example to run, so it is not measured", self._bundle.model)
            return load(tried[-1]), Tuned.guess(tried[-1], most), True
        file = TuningFile(options.tuning)
        name = key(structure, target, options.threads, most, pad=options.pad)
        tuned = file.get(name)
        try:
            if tuned is None:
                session, measured = tune(load, example, tried, most)
                file.put(name, measured)
            else:
                session = load(tuned.threads)
                # A GPU prepares for every size it meets, so it meets all of them now.
                sizes = sorted(tuned.seconds) if target.gpu else [tuned.batch]
                measured = run_each(session, example, tuned, sizes)
            # The sizes that were tried and not chosen must not keep their memory (for
            # EfficientNet-Lite0 600 MB after 32 rows, 105 MB shrunk).
            self._check_finite(graph, session.run(example(1), shrink=True))
        except GraphRunFailedError as error:
            raise CorruptError(f"{graph} does not run: {error}") from error
        except OutOfMemoryError as error:
            # A card's memory may be another's, who gives it back. Without one the graph wants more
            # than this process may ever have, and each try would take the cores from those who
            # serve.
            if target.gpu:
                raise
            raise CorruptError(f"{graph} does not run: {error}") from error
        return session, measured, tuned is None

    def _check_finite(self, graph: str, answers: Sequence[NDArray[Any]]) -> None:
        """Raises CorruptError for NaN where numbers were answered when the graph was added."""
        warm_up = self._bundle.warm_up if isinstance(self._bundle, TensorsBundle) else None
        if warm_up is None or not warm_up.finite:
            return
        for spec, answer in zip(self._layout.signature.outputs, answers, strict=True):
            if not is_finite(answer):
                raise CorruptError(
                    f"{graph} answers NaN or infinity in output {spec.name!r} on the inputs that "
                    "it answered with numbers when it was added; add it anew, or try another "
                    "execution provider"
                )

    def measured(self) -> Message:
        """What `loaded` says."""
        return {
            "batch": self._tuned.batch,
            "row_seconds": 1 / self._tuned.rows_a_second,
            "threads": self._tuned.threads,
            "cold": self._cold,
        }

    # Golden images

    def _golden_test(self, provider: str, precision: str) -> GoldenTest | None:
        bundle = self._bundle
        if not isinstance(bundle, ClassifierBundle):
            return None
        output = bundle.output("probabilities")
        if output is None:
            raise RefusedError("the bundle declares no output of kind probabilities")
        place = [spec.name for spec in bundle.signature.outputs].index(output.name)
        session = self._session  # not by way of us: a model that is let go is to be gone at once

        def run(row: NDArray[np.uint8]) -> NDArray[Any]:
            try:
                found: NDArray[Any] = session.run([row[None]])[place][0]
            except GraphRunFailedError as error:
                raise RefusedError(f"the graph fails on a golden image: {error}") from error
            return found

        return GoldenTest(bundle, run, provider=provider, precision=precision)

    def test(self) -> float:
        """Replays the first golden images, once; the largest difference. Raises RefusedError."""
        bundle = self._bundle
        if isinstance(bundle, ClassifierBundle) and not self._tested:
            for _ in range(bundle.golden.before_ready):
                self._replay_one()
        self._tested = True
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
        """Tells a front end what rows cost now, and how many of others wait."""
        link.publish(self._execution.pace)

    @property
    def busy(self) -> bool:
        return bool(self.queue) or self._replaying or self._execution.busy

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
    return read_golden(bundle, folder) if isinstance(bundle, ClassifierBundle) else []
