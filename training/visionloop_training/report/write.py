"""Writes the report's files into the bundle's folder: JSON for tools, one page for people."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
from PIL import Image

from visionloop_training.config import TrainingConfig
from visionloop_training.data import Blobs
from visionloop_training.report import plots, predictions
from visionloop_training.report.thresholds import Curve

MISTAKES = 24
DIFFERENCES = 12  # of each kind
CONFUSIONS = 10  # pairs of classes
FEW = 30  # test images of a class, too few for its scores to say much
_LARGEST_MATRIX = 16  # classes; a larger one is folded away, the pairs above tell more
_LARGEST_SHOWN = 100  # classes; a cell takes 80 bytes of the page: 1,000 classes would be 80 MB
_THUMBNAIL = 144  # pixels


def write(folder: Path, document: dict[str, Any], answers: "pa.Table", blobs: Blobs) -> None:
    """report.json, gate.json, report.html and predictions.parquet in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    (folder / "gate.json").write_text(json.dumps(document["gate"], indent=1), encoding="utf-8")
    (folder / "report.html").write_text(page(document, blobs), encoding="utf-8")
    predictions.write(folder / predictions.FILE, answers)


def page(document: dict[str, Any], blobs: Blobs) -> str:
    """The page: one file, no script, nothing fetched from anywhere."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("visionloop_training.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share, digits=1: (
        f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"
    )
    environment.filters["points"] = lambda share: f"{100 * share:+.1f}".replace("-", "−")
    own = _of_labels if document["task"] == "multi_label" else _of_one_label
    evaluation = document["evaluation"]
    return environment.get_template("page.html.j2").render(
        d=document,
        e=evaluation,
        names={label["id"]: label["name"] for label in document["labels"]},
        few=[name for name, scores in evaluation["classes"].items() if scores["support"] < FEW],
        unequal=_unequal(evaluation["slices"]),
        seconds=sum(document["timings"].values()),
        thresholds=_thresholds(document),
        changed=_changed(document["config"], TrainingConfig().model_dump(mode="json")),
        **own(document, blobs),
    )


def _of_one_label(document: dict[str, Any], blobs: Blobs) -> dict[str, Any]:
    """What the templates show of a model of one class an image."""
    confusion = document["evaluation"]["confusion"]
    shown = confusion if len(confusion) <= _LARGEST_SHOWN else []
    return {
        "matrix": shown,
        "curves": plots.loss_curves(document["fit"]["curves"], document["fit"]["kept_epoch"]),
        "reliability": plots.reliability(_panels(document)),
        "shares": [[n / max(1, sum(row)) for n in row] for row in shown],
        "small_matrix": len(confusion) <= _LARGEST_MATRIX,
        "confusions": _confusions(document),
        "mistakes": _mistakes(document, blobs),
        "differences": _differences(document, blobs),
    }


def _of_labels(document: dict[str, Any], blobs: Blobs) -> dict[str, Any]:
    """What the templates show of a model of any number of classes an image."""
    fit, comparison = document["fit"], document["comparison"]
    kinds = ("lost", "gained") if comparison else ()
    words = ("probability of a class", "share that has it")
    return {
        "curves": plots.loss_curves(
            fit["curves"], fit["kept_epoch"], score="mean average precision"
        ),
        "reliability": plots.reliability(_panels(document), words),
        "mistakes": _mistakes(document, blobs),
        "differences": [
            {
                "kind": kind,
                "total": len(comparison[kind]),
                "images": _pictured(comparison[kind][:DIFFERENCES], blobs),
            }
            for kind in kinds
        ],
    }


def _thresholds(document: dict[str, Any]) -> dict[str, Any] | None:
    """The plot, and the colour of each class in it; None where no class can have a line."""
    found = [Curve.of(one) for one in document["thresholds"]]
    if not found:
        return None
    colours = [(one.class_id, colour) for one, colour in zip(found, plots.LINES, strict=False)]
    return {"plot": plots.thresholds(found), "colours": colours}


def _changed(config: dict[str, Any], defaults: dict[str, Any]) -> list[tuple[str, str]]:
    """(section.name, value) of the settings that preset, file and flags made another."""
    return [
        (name, json.dumps(value, ensure_ascii=False))
        for name, value in _settings(config)
        if value != dict(_settings(defaults)).get(name)
    ]


def _settings(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _panels(document: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Of the reliability diagrams."""
    return [
        ("val, before", document["calibration"]["reliability_before"]),
        ("val, after", document["calibration"]["reliability_after"]),
        ("test", document["evaluation"]["reliability"]),
    ]


def _pictured(images: list[dict[str, Any]], blobs: Blobs) -> list[dict[str, Any]]:
    return [{**image, "picture": _thumbnail(image["sha256"], blobs)} for image in images]


def _confusions(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The pairs of classes that are mixed up most often."""
    ids = [label["id"] for label in document["labels"]]
    pairs = [
        {"label": ids[row], "answer": ids[column], "images": n, "of": sum(counts)}
        for row, counts in enumerate(document["evaluation"]["confusion"])
        for column, n in enumerate(counts)
        if row != column and n
    ]
    return sorted(pairs, key=lambda pair: -pair["images"])[:CONFUSIONS]


def _unequal(slices: dict[str, Any]) -> list[str]:
    """The attributes with a gap that is more than chance."""
    return [
        name
        for name, values in slices.items()
        if any(
            value["adjusted_p_value"] is not None and value["adjusted_p_value"] < 0.05
            for value in values.values()
        )
    ]


def _mistakes(document: dict[str, Any], blobs: Blobs) -> list[dict[str, Any]]:
    """The worst of them, with pictures."""
    return _pictured(document["mistakes"]["worst"][:MISTAKES], blobs)


def _differences(document: dict[str, Any], blobs: Blobs) -> list[dict[str, Any]]:
    """Images that one of the two models gets right: those that were lost come first, and of each
    kind those that the wrong model was surest of."""
    comparison = document["comparison"]
    if comparison is None:
        return []
    told: list[dict[str, Any]] = []
    for kind, wrong in (("lost", "candidate_probability"), ("gained", "stable_probability")):
        images = sorted(comparison[kind], key=lambda image: -image[wrong])
        shown = _pictured(images[:DIFFERENCES], blobs)
        told.append({"kind": kind, "total": len(images), "images": shown})
    return told


def _thumbnail(sha256: str, blobs: Blobs) -> str:
    image = Image.fromarray(blobs.decoded(sha256))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    output = io.BytesIO()
    image.save(output, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(output.getvalue()).decode()
