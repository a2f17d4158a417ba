"""The measurement itself: rounds of limit, subject, limit, subject, … and what each round says.

Other work on the machine moves every figure by 10 to 25 % within minutes. So nothing is compared
with what was measured minutes ago: each round measures the limits anew and then every subject, and
a ratio is always taken within one round. The figure is the median over the rounds.

Servers that are compared closely (the echo, the service, its rivals) run side by side and take
turns; the idle ones cost next to nothing, and what they cost is seen as other_cores.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from bench.serving.figures import bracket, median
from bench.serving.limits import Limit, LimitLoop, Limits
from bench.serving.load import TooShortError, Window, run
from bench.serving.options import Options
from bench.serving.processes import cores
from bench.serving.subjects import Serving, Subject
from bench.serving.workloads import Workload
from visionloop.errors import UnavailableError

ECHO = "grpc-echo"
LARGEST_BATCH = 64
LIMIT_SHARE = 0.2  # of a window, for each batch size of the bare loop
LIMIT_LEAST = 0.3  # seconds
LATENCIES = 10.0  # a window lasts at least so many times what a request takes: batches end at once

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Round:
    """One subject's window, with what was measured beside it."""

    window: Window
    limit: float  # images/s of the bare loop at this window's mean batch
    limit_cpu: float  # its CPU seconds for an image
    echo: Window | None

    @property
    def ratio(self) -> float:
        """Of the limit on the cores that the generator left."""
        left = 1.0 - min(self.window.generator_cores / cores(), 0.99)
        return self.window.images_per_second / (self.limit * left)


@dataclass(slots=True)
class Cell:
    """One subject, one model, one concurrency."""

    peer: str
    model: str
    concurrency: int
    rounds: list[Round] = field(default_factory=list)
    ready_s: float = 0.0
    cold_ready_s: float = 0.0
    idle_cores: float = 0.0


@dataclass(slots=True)
class Measured:
    """Everything from one run."""

    cells: list[Cell] = field(default_factory=list)
    limits: dict[str, dict[int, list[Limit]]] = field(default_factory=dict)  # model, batch
    skipped: dict[str, str] = field(default_factory=dict)  # what: why

    def remember(self, model: str, limits: Limits) -> None:
        """Keeps the bare loop's own figures."""
        for batch, limit in limits.by_batch.items():
            self.limits.setdefault(model, {}).setdefault(batch, []).append(limit)


@dataclass(slots=True)
class Contender:
    """A subject that runs."""

    subject: Subject
    serving: Serving
    cold_ready_s: float
    ready_s: float
    idle_cores: float = 0.0


