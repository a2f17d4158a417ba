"""One training run, from snapshot to promoted version, readable from top to bottom.

    snapshot → fit → calibrate → export → prove parity → evaluate (the ONNX) → gate → publish

`run` is the order; each stage is a module. Nothing reaches the store before the model has passed
its parity proof and has been scored, and nothing is visible there before bundle.json.
"""

import json
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from visionloop.aliases import pinned_words
from visionloop.bundle import ClassifierBundle
from visionloop.errors import ConfigurationError, ConflictError
from visionloop.objectstore import ObjectStore
from visionloop.repository import CurrentAliases, ModelRepository
from visionloop.snapshot import Snapshot, SnapshotRepository
from visionloop_training import (
    cache,
    familiarity,
    fresh,
    parity,
    preflight,
    publish,
    report,
    triggers,
)
from visionloop_training.classes import notes
from visionloop_training.config import TrainingConfig
from visionloop_training.cores import usable_cores
from visionloop_training.costs import measured_costs
from visionloop_training.data import Blobs, Dataset, dataset
from visionloop_training.distributed import Workers
from visionloop_training.export import Session
from visionloop_training.fast_lane import FastLane
from visionloop_training.lanes import FullLane, Lane, Learned, Surroundings, open_checkpoints
from visionloop_training.looks import earlier_looks
from visionloop_training.made import Made, same_training
from visionloop_training.search import stage as search
from visionloop_training.search.record import SearchRecord
from visionloop_training.search.table import as_json as search_json
from visionloop_training.stable import Version, full_version
from visionloop_training.stable import stable as stable_version
from visionloop_training.stop import Stop
from visionloop_training.tasks import Task, check_same_task, task_of
from visionloop_training.triggers import Asked, Decision, Situation
from visionloop_training.verdict import Beside, Verdict
from visionloop_training.watch import Watch

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What one run is asked to do."""

    store: ObjectStore
    dataset: str
    model: str
    config: TrainingConfig
    cache: Path
    snapshot: str = "latest"
    promote: bool = True
    force: bool = False
    again: bool = False
    lane: Asked = "full"
    if_needed: bool = False  # train only where a trigger says so
    check_only: bool = False  # end after the checks that come before the first epoch
    search_seconds: float = 0.0  # spent on better settings first
    who: str = ""
    checkpoint_seconds: float = 300.0
    stop: Stop = field(default_factory=Stop)
    workers: Workers = field(default_factory=Workers)
    watch: Watch = field(default_factory=Watch)


@dataclass(frozen=True, slots=True)
class Result:
    """What a run did. Without a version there was nothing new to learn."""

    version: int | None
    promoted: bool
    snapshot: str
    stable: int | None
    decision: Decision
    verdict: Verdict | None = None
    conflict: str = ""
    pinned: str = ""  # who keeps stable where it is, and why
    metrics: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # on classes, for people
    searched: SearchRecord | None = None
    checked: list[str] = field(default_factory=list)  # by `check_only`
    summary: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "version": self.version,
            "promoted": self.promoted,
            "nothing_new": self.decision.lane is None,
            "decision": self.decision.as_json(),
            "notes": self.notes,
            "stable": self.stable,
            "snapshot": self.snapshot,
            "verdict": self.verdict.as_json() if self.verdict else None,
            "conflict": self.conflict,
            "pinned": self.pinned,
            "metrics": self.metrics,
            **({"checked": self.checked} if self.checked else {}),
            **({"search": search_json(self.searched)} if self.searched else {}),
            **self.summary,
            "timings": self.timings,
        }


def run(request: Request) -> Result | None:
    """Trains, proves, judges, publishes and (if it may) promotes one version.

    None in the processes that help the leading one to train. Raises VisionloopError for anything
    that the user or the operator must act on.
    """
    config, repository = request.config, ModelRepository(request.store)
    if request.search_seconds:
        search.check(request.lane, request.workers)
    if request.force and config.gate.mode == "manual":
        raise ConfigurationError(
            "--force promotes and gate.mode=manual never does; leave one of them out", field="force"
        )
    clock = Clock(request)
    torch.set_num_threads(config.threads or max(1, usable_cores() // request.workers.local))
    repository.versions(request.model)  # refuses a bad model name before any work

    with clock("snapshot"):
        snapshots = SnapshotRepository(request.store)
        # One process chooses: a snapshot that is cut meanwhile must not part them.
        chosen = request.workers.same(
            lambda: snapshots.manifest(request.dataset, request.snapshot).id
        )
        snapshot = snapshots.read(request.dataset, chosen)
        data = dataset(snapshot)
        task = task_of(data, config)
        before = repository.aliases(request.model)  # what a promotion will be conditional on
        stable = stable_version(request.store, request.model, before, request.cache)
        check_same_task(data, stable)
        blobs = Blobs(request.store, request.cache / "blobs")
        decision = _decide(request, data, snapshot, stable, blobs)
        if decision.lane is None:
            number = stable.bundle.version if stable else None
            return Result(None, False, data.snapshot, number, decision)
        if decision.lane == "fast" and not request.workers.leads:
            return None  # there is nothing to share out
        _log.info("snapshot %s: %s", data.snapshot[:19], _sizes(data))
        _log.info("lane %s: %s", decision.lane, decision.reason)

    with clock("preflight"):
        told = notes(data, stable.class_ids if stable else None)
        for note in told:
            _log.warning("%s", note)
        subject = preflight.Subject(
            request.store, data, config, request.cache, blobs, request.workers, stable
        )
        checked = json.loads(request.workers.same(lambda: json.dumps(preflight.check(subject))))
        if request.check_only:
            number = stable.bundle.version if stable else None
            return Result(None, False, data.snapshot, number, decision, notes=told, checked=checked)

    searched = None
    if request.search_seconds and decision.lane == "full":
        with clock("search"):
            found = search.best(
                data, config, _around(request, blobs), request.store, request.model,
                request.checkpoint_seconds, request.search_seconds,
            )  # fmt: skip
            searched = found.record
        request = replace(request, config=found.config)
        config = request.config

    lane = _lane(request, decision, data, stable, blobs)
    with clock("backbone"):
        lane.load()

    with clock("fit"):
        learned = lane.fit()
    if not request.workers.leads:
        return None

    with clock("calibrate"):
        task.calibrate(learned.val_logits.numpy())

    with tempfile.TemporaryDirectory(prefix="visionloop-train-") as temporary:
        folder, preprocessing = Path(temporary), lane.preprocessing
        with clock("export"):
            path = folder / publish.GRAPH
            expected = lane.export(path, task.link, properties(data))
            session = Session(path, torch.get_num_threads())

        with clock("familiarity"):
            session, distance = familiarity.add(
                path, session, data, blobs, preprocessing, config.not_sure.familiar
            )

        with clock("parity"):
            golden = publish.golden_items(data, config.parity.images)
            images = blobs.prepared([item.sha256 for item in golden], preprocessing)
            limit = config.parity.max_probability_difference
            proof = parity.prove(expected, session, images, limit)
            answers = session.batched(images)["probabilities"]
            publish.write_golden(folder, golden, answers, blobs)

        with clock("evaluate"):
            task.evaluate(session, blobs, preprocessing)
            fresh.write_sketch(folder, data, session, preprocessing, blobs)

        with clock("gate"):
            costs = measured_costs(path, session, preprocessing, stable, blobs, golden[0])
            looks = earlier_looks(repository, request.model, data.name)
            verdict = task.decide(stable, blobs, Beside(proof, costs, looks))
            verdict = replace(verdict, notes=[*verdict.notes, *told])
            _log.info("gate: %s", verdict.reason)

        with clock("publish"):
            run_id = publish.new_run_id()
            version = repository.claim(request.model, run_id)
            document = report.document(
                model=request.model,
                version=version,
                data=data,
                config=config,
                origin=lane.origin,
                fitted=learned,
                parity=proof,
                verdict=verdict,
                parts=task.report(verdict, distance),
                searched=searched,
                features_computed=lane.computed,
                timings=clock.seconds,
            )
            report.write(folder / "report", document, blobs)
            fields = publish.bundle_fields(
                folder=folder,
                model=request.model,
                version=version,
                run_id=run_id,
                parent_version=stable.bundle.version if stable else None,
                data=data,
                config=config,
                origin=lane.origin,
                made=Made.here(request.workers.count),
                preprocessing=preprocessing,
                session=session,
                parity=proof,
            )
            bundle = task.bundle(fields, proof, distance)
            repository.publish(bundle, folder)
            lane.finished()
            if searched is not None:
                found.file.remove()

    promoted, conflict = _promote(request, repository, bundle, before, verdict)
    cache.trim(request.cache)
    before_now = stable.bundle.version if stable else None
    return Result(
        version=bundle.version,
        promoted=promoted,
        snapshot=data.snapshot,
        stable=bundle.version if promoted else before_now,
        decision=decision,
        verdict=verdict,
        conflict=conflict,
        pinned=pinned_words(request.model, before.aliases),
        metrics=bundle.metrics,
        notes=told,
        searched=searched,
        summary=_summary(data, learned, task, proof, lane),
        timings=clock.seconds,
    )


class Clock:
    """Wall seconds by stage. Between stages a run can be stopped."""

    def __init__(self, request: Request) -> None:
        self.seconds: dict[str, float] = {}
        self._request = request

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        stop = self._request.stop
        if self._request.workers.stopping:
            stop.tell()
        stop.check(f"before the stage {stage}")
        self._request.watch.stage(stage)
        started = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - started, 3)
        _log.info("%s: %.1f s", stage, self.seconds[stage])


def _decide(
    request: Request, data: Dataset, now: Snapshot, stable: Version | None, blobs: Blobs
) -> Decision:
    """Whether to train, and by which lane; the leading process decides for all."""

    def decided() -> str:
        if request.again:
            return json.dumps(triggers.asked_for(request.lane, stable).as_json())
        full = full_version(request.store, stable, request.cache) if stable else None
        searched = request.search_seconds > 0
        situation = Situation(
            asked=request.lane,
            data=data,
            now=now,
            stable=stable,
            full=full,
            blobs=blobs,
            config=request.config.triggers,
            same_config=full is not None
            and same_training(full.bundle, request.config, searched=searched),
        )
        weigh = triggers.weigh if request.if_needed else triggers.anything_new
        return json.dumps(weigh(situation).as_json())

    return Decision.of(json.loads(request.workers.same(decided)))


def _around(request: Request, blobs: Blobs) -> Surroundings:
    return Surroundings(blobs, request.cache, request.stop, request.workers, request.watch)


def _lane(
    request: Request, decision: Decision, data: Dataset, stable: Version | None, blobs: Blobs
) -> Lane:
    around = _around(request, blobs)
    if decision.lane == "fast" and stable is not None:
        return FastLane(data, request.config, around, stable)
    checkpoints = open_checkpoints(request.store, request.model, request.checkpoint_seconds)
    return FullLane(data, request.config, around, checkpoints)


def _promote(
    request: Request,
    repository: ModelRepository,
    bundle: ClassifierBundle,
    before: CurrentAliases,
    verdict: Verdict,
) -> tuple[bool, str]:
    """Moves stable if the gate or --force says so and nobody pinned it; (moved, words about a lost
    race)."""
    if not request.promote or verdict.mode == "manual":
        return False, ""
    if not (verdict.passed or request.force):
        return False, ""
    if before.aliases.pinned is not None:
        return False, ""
    why = f"gate passed: {verdict.reason}"
    if not verdict.passed:
        why = f"forced against the gate's verdict: {verdict.reason}"
    try:
        repository.promote(
            request.model,
            bundle.version,
            expected=before,
            who=request.who or publish.default_who(),
            why=why,
            metrics=bundle.metrics,
        )
    except ConflictError as error:
        return False, str(error)
    return True, ""


def properties(data: Dataset) -> dict[str, str]:
    """What model.onnx says about itself."""
    return {
        "visionloop.dataset": data.name,
        "visionloop.snapshot": data.snapshot,
        "visionloop.labels": ",".join(data.class_ids),
    }


def _sizes(data: Dataset) -> str:
    return (
        f"{len(data.train)} train, {len(data.val)} val, {len(data.test)} test images, "
        f"{len(data.class_ids)} classes"
    )


def _summary(
    data: Dataset, learned: Learned, task: Task, proof: parity.Parity, lane: Lane
) -> dict[str, Any]:
    return {
        "lane": lane.origin.lane,
        "train_images": len(data.train),
        "val_images": len(data.val),
        "test_images": len(data.test),
        **task.summary(),
        "parity_max_abs_probability_difference": proof.max_probability_difference,
        "features_computed": lane.computed,
        "kept_epoch": learned.kept_epoch,
    }
