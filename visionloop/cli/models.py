"""`visionloop models list`, `show`, `report` and `history`: look at versions and their aliases."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Final

from visionloop.aliases import Aliases, AliasMove
from visionloop.bundle import (
    Bundle,
    ClassificationBundle,
    ClassifierBundle,
    MultiLabelBundle,
    TensorsBundle,
)
from visionloop.cli.alias_moves import target
from visionloop.cli.model_scores import score
from visionloop.cli.output import Output
from visionloop.cli.store import open_from
from visionloop.cli.tensors import tensor_facts
from visionloop.errors import CorruptError, InvalidInputError, VisionloopError
from visionloop.flags import check_above_zero
from visionloop.repository import ModelRepository

REPORT_PAGE: Final = "report/report.html"
REPORT_FIGURES: Final = "report/report.json"
REPORT_PREDICTIONS: Final = "report/predictions.parquet"


def list_models(options: argparse.Namespace, output: Output) -> int:
    """Every version of every model with its aliases and the score that its gate compares."""
    repository = ModelRepository(open_from(options))
    rows = [row for model in repository.models() for row in _summaries(repository, model)]
    output.result(rows)
    if not rows:
        output.line(
            "no model versions in this store yet; train one (visionloop-train --help) or add an "
            "ONNX file (visionloop models add --help)"
        )
        return 0
    headers = list(rows[0])
    output.table(headers, [list(row.values()) for row in rows])
    return 0


def _summaries(repository: ModelRepository, model: str) -> list[dict[str, object]]:
    try:
        aliases = repository.aliases(model).aliases
    except CorruptError as error:  # which must not hide the other models
        return [
            _summary(repository, model, version, f"unreadable: {error}")
            for version in repository.versions(model)
        ]
    return [
        _summary(repository, model, version, _alias_names(aliases, version))
        for version in repository.versions(model)
    ]


def _summary(
    repository: ModelRepository, model: str, version: int, named: str
) -> dict[str, object]:
    row: dict[str, object] = {"model": model, "version": version, "alias": named or None}
    try:
        bundle = repository.read(model, version)
    except VisionloopError as error:
        unknown = {"task": None, "created": None, "metric": None, "score": None}
        return row | unknown | {"origin": f"unreadable: {error}"}
    row |= {"task": bundle.task, "created": bundle.created}
    row |= {"metric": None, "score": None, "origin": None}
    if isinstance(bundle, ClassifierBundle):
        row["metric"], row["score"] = score(bundle.metrics)
        row["origin"] = bundle.provenance.snapshot[:19]
    elif isinstance(bundle, TensorsBundle):
        row["origin"] = bundle.source.file
    return row


def _alias_names(aliases: Aliases, version: int) -> str:
    names = []
    if aliases.stable == version:
        names.append("stable" if aliases.pinned is None else "stable (pinned)")
    if aliases.canary is not None and aliases.canary.version == version:
        names.append(f"canary {aliases.canary.percent:g} %")
    return ", ".join(names)


def show(options: argparse.Namespace, output: Output) -> int:
    """What one version is and where it comes from, and the model's alias history."""
    repository = ModelRepository(open_from(options))
    version = repository.resolve(options.model, options.version)
    bundle = repository.read(options.model, version)
    history = repository.history(options.model)
    output.result(
        {
            "bundle": bundle.model_dump(mode="json"),
            "history": [move.model_dump(mode="json") for move in history],
        }
    )
    output.fields(_facts(bundle, _alias_names(repository.aliases(options.model).aliases, version)))
    if isinstance(bundle, ClassifierBundle):
        output.line()
        output.table(["metric", "value"], [list(item) for item in bundle.metrics.items()])
    if history:
        output.line()
        _print_history(history, output)
    return 0


