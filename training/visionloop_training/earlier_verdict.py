"""A version that a run like this one made before: published, judged, and not promoted since.

The same command on the same snapshot makes the same candidate. Where one is there that the gate has
judged against today's stable version, the run goes on from its verdict: a run that was killed after
it published, or that found no room for the alias, is finished, and one that was refused is told so
again. Training it once more would cost the time, and ask the test images a second time: on a GPU,
where no two runs give the same bits, each night would be another chance to pass by luck.

Latency is another matter: it says as much of the machine, which was busy that night, as of the
model. A candidate that was refused for it alone is timed again, beside stable, and nothing else.
"""

import json
import logging
from dataclasses import dataclass, replace
from typing import Any

from visionloop.bundle import ClassifierBundle
from visionloop.errors import CorruptError, NotFoundError
from visionloop_training import gate_limits, half_precision, publish, software
from visionloop_training.costs import measured_costs
from visionloop_training.job import Job
from visionloop_training.lanes import Lane
from visionloop_training.report.document import FORMAT_VERSION
from visionloop_training.stable import Version, classifiers, same_training
from visionloop_training.verdict import Verdict

_VERDICT, _FIGURES = "report/gate.json", "report/report.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JudgedVersion:
    """A published version, with what its report says."""

    bundle: ClassifierBundle
    verdict: Verdict
    figures: dict[str, Any]  # report.json
    timed_again: bool = False  # the verdict has another latency than the report


def judged_before(job: Job, lane: Lane) -> JudgedVersion | None:
    """The newest version that this run would only make again; `lane` is loaded.

    None also where it was stable once: who took it back wants to see what a new run says.
    """
    for bundle in _younger(job):
        if not _same_run(bundle, job, lane):
            continue
        try:
            verdict = Verdict.of(json.loads(job.repository.file(bundle, _VERDICT)))
            figures = json.loads(job.repository.file(bundle, _FIGURES))
            if not _same_files(figures, job, lane):
                continue
        except (NotFoundError, CorruptError, LookupError, TypeError, ValueError) as error:
            _log.warning("version %d cannot be gone on from: %s", bundle.version, error)
            continue
        if _was_stable(job, bundle.version):
            return None
        found = JudgedVersion(bundle, verdict, figures)
        return _timed_again(job, found) if verdict.failed == [gate_limits.LATENCY] else found
    return None


def _timed_again(job: Job, found: JudgedVersion) -> JudgedVersion:
    """With a latency that was measured now, as in the run that made it."""
    published = Version(job.request.store, found.bundle, job.request.cache)
    graph = published.folder / found.bundle.graph
    [shown] = publish.golden_items(job.data, 1)
    costs = measured_costs(
        graph, published.session, found.bundle.preprocessing, job.stable, job.blobs, shown
    )
    check = gate_limits.latency(costs, job.request.config.gate)
    number = found.bundle.version
    _log.info("version %d was refused for its latency; timed again: %s", number, check.words)
    verdict = found.verdict.with_check(check)
    if verdict.passed:  # the report that is published says otherwise; the aliases' history tells
        verdict = replace(verdict, reason=f"{verdict.reason}; timed again: {check.words}")
    return replace(found, verdict=verdict, timed_again=True)


def _younger(job: Job) -> list[ClassifierBundle]:
    """The versions that may have been compared with stable, newest first."""
    repository, model = job.repository, job.request.model
    numbers = [n for n in repository.versions(model) if n > (job.stable_number or 0)]
    return classifiers(repository, model, sorted(numbers, reverse=True))


def _same_run(bundle: ClassifierBundle, job: Job, lane: Lane) -> bool:
    """Whether it was made from what this run is made from, by the same programs, and was judged
    against the same version."""
    made_of, origin = bundle.provenance, lane.origin
    return (
        (made_of.dataset, made_of.snapshot) == (job.data.name, job.data.snapshot)
        and made_of.parent_version == job.stable_number
        and (made_of.lane, made_of.backbone, made_of.backbone_sha256)
        == (origin.lane, origin.backbone, origin.backbone_sha256)
        and made_of.body_version == (origin.body_version or bundle.version)
        and made_of.code_version == software.code_version()
        and made_of.libraries == software.libraries()
        and same_training(bundle, job.request.config)
    )


def _same_files(figures: dict[str, Any], job: Job, lane: Lane) -> bool:
    """Whether its report is of today's format, and it has, or was refused, a 16-bit sibling where
    this run would make one: on a GPU one is made, and on a CPU with the same configuration none."""
    made = figures["half_precision"] is not None
    today = figures["format_version"] == FORMAT_VERSION
    return today and made == half_precision.wanted(job.request.config.export, lane)


def _was_stable(job: Job, number: int) -> bool:
    moves = job.repository.history(job.request.model)
    return any((move.alias, move.version) == ("stable", number) for move in moves)
