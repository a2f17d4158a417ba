"""One training run, from snapshot to promoted version, readable from top to bottom.

    snapshot → fit → calibrate → export → prove parity → evaluate (the ONNX) → gate → publish

`run` is the order; each stage is a function below, and its work a module. Nothing reaches the store
before the model has passed its parity proof and has been scored, and nothing is visible there
before bundle.json. What a run like it has published and judged before is not made again.
"""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from visionloop.aliases import pinned_words
from visionloop.disk_space import temporary_folder
from visionloop.repository import file_entry
from visionloop.version_numbers import VersionNumbers
from visionloop_training import (
    cache,
    familiarity,
    fresh,
    half_precision,
    parity,
    preflight,
    publish,
    report,
    sample_size,
    triggers,
)
from visionloop_training.candidate import Candidate, Claim
from visionloop_training.classes import notes
from visionloop_training.clock import Clock
from visionloop_training.cores import usable_cores
from visionloop_training.costs import measured_costs
from visionloop_training.data import Dataset
from visionloop_training.earlier_verdict import JudgedVersion, judged_before
from visionloop_training.export import Session
from visionloop_training.fast_lane import FastLane
from visionloop_training.job import Job, opened
from visionloop_training.lanes import FullLane, Lane, Learned, open_checkpoints
from visionloop_training.looks import Judgement, earlier_looks
from visionloop_training.machine import Machine
from visionloop_training.promotion import promote
from visionloop_training.request import Request
from visionloop_training.result import Result, summary
from visionloop_training.search import stage as search
from visionloop_training.stable import full_version, same_training
from visionloop_training.triggers import Decision, Situation
from visionloop_training.verdict import Beside, Verdict

if TYPE_CHECKING:
    from visionloop_training.search.trials import Found

_log = logging.getLogger(__name__)