def report(options: argparse.Namespace, output: Output) -> int:
    """What training said of a version: a page, with --json the figures that it shows, or a table of
    what the model answered to each test image."""
    repository = ModelRepository(open_from(options))
    if options.predictions and output.as_json:
        raise InvalidInputError(
            "--predictions is a table in Parquet and --json is figures; leave one of them out",
            field="predictions",
        )
    if not output.as_json and sys.stdout.isatty():
        what, file = "a page for browsers", "report.html"
        if options.predictions:
            what, file = "a table in Parquet", "predictions.parquet"
        raise InvalidInputError(
            f"that is {what}, nothing for a terminal: add > {file}", field="output"
        )
    newest = [str(number) for number in repository.versions(options.model)[-1:]]
    version = repository.resolve(options.model, options.version or (newest or ["stable"])[0])
    bundle = repository.read(options.model, version)
    if output.as_json:
        output.result(json.loads(repository.file(bundle, REPORT_FIGURES)))
    else:
        name = REPORT_PREDICTIONS if options.predictions else REPORT_PAGE
        output.raw(repository.file(bundle, name))
    return 0


def history(options: argparse.Namespace, output: Output) -> int:
    """Every move of the model's aliases, oldest first: who, why, with which score on test."""
    repository = ModelRepository(open_from(options))
    moves = repository.history(options.model)
    if not moves:
        repository.resolve(options.model, "stable")  # which says what there is instead
    if options.last is not None:
        check_above_zero("last", options.last)
        moves = moves[-options.last :]
    output.result([move.model_dump(mode="json") for move in moves])
    _print_history(moves, output)
    return 0


def _print_history(moves: Sequence[AliasMove], output: Output) -> None:
    output.table(
        ["moved", "alias", "to", "from", "metric", "score", "who", "why"],
        [[m.at, m.alias, target(m), m.previous, *score(m.metrics), m.who, m.why] for m in moves],
    )


def _facts(bundle: Bundle, alias: str) -> dict[str, object]:
    facts = {
        "model": bundle.model,
        "version": bundle.version,
        "alias": alias or None,
        "task": bundle.task,
        "created": bundle.created,
    }
    if isinstance(bundle, ClassifierBundle):
        facts |= _classifier_facts(bundle)
    elif isinstance(bundle, TensorsBundle):
        facts |= tensor_facts(bundle)
    return facts | {"size": f"{sum(file.size for file in bundle.files.values()) / 2**20:.1f} MiB"}


def _classifier_facts(bundle: ClassifierBundle) -> dict[str, object]:
    origin = bundle.provenance
    facts: dict[str, object] = {
        "classes": ", ".join(label.name for label in bundle.labels),
        "input": f"uint8 {bundle.input.height}×{bundle.input.width}×3",
        "backbone": origin.backbone,
        "lane": origin.lane if origin.lane == "full" else f"fast, body of {origin.body_version}",
        "dataset": f"{origin.dataset} {origin.snapshot[:19]}",
        "parent version": origin.parent_version,
        "in 16 bits": _half_words(bundle),
    }
    if isinstance(bundle, ClassificationBundle):
        facts["temperature"] = bundle.calibration.temperature
        facts["not sure below"] = bundle.thresholds.not_sure
        facts["unfamiliar above distance"] = bundle.thresholds.distance
        facts["unfamiliar above energy"] = bundle.thresholds.energy
    if isinstance(bundle, MultiLabelBundle):
        limits = zip(bundle.labels, bundle.thresholds.present, strict=True)
        facts["shows a class from"] = ", ".join(f"{one.name} {limit:.3g}" for one, limit in limits)
        facts["unfamiliar above distance"] = bundle.thresholds.distance
    return facts


def _half_words(bundle: ClassifierBundle) -> str | None:
    """The graph for GPUs: where servers take it, and how far its answers are off."""
    allowed = bundle.golden.max_probability_difference
    limits = {key.removeprefix("fp16/"): allowed[key] for key in allowed if key[:5] == "fp16/"}
    if bundle.half_graph not in bundle.files or not limits:
        return None
    measured = bundle.metrics.get("half_max_abs_probability_difference")
    found = "" if measured is None else f"{measured:.1e} from {bundle.graph} "
    return f"{bundle.half_graph} on {', '.join(limits)}: {found}(limit {max(limits.values()):g})"