class Lineup:
    """Subjects that serve one workload side by side and take turns."""

    def __init__(
        self, workload: Workload, subjects: Sequence[Subject], options: Options, say: Say
    ) -> None:
        self._workload = workload
        self._subjects = subjects
        self._options = options
        self._say = say
        self._contenders: list[Contender] = []

    def measure(self, loop: LimitLoop, measured: Measured) -> None:
        """All concurrencies. What cannot start or gives up is skipped, with the reason."""
        try:
            for subject in self._subjects:
                self._start(subject, measured)
            self._look_at_idle()
            for concurrency in self._options.concurrency:
                self._measure(concurrency, loop, measured)
        finally:
            for contender in self._contenders:
                contender.serving.program.stop()

    def _start(self, subject: Subject, measured: Measured) -> None:
        """Twice: the first start is cold, the second finds what the first left behind."""
        workload = self._workload
        seconds: list[float] = []
        try:
            subject.prepare()
            subject.forget(workload.model)
            for _ in range(2):
                serving = subject.start(
                    workload.model, workload.graph, self._folder(subject, len(seconds))
                )
                try:
                    seconds.append(workload.wait(subject, serving))
                except BaseException:
                    serving.program.stop()
                    raise
                if len(seconds) == 1:
                    serving.program.stop()
        except UnavailableError as error:
            self._skip(subject, error, measured)
            return
        self._say(f"  {subject.name} ready in {seconds[1]:.2f} s (the first time {seconds[0]:.2f})")
        self._contenders.append(Contender(subject, serving, seconds[0], seconds[1]))

    def _folder(self, subject: Subject, attempt: int) -> Path:
        folder = self._options.output / "run" / self._workload.name / f"{subject.name}-{attempt}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder.absolute()

    def _skip(self, subject: Subject, error: Exception, measured: Measured) -> None:
        measured.skipped[f"{subject.name} on {self._workload.name}"] = str(error)
        self._say(f"  {subject.name} is skipped: {error}")

    def _look_at_idle(self) -> None:
        """What each uses while nobody asks it anything."""
        first = [contender.serving.program.usage() for contender in self._contenders]
        time.sleep(1.0)
        for contender, before in zip(self._contenders, first, strict=True):
            after = contender.serving.program.usage()
            contender.idle_cores = (after.cpu - before.cpu) / (after.at - before.at)

    def _measure(self, concurrency: int, loop: LimitLoop, measured: Measured) -> None:
        """The rounds of one concurrency, after one window each that tells the batch and pace."""
        sizes = {1}
        seconds: dict[str, float] = {}
        rate = self._workload.limits(loop, {min(concurrency, 16)}, LIMIT_LEAST)
        expected = concurrency / rate.images_per_second(concurrency)
        cells: dict[str, Cell] = {}
        for contender in tuple(self._contenders):
            trial = max(self._options.seconds / 2, 2 * expected)
            window = self._window(contender, concurrency, trial, measured)
            if window is None:
                continue
            name = contender.subject.name
            seconds[name] = max(self._options.seconds, LATENCIES * window.p50_ms / 1000)
            sizes |= bracket(window.mean_batch, LARGEST_BATCH)
            cells[name] = Cell(
                peer=name,
                model=self._workload.name,
                concurrency=concurrency,
                ready_s=contender.ready_s,
                cold_ready_s=contender.cold_ready_s,
                idle_cores=contender.idle_cores,
            )
        for _ in range(self._options.pairs):
            self._round(cells, concurrency, seconds, sizes, loop, measured)
        for cell in cells.values():
            if cell.rounds:
                measured.cells.append(cell)
                middle = median([r.window.images_per_second for r in cell.rounds])
                ratio = median([r.ratio for r in cell.rounds])
                share = "" if cell.peer == ECHO else f", {ratio:.2f} of the limit"
                self._say(f"  {cell.peer} at {concurrency}: {middle:.0f}/s{share}")

    def _round(
        self,
        cells: dict[str, Cell],
        concurrency: int,
        seconds: dict[str, float],
        sizes: set[int],
        loop: LimitLoop,
        measured: Measured,
    ) -> None:
        share = LIMIT_SHARE * min(seconds.values(), default=self._options.seconds)
        limits = self._workload.limits(loop, sizes, max(LIMIT_LEAST, share))
        measured.remember(self._workload.name, limits)
        echo: Window | None = None
        for contender in tuple(self._contenders):
            name = contender.subject.name
            window = self._window(contender, concurrency, seconds[name], measured)
            if window is None:
                continue
            if name == ECHO:
                echo = window
            batch = max(window.mean_batch, 1.0)
            cells[name].rounds.append(
                Round(window, limits.images_per_second(batch), limits.cpu_s_per_image(batch), echo)
            )

    def _window(
        self, contender: Contender, concurrency: int, seconds: float, measured: Measured
    ) -> Window | None:
        """None when the subject gave up; it is out of the lineup then."""
        subject = contender.subject
        try:
            window = self._patiently(contender, concurrency, seconds)
        except (UnavailableError, grpc.RpcError) as error:
            self._skip(subject, error, measured)
            contender.serving.program.stop()
            self._contenders.remove(contender)
            return None
        if window.errors:
            self._say(f"  {subject.name}: {window.errors} requests failed: {window.problems[0]}")
        return window

    def _patiently(self, contender: Contender, concurrency: int, seconds: float) -> Window:
        """A window that is longer each time when too short for a single answer."""
        subject, serving = contender.subject, contender.serving
        for longer in (1, 3, 9):
            command = self._workload.command(subject, serving, concurrency, longer * seconds)
            try:
                ran = run(
                    command.argv,
                    serving,
                    longer * seconds,
                    command.environment,
                    announced=command.generator is None,
                )
                return ran.window(command.read(ran.output))
            except TooShortError as error:
                problem = error
        raise problem