def run(request: Request) -> Result | None:
    """Trains, proves, judges, publishes and (if it may) promotes one version.

    None in the processes that help the leading one to train. Raises VisionloopError for anything
    that the user or the operator must act on.
    """
    request.check()
    clock, leads = Clock(request), request.workers.leads
    torch.set_num_threads(request.config.threads or max(1, usable_cores() // request.workers.local))
    with clock("snapshot"):
        job = opened(request, clock)
        decision = _decision(job)
    if decision.lane is None:
        return Result(None, False, job.data.snapshot, job.stable_number, decision)
    if decision.lane == "fast" and not leads:
        return None  # there is nothing to share out
    told, checked = _preflight(job)
    if request.check_only:
        number = job.stable_number
        return Result(None, False, job.data.snapshot, number, decision, notes=told, checked=checked)
    job, found = _searched(job, decision)
    lane = _lane(job, decision)
    with clock("backbone"):
        lane.load()
    already, judged = _judged_before(job, lane)
    if not already:
        judged = _made(job, lane, found, told)
    if judged is None:  # this process only helps
        if request.workers.local_rank == 0:  # the first on a node of its own, with its own cache
            cache.trim(request.cache)
        return None
    bundle, verdict = judged.bundle, judged.verdict
    promoted, conflict = promote(job.request, bundle, job.before, verdict)
    if not conflict:  # else the next run judges what this one learned against who won
        # Not before: a run that is killed in between goes on from here, and learns nothing twice.
        lane.finished()
        if found is not None:
            found.ended(bundle.version, promoted=promoted)
    cache.trim(request.cache)
    numbers = VersionNumbers(request.store, request.model)
    return Result(
        version=bundle.version,
        promoted=promoted,
        snapshot=job.data.snapshot,
        stable=bundle.version if promoted else job.stable_number,
        decision=decision,
        verdict=verdict,
        already_judged=already,
        timed_again=judged.timed_again,
        conflict=conflict,
        pinned=pinned_words(request.model, job.before.aliases),
        report=f"{request.store.url}/{numbers.folder(bundle.version)}report/report.html",
        metrics=bundle.metrics,
        notes=told,
        searched=found.record if found else None,
        summary=summary(judged.figures),
        timings=clock.seconds,
    )


def _decision(job: Job) -> Decision:
    """Whether to train, and by which lane; the leading process decides for all."""
    request, stable = job.request, job.stable

    def decided() -> str:
        if request.again:
            return json.dumps(triggers.asked_for(request.lane, stable).as_json())
        full = full_version(request.store, stable, request.cache) if stable else None
        searched = request.search_seconds > 0
        situation = Situation(
            asked=request.lane,
            data=job.data,
            now=job.snapshot,
            stable=stable,
            full=full,
            blobs=job.blobs,
            config=request.config.triggers,
            same_config=full is not None
            and same_training(full.bundle, request.config, searched=searched),
        )
        weigh = triggers.weigh if request.if_needed else triggers.anything_new
        return json.dumps(weigh(situation).as_json())

    decision = Decision.of(json.loads(request.workers.leaders_answer(decided)))
    if decision.lane is not None:
        _log.info("snapshot %s: %s", job.data.snapshot[:19], _sizes(job.data))
        _log.info("lane %s: %s", decision.lane, decision.reason)
    return decision


def _preflight(job: Job) -> tuple[list[str], list[str]]:
    """What people should know of classes and gate before it begins, and what was found in order."""
    request, stable = job.request, job.stable
    with job.clock("preflight"):
        told = notes(job.data, stable.class_names if stable else None)
        if request.workers.leads:
            told += sample_size.notes(job.data, stable, request.config.gate)
        for note in told:
            _log.warning("%s", note)
        subject = preflight.Subject(
            request.store, job.data, request.config, request.cache, job.blobs, request.workers,
            stable,
        )  # fmt: skip
        checked = request.workers.leaders_answer(lambda: json.dumps(preflight.check(subject)))
    return told, json.loads(checked)


def _searched(job: Job, decision: Decision) -> "tuple[Job, Found | None]":
    """The job with better settings, where time is given to look for them."""
    request = job.request
    if not request.search_seconds:
        return job, None
    if decision.lane == "fast":
        _log.warning("the fast lane only makes a new head: nothing to search, --search is left out")
        return job, None
    with job.clock("search"):
        found = search.best(
            job.data, request.config, job.around, request.store, request.model,
            request.checkpoint_seconds, request.search_seconds, again=request.again,
        )  # fmt: skip
    return replace(job, request=replace(request, config=found.config)), found


def _lane(job: Job, decision: Decision) -> Lane:
    request = job.request
    if decision.lane == "fast" and job.stable is not None:
        return FastLane(job.data, request.config, job.around, job.stable)
    checkpoints = open_checkpoints(request.store, request.model, request.checkpoint_seconds)
    return FullLane(job.data, request.config, job.around, checkpoints)


def _judged_before(job: Job, lane: Lane) -> tuple[bool, JudgedVersion | None]:
    """Whether a version is there that this run would only make and judge again; the leading process
    looks for all, and has it."""
    found: JudgedVersion | None = None

    def look() -> str:
        nonlocal found
        if not job.request.again:
            found = judged_before(job, lane)
        return "" if found is None else str(found.bundle.version)

    number = job.request.workers.leaders_answer(look)
    if number:
        _log.info(
            "version %s was made of this snapshot with this configuration and judged against "
            "today's stable version; nothing is trained (--again trains anyway)", number,
        )  # fmt: skip
    return bool(number), found


def _made(job: Job, lane: Lane, found: "Found | None", told: list[str]) -> JudgedVersion | None:
    """A new version: learned, proven, judged and published; None in a process that only helps."""
    with job.clock("fit"):
        learned = lane.fit()
    if not job.request.workers.leads:
        return None
    with job.clock("calibrate"):
        job.task.calibrate(learned.val_logits.numpy())
    with temporary_folder("visionloop-train-") as folder:
        candidate = _proven(job, lane, learned, found, folder)
        verdict = _judged(job, candidate, told)
        return _published(job, candidate, verdict)


def _proven(
    job: Job, lane: Lane, learned: Learned, found: "Found | None", folder: Path
) -> Candidate:
    """model.onnx in `folder`, and the proof that it answers as the network does."""
    clock, data, blobs = job.clock, job.data, job.blobs
    config, preprocessing = job.request.config, lane.preprocessing
    with clock("export"):
        path = folder / publish.GRAPH
        network = lane.export(path, job.task.link, publish.properties(data))
        session = Session(path, torch.get_num_threads())
    with clock("familiarity"):
        session, distance, known = familiarity.add(
            path, session, data, blobs, preprocessing, config.not_sure.familiar
        )
    with clock("parity"):
        golden = publish.golden_items(data, config.parity.images)
        images = blobs.prepared([item.sha256 for item in golden], preprocessing)
        proof = parity.prove(network, session, images, config.parity.max_probability_difference)
        answers = session.batched(images)["probabilities"]
        publish.write_golden(folder, golden, answers, blobs)
    half = None
    if half_precision.wanted(config.export, lane):
        with clock("half-precision"):
            half = half_precision.add(
                folder / publish.HALF, lane, job.task.link, publish.properties(data), known,
                session, publish.golden_items(data, max(len(golden), half_precision.IMAGES)), blobs,
                config.export.half_max_probability_difference,
            )  # fmt: skip
    return Candidate(
        data=data,
        config=config,
        machine=Machine.here(job.request.workers.count),
        lane=lane,
        learned=learned,
        searched=found.record if found else None,
        folder=folder,
        session=session,
        distance=distance,
        golden=golden,
        parity=proof,
        half=half,
    )


def _judged(job: Job, candidate: Candidate, told: list[str]) -> Verdict:
    """The candidate's score on test, and the gate's verdict on it."""
    session, preprocessing = candidate.session, candidate.lane.preprocessing
    with job.clock("evaluate"):
        job.task.evaluate(session, job.blobs, preprocessing)
        fresh.write_sketch(candidate.folder, job.data, session, preprocessing, job.blobs)
    with job.clock("gate"):
        graph, shown = candidate.folder / publish.GRAPH, candidate.golden[0]
        costs = measured_costs(graph, session, preprocessing, job.stable, job.blobs, shown)
        now = Judgement(file_entry(graph).sha256, job.stable_number)
        looks = earlier_looks(job.repository, job.request.model, job.data.name, now)
        beside = Beside(candidate.parity, costs, looks)
        verdict = job.task.decide(job.stable, job.blobs, beside)
        _log.info("gate: %s", verdict.reason)
    return replace(verdict, notes=[*verdict.notes, *told])


def _published(job: Job, candidate: Candidate, verdict: Verdict) -> JudgedVersion:
    """The new version, with its report."""
    with job.clock("publish"):
        model, run_id = job.request.model, publish.new_run_id()
        version = job.repository.claim(model, run_id)
        claim = Claim(model, version, run_id, job.stable_number)
        parts = job.task.report(verdict, candidate.distance)
        document = report.document(candidate, claim, verdict, parts, job.clock.seconds)
        report.write(candidate.folder / "report", document, job.task.answers(), job.blobs)
        fields = publish.bundle_fields(candidate, claim, job.task.headline(candidate.parity))
        bundle = job.task.bundle(fields, candidate.distance)
        job.repository.publish(bundle, candidate.folder)
    return JudgedVersion(bundle, verdict, document)


def _sizes(data: Dataset) -> str:
    return (
        f"{len(data.train)} train, {len(data.val)} val, {len(data.test)} test images, "
        f"{len(data.class_ids)} classes"
    )
