"""One training run, from snapshot to promoted version, readable from top to bottom.

    snapshot → fit → calibrate → export → prove parity → evaluate (the ONNX) → gate → publish

`run` is the order; each stage is a module. Nothing reaches the store before the model has passed
its parity proof and has been scored, and nothing is visible there before bundle.json.
"""

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import visionloop
from visionloop.bundle import ClassificationBundle
from visionloop.errors import ConflictError, CorruptError, NotFoundError, RefusedError
from visionloop.objectstore import ObjectStore
from visionloop.repository import CurrentAliases, ModelRepository
from visionloop.snapshot import SnapshotRepository
from visionloop_training import backbones, cache, gate, parity, publish, report
from visionloop_training.calibrate import calibrate
from visionloop_training.checkpoint import Checkpoints, run_key
from visionloop_training.config import TrainingConfig
from visionloop_training.cores import usable_cores
from visionloop_training.data import Blobs, Dataset, dataset
from visionloop_training.distributed import Workers
from visionloop_training.evaluate import evaluate, score
from visionloop_training.export import Graph, Session, export
from visionloop_training.features import Features
from visionloop_training.fit import Fitted, fit
from visionloop_training.network import Network
from visionloop_training.stop import Stop
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
    verdict: gate.Verdict | None = None
    conflict: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "version": self.version,
            "promoted": self.promoted,
            "nothing_new": self.version is None,
            "stable": self.stable,
            "snapshot": self.snapshot,
            "verdict": self.verdict.as_json() if self.verdict else None,
            "conflict": self.conflict,
            "metrics": self.metrics,
            **self.summary,
            "timings": self.timings,
        }


