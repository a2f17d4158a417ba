"""`make bench-serving`: measures, prints the table and the verdicts, writes serving.json.

Exit code 0 means that it ran, whatever the verdicts say: figures are read by people.
"""

import json
import platform
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import onnxruntime

import visionloop
from bench.serving import burst as bursts
from bench.serving.bundles import publish_classifier, publish_graph
from bench.serving.graphs import write_classifier, write_model
from bench.serving.limits import LimitLoop
from bench.serving.load import PerfAnalyzer
from bench.serving.measure import Lineup, Measured
from bench.serving.models import CLASSES, IMAGE, MODELS, Model
from bench.serving.options import HELP, JPEGS, OTHERS, RIVALS, Options, from_environment
from bench.serving.peers import peers
from bench.serving.pictures import write_pictures
from bench.serving.processes import cores
from bench.serving.report import Row, disturbed, rows_of, table
from bench.serving.subjects import Echo, Service, Subject
from bench.serving.verdicts import OURS, SHARED_MEMORY, Verdict, verdicts
from bench.serving.workloads import Images, Tensors, Workload
from visionloop.errors import UnavailableError, VisionloopError

BURST_MODEL = "jpeg20k"
QUIET = 0.1  # cores
CLASSIFIER = Model("classifier", "UINT8", IMAGE, CLASSES, one_thread=False)


class Bench:
    """One run."""

    def __init__(self, options: Options) -> None:
        self._began = time.monotonic()
        self._options = options
        self._output = options.output.absolute()
        (self._output / "store").mkdir(parents=True, exist_ok=True)
        self._store = f"file://{self._output}/store"
        self._scratch = self._output / "run"
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._peers = peers(self._output / "venvs")
        self._measured = Measured()
        self._burst: bursts.Burst | str = f"{BURST_MODEL} or {OURS} was not asked for"
        self._analyzer = self._find_analyzer()

    def run(self) -> None:
        """All models, one after the other."""
        for name in self._options.models:
            say(f"{name}:")
            try:
                self._model(name)
            except VisionloopError as error:
                self._measured.skipped[f"everything on {name}"] = str(error)
                say(f"  skipped: {error}")
            self.write()

    def write(self) -> tuple[list[Row], list[Verdict]]:
        """Writes serving.json with what is measured so far."""
        rows = rows_of(self._measured)
        judged = verdicts(rows, self._burst, self._measured.skipped)
        document = {
            "machine": _machine(),
            "generator": "own" if self._analyzer is None else PerfAnalyzer.name,
            "options": {**asdict(self._options), "output": str(self._options.output)},
            "other_cores": round(disturbed(rows), 3),
            "minutes": round((time.monotonic() - self._began) / 60, 1),
            "rows": [row.as_json() for row in rows],
            "verdicts": [asdict(verdict) for verdict in judged],
            "skipped": self._measured.skipped,
        }
        (self._output / "serving.json").write_text(json.dumps(document, indent=1))
        return rows, judged

    def _find_analyzer(self) -> PerfAnalyzer | None:
        if self._options.generator == "own":
            return None
        analyzer = PerfAnalyzer(self._output / "venvs", self._scratch)
        try:
            analyzer.prepare()
        except UnavailableError as error:
            if self._options.generator != "auto":
                raise
            self._measured.skipped[PerfAnalyzer.name] = str(error)
            say(f"{error}; our own generator sends the tensors instead")
            return None
        return analyzer

    def _model(self, name: str) -> None:
        workload = self._images(name) if name in JPEGS else self._tensors(name)
        loop = LimitLoop(workload.graph)
        try:
            for subjects in self._lineups(workload):
                Lineup(workload, subjects, self._options, say).measure(loop, self._measured)
        finally:
            loop.close()
        if isinstance(workload, Images) and name == BURST_MODEL and OURS in self._options.peers:
            self._measure_burst(workload)

    def _tensors(self, name: str) -> Tensors:
        model = MODELS[name]
        graph = write_model(model, self._output / "models")
        if OURS in self._options.peers:
            publish_graph(model, graph, self._store)
        return Tensors(name, model, graph, self._scratch, self._analyzer)

    def _images(self, name: str) -> Images:
        graph = write_classifier(self._output / "models")
        pictures = write_pictures(self._output / "pictures" / name, JPEGS[name])
        publish_classifier(graph, pictures, self._store)
        return Images(name, CLASSIFIER, graph, self._scratch, tuple(pictures))

    def _lineups(self, workload: Workload) -> list[list[Subject]]:
        """Who runs side by side: first those that are compared closely, then the others."""
        asked = self._options.peers
        ours: list[Subject] = [self._service(OURS)] if OURS in asked else []
        if isinstance(workload, Images):
            return [ours] if ours else []
        if ours and workload.name == "pool":
            if self._analyzer is not None:
                ours.append(self._service(SHARED_MEMORY))
            else:
                self._measured.skipped[f"{SHARED_MEMORY} on pool"] = "it needs perf_analyzer"
        close = [Echo(), *ours, *(self._peers[name] for name in RIVALS if name in asked)]
        others: list[Subject] = [self._peers[name] for name in OTHERS if name in asked]
        return [close, others] if others else [close]

    def _service(self, name: str) -> Service:
        shared = name == SHARED_MEMORY
        return Service(
            store=self._store,
            cache=self._scratch / f"cache-{name}",
            name=name,
            flags=("--shared-memory",) if shared else (),
            analyzer_options=("--shared-memory", "system") if shared else (),
        )

    def _measure_burst(self, workload: Images) -> None:
        subject = self._service(OURS)
        folder = self._scratch / "burst"
        folder.mkdir(exist_ok=True)
        (folder / "ready.json").unlink(missing_ok=True)
        try:
            serving = subject.start(workload.model, workload.graph, folder)
            try:
                workload.wait(subject, serving)
                self._burst = bursts.measure(
                    workload, serving, 2 * self._options.pairs, self._options.seconds
                )
            finally:
                serving.program.stop()
        except UnavailableError as error:
            self._burst = str(error)


def _machine() -> dict[str, object]:
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cores": cores(),
        "cpu": model,
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "visionloop": visionloop.__version__,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def say(text: str) -> None:
    """Progress, on stderr: stdout is for the table."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _leave(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> int:
    """The exit code."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(HELP)
        return 0
    signal.signal(signal.SIGTERM, _leave)  # the servers have sessions of their own: stop them
    try:
        options = from_environment()
        say(f"about {options.minutes:.0f} minutes, and more on the first run, which installs peers")
        bench = Bench(options)
        bench.run()
    except VisionloopError as error:
        sys.stderr.write(f"bench-serving: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    rows, judged = bench.write()
    print(table(rows))
    print()
    for verdict in judged:
        print(verdict)
    if (others := disturbed(rows)) > QUIET:
        print(
            f"\nNot to be trusted: something else used {others:.2f} cores in the median row. "
            "Measure again on a quiet machine"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
