"""The steps of the loop, each as a user of the suite would take it."""

import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionloop.client import Client
from visionloop.demo import solar_cells
from visionloop.demo.programs import command, running, say, wait_for
from visionloop.demo.solar_cells import Cell
from visionloop.errors import UnavailableError, VisionloopError
from visionloop.labeling_client import AuthorKind, LabelingClient, SubmitImage
from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository
from visionloop.telemetry import progress

DATASET = MODEL = "solar-cells"
LOAD_RATE = 10.0  # requests per second
LOAD_DEADLINE = 2.0  # seconds
LOAD_IMAGES = 64
LOG = "up.log"  # of the suite, in the output folder
IMAGES_PER_CALL = 16


@dataclass(frozen=True, slots=True)
class Suite:
    """The programs that `visionloop up` started: their addresses and the store between them."""

    inference: str
    labeling: str
    page: str
    store: str
    cache: Path

    def repository(self) -> ModelRepository:
        """The model repository in the suite's store."""
        return ModelRepository(open_store(self.store))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the served model said of one photograph, beside the truth."""

    cell: Cell
    label: str
    probability: float
    not_sure: bool

    @property
    def right(self) -> bool:
        """Whether it said what the experts said."""
        return self.label == self.cell.label


@dataclass(frozen=True, slots=True)
class Training:
    """One finished training job: its version, report and times (seconds since the epoch)."""

    version: int
    report: dict[str, Any]
    predictions: list[dict[str, Any]]  # of the test images
    seconds: float
    promoted: float
    served: float
    labelled: float


@contextmanager
def suite_running(output: Path, store: str | None) -> Iterator[Suite]:
    """Step 1: `visionloop up` on free ports, in one data folder."""
    data, ready, log = output / "data", output / "up.json", output / LOG
    arguments = ["visionloop", "up", "--data", str(data), "--ready-file", str(ready)]
    arguments += ["--inference-port", "0", "--inference-http-port", "0"]
    arguments += ["--labeling-port", "0", "--labeling-http-port", "0", "--poll-seconds", "1"]
    arguments += ["--store", store] if store else []
    say(f"  $ {' '.join(arguments)}")
    with running(arguments, log) as process:
        wait_for("the start of the programs", ready.is_file, process, log)
        up = json.loads(ready.read_text())
        inference, labeling = up["visionloop-inference"], up["visionloop-labeling"]
        say(f"  inference gRPC {inference['grpc']}, labeling-ingest gRPC {labeling['grpc']}")
        yield Suite(
            inference=inference["grpc"],
            labeling=labeling["grpc"],
            page=f"http://{labeling['http']}",
            store=store or (data / "store").resolve().as_uri(),
            cache=output / "data" / "training-cache",
        )


def import_labelled(suite: Suite, cells: Sequence[Cell], output: Path) -> None:
    """Step 2: a CSV with path, label and module type, imported by the CLI."""
    table = output / "first-half.csv"
    solar_cells.write_csv(cells, table)
    result = command(
        "visionloop",
        *("import", str(table), "--dataset", DATASET, "--attribute-columns", "module"),
        *("--target", suite.labeling),
    )
    say(f"  {result['accepted']} accepted, {result['duplicates']} were there already")


def train(suite: Suite, preset: str, settings: Sequence[str], labelled: float) -> Training:
    """Steps 3 and 7: cut a snapshot, train, and wait until the promoted version is served."""
    from pyarrow import parquet  # late: where the extra is missing, one line says so

    snapshot = command("visionloop", "snapshots", "create", DATASET, "--target", suite.labeling)
    say(f"  snapshot {snapshot['id'][:19]}…: {snapshot['split_images']}")
    started = time.time()
    result = command(
        "visionloop-train",
        *("--store", suite.store, "--dataset", DATASET, "--model", MODEL, "--preset", preset),
        *("--cache", str(suite.cache), "--who", "demo"),
        *(flag for setting in settings for flag in ("--set", setting)),
        gives_way=True,  # to the programs that serve on the same processors
    )
    seconds = time.time() - started
    version = int(result["version"])
    served = wait_until_served(suite.inference, version)
    repository = suite.repository()
    promoted = max(m.at.timestamp() for m in repository.history(MODEL) if m.version == version)
    bundle = repository.read(MODEL, version)
    report = json.loads(repository.file(bundle, "report/report.json"))
    table = repository.file(bundle, f"report/{report['predictions']}")
    predictions: list[dict[str, Any]] = parquet.read_table(io.BytesIO(table)).to_pylist()
    say(f"  version {version} is promoted and served")
    return Training(version, report, predictions, seconds, promoted, served, labelled)


def wait_until_served(inference: str, version: int) -> float:
    """The time at which the service first answered by this version."""
    image = solar_cells.load()[0].path
    deadline = time.monotonic() + 120
    with Client(inference, timeout=10) as client:
        while time.monotonic() < deadline:
            try:
                if client.recognize(image)[0].version == version:
                    return time.time()
            except UnavailableError:
                pass  # not one model is ready yet
            time.sleep(0.05)
    raise UnavailableError(f"version {version} was promoted, but is not served after 120 s")


@contextmanager
def background_load(
    suite: Suite, cells: Sequence[Cell], output: Path, deadline: float
) -> Iterator[Path]:
    """Step 4: a steady open-loop load from a process of its own, until the block ends."""
    requests, log = output / "requests.jsonl", output / "load.log"
    arguments = [sys.executable, "-m", "visionloop.demo.load", suite.inference]
    arguments += [str(LOAD_RATE), str(deadline), str(requests)]
    arguments += [str(cell.path) for cell in cells[:LOAD_IMAGES]]
    with running(arguments, log) as process:
        wait_for(
            "the first answer under load",
            lambda: requests.is_file() and requests.stat().st_size > 0,
            process,
            log,
        )
        say(f"  {LOAD_RATE:.0f} requests/s, deadline {deadline:g} s, no retries")
        yield requests
        code = process.poll()
        if code is not None:  # it ends when it is told to
            raise UnavailableError(f"the load ended too early, with code {code}; see {log}")


def recognise(suite: Suite, cells: Sequence[Cell]) -> list[Answer]:
    """Step 5: send photographs that no model has seen; answers in their order."""
    answers: list[Answer] = []
    calls = [cells[i : i + IMAGES_PER_CALL] for i in range(0, len(cells), IMAGES_PER_CALL)]
    with Client(suite.inference, timeout=60) as client:
        for call in progress(calls, total=len(calls), description="recognise", unit="call"):
            results = client.recognize([cell.path for cell in call])
            for cell, result in zip(call, results, strict=True):
                if result.error is not None:
                    raise VisionloopError(f"{cell.path.name} was refused: {result.error}")
                best = result.labels[0]
                answers.append(Answer(cell, best.name, best.probability, result.not_sure))
    return answers


def correct(suite: Suite, answers: Sequence[Answer]) -> None:
    """Step 6: corrections of what was wrong, as a person gives them, then all remaining labels."""
    wrong = [answer.cell for answer in answers if not answer.right]
    rest = [answer.cell for answer in answers if answer.right]
    say(f"  {len(wrong)} corrections, {len(rest)} more labels")
    with LabelingClient(suite.labeling) as client:
        _submit(client, wrong, "corrections", "human")
        _submit(client, rest, "second-half", "import")


def _submit(
    client: LabelingClient, cells: Sequence[Cell], batch: str, author_kind: AuthorKind
) -> None:
    rows = (
        SubmitImage(
            dataset=DATASET,
            batch=batch,
            ordinal=ordinal,
            image=cell.path.read_bytes(),
            label=cell.label,
            attributes={"module": cell.module},
            author_kind=author_kind,
            author="demo",
            source=cell.path.name,
        )
        for ordinal, cell in enumerate(cells)
    )
    receipts = client.submit_images(rows)
    for receipt in progress(receipts, total=len(cells), description=batch, unit="image"):
        if receipt.outcome in ("rejected", "quarantined"):
            raise VisionloopError(f"{batch} row {receipt.ordinal}: {receipt.message}")