def run(request: Request) -> Result | None:
    """Trains, proves, judges, publishes and (if it may) promotes one version.

    None in the processes that help the leading one to train (torchrun). Raises VisionloopError for
    anything that the user or the operator must act on.
    """
    config, repository = request.config, ModelRepository(request.store)
    clock = Clock(request)
    torch.set_num_threads(config.threads or max(1, usable_cores() // request.workers.local))
    repository.versions(request.model)  # refuses a bad model name before any work

    with clock("snapshot"):
        snapshots = SnapshotRepository(request.store)
        # One process chooses: a snapshot that is cut meanwhile must not part them.
        chosen = request.workers.same(
            lambda: snapshots.manifest(request.dataset, request.snapshot).id
        )
        data = dataset(snapshots.read(request.dataset, chosen))
        before = repository.aliases(request.model)  # what a promotion will be conditional on
        if request.workers.leads:
            request.store.probe("models")  # now, not after an hour of training
        stable = _stable(repository, request.model, before)
        idle = request.workers.same(
            lambda: "idle" if not request.again and _nothing_new(stable, data, config) else "work"
        )
        if idle == "idle":
            return Result(None, False, data.snapshot, stable.version if stable else None)
        blobs = Blobs(request.store, request.cache / "blobs")
        _log.info("snapshot %s: %s", data.snapshot[:19], _sizes(data))

    with clock("backbone"):
        torch.manual_seed(config.seed)  # for what is not pretrained: the head, or all of it
        backbone, pixels = backbones.build(
            config.backbone.name, config.backbone.weights, config.pixels.image_size
        )
        preprocessing = pixels.preprocessing(config.pixels.image_size, config.pixels.shape)
        network = Network(
            backbone,
            preprocessing,
            classes=len(data.class_ids),
            frozen=backbone.freeze_point(config.fit.freeze),
        )

    with clock("fit"):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        network = network.to(memory_format=torch.channels_last).to(device)
        features = Features(
            network, blobs, preprocessing, config.augment, request.cache, request.stop,
            request.workers,
        )  # fmt: skip
        checkpoints = Checkpoints(
            request.store,
            request.model,
            _run_key(data, config, backbone),
            request.checkpoint_seconds,
        )
        try:
            fitted = fit(
                network, features, data, config, checkpoints, request.stop, request.workers,
                request.watch,
            )  # fmt: skip
        finally:
            checkpoints.close()
    if not request.workers.leads:
        return None

    with clock("calibrate"):
        val_labels = torch.tensor([item.label for item in data.val]).numpy()
        calibrated = calibrate(fitted.val_logits.numpy(), val_labels, config.not_sure)

    with tempfile.TemporaryDirectory(prefix="visionloop-train-") as temporary:
        folder = Path(temporary)
        with clock("export"):
            graph = Graph(fitted.network, calibrated.temperature)
            export(graph, folder / publish.GRAPH, *preprocessing.output_size, _properties(data))
            session = Session(folder / publish.GRAPH, torch.get_num_threads())

        with clock("parity"):
            golden = publish.golden_items(data, config.parity.images)
            images = blobs.prepared([item.sha256 for item in golden], preprocessing)
            limit = config.parity.max_probability_difference
            proof = parity.prove(graph, session, images, limit)
            answers = session.batched(images)["probabilities"]
            publish.write_golden(folder, golden, answers, blobs)

        with clock("evaluate"):
            scored = score(session, blobs, preprocessing, data.test)
            evaluation = evaluate(scored, data.class_ids)

        with clock("gate"):
            opponent = _opponent(request, repository, stable, data, blobs)
            seen = frozenset(item.group for item in (*data.train, *data.val))
            verdict = gate.decide(scored, evaluation, data.class_ids, seen, opponent, config.gate)
            _log.info("gate: %s", verdict.reason)

        with clock("publish"):
            document = report.document(
                data=data,
                config=config,
                fitted=fitted,
                calibrated=calibrated,
                parity=proof,
                evaluation=evaluation,
                scored=scored,
                verdict=verdict,
                features_computed=features.computed,
                timings=clock.seconds,
            )
            report.write(folder / "report", document, blobs)
            run_id = publish.new_run_id()
            bundle = publish.make_bundle(
                folder=folder,
                model=request.model,
                version=repository.claim(request.model, run_id),
                run_id=run_id,
                parent_version=stable.version if stable else None,
                data=data,
                config=config,
                backbone=backbone,
                preprocessing=preprocessing,
                session=session,
                calibrated=calibrated,
                parity=proof,
                evaluation=evaluation,
            )
            repository.publish(bundle, folder)
            checkpoints.remove()

    promoted, conflict = _promote(request, repository, bundle, before, verdict)
    cache.trim(request.cache)
    return Result(
        version=bundle.version,
        promoted=promoted,
        snapshot=data.snapshot,
        stable=bundle.version if promoted else (stable.version if stable else None),
        verdict=verdict,
        conflict=conflict,
        metrics=bundle.metrics,
        summary=_summary(data, fitted, calibrated, proof, features),
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


def _stable(
    repository: ModelRepository, model: str, before: CurrentAliases
) -> ClassificationBundle | None:
    if before.aliases.stable is None:
        return None
    bundle = repository.read(model, before.aliases.stable)
    if not isinstance(bundle, ClassificationBundle):
        raise RefusedError(
            f"stable version {bundle.version} of {bundle.model} is of the task {bundle.task!r}, so "
            "no classifier can be compared with it; train under another --model name"
        )
    return bundle


def _nothing_new(
    stable: ClassificationBundle | None, data: Dataset, config: TrainingConfig
) -> bool:
    if stable is None:
        return False
    made_of = stable.provenance
    same = (made_of.dataset, made_of.snapshot) == (data.name, data.snapshot)
    return same and made_of.config == config.model_dump(mode="json")


def _run_key(data: Dataset, config: TrainingConfig, backbone: backbones.Backbone) -> str:
    """Names the run by all that decides its weights, so that only its like goes on from it."""
    return run_key(
        {
            "snapshot": data.snapshot,
            "config": config.model_dump(mode="json", exclude={"gate", "parity", "not_sure"}),
            "backbone": backbone.weights_sha256,
            "classes": data.class_ids,
            "versions": [visionloop.__version__, torch.__version__],
        }
    )


def _opponent(
    request: Request,
    repository: ModelRepository,
    stable: ClassificationBundle | None,
    data: Dataset,
    blobs: Blobs,
) -> gate.Opponent | None:
    """The stable version's answers to the candidate's test split, from its own files."""
    if stable is None:
        return None
    folder = request.cache / "models" / stable.model / str(stable.version)
    repository.fetch(stable.model, stable.version, folder)
    session = Session(folder / stable.graph, torch.get_num_threads())
    output = stable.output("probabilities")
    if output is None:
        raise RefusedError(
            f"stable version {stable.version} of {stable.model} declares no output of kind "
            "probabilities, so no candidate can be compared with it; promote another version first"
        )
    return gate.Opponent(
        version=stable.version,
        scored=score(session, blobs, stable.preprocessing, data.test, output.name),
        class_ids=tuple(label.id for label in stable.labels),
        seen=_seen(request.store, stable),
    )


def _seen(store: ObjectStore, bundle: ClassificationBundle) -> frozenset[str] | None:
    """Groups and image digests that a version was trained and calibrated on; None when its
    snapshot is gone."""
    try:
        made_of = SnapshotRepository(store).read(
            bundle.provenance.dataset, bundle.provenance.snapshot
        )
    except (NotFoundError, CorruptError) as error:
        _log.warning("the snapshot of version %d cannot be read: %s", bundle.version, error)
        return None
    known = [row for row in made_of.rows if row.split != "test"]
    return frozenset(name for row in known for name in (row.group_id, row.sha256))


def _promote(
    request: Request,
    repository: ModelRepository,
    bundle: ClassificationBundle,
    before: CurrentAliases,
    verdict: gate.Verdict,
) -> tuple[bool, str]:
    """Moves stable if the gate or --force says so; (moved, words about a lost race)."""
    if not request.promote or not (verdict.passed or request.force):
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


def _properties(data: Dataset) -> dict[str, str]:
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
    data: Dataset,
    fitted: Fitted,
    calibrated: Any,
    proof: parity.Parity,
    features: Features,
) -> dict[str, Any]:
    return {
        "train_images": len(data.train),
        "val_images": len(data.val),
        "test_images": len(data.test),
        "ece_before": calibrated.ece_before,
        "ece_after": calibrated.ece_after,
        "not_sure": calibrated.not_sure,
        "parity_max_abs_probability_difference": proof.max_probability_difference,
        "features_computed": features.computed,
        "kept_epoch": fitted.kept_epoch,
    }
