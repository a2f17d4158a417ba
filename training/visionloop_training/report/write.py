"""Writes the report's files into the bundle's folder: JSON for tools, one page for people."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from visionloop_training.data import Blobs
from visionloop_training.report import plots

MISTAKES = 24
_THUMBNAIL = 144  # pixels


def write(folder: Path, document: dict[str, Any], blobs: Blobs) -> None:
    """report.json, gate.json and report.html in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    (folder / "gate.json").write_text(json.dumps(document["gate"], indent=1), encoding="utf-8")
    (folder / "report.html").write_text(page(document, blobs), encoding="utf-8")


def page(document: dict[str, Any], blobs: Blobs) -> str:
    """The page: one file, no script, nothing fetched from anywhere."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("visionloop_training.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share, digits=1: f"{100 * share:.{digits}f} %"
    calibration, evaluation = document["calibration"], document["evaluation"]
    return environment.get_template("page.html.j2").render(
        d=document,
        e=evaluation,
        names={label["id"]: label["name"] for label in document["labels"]},
        curves=plots.loss_curves(document["fit"]["curves"], document["fit"]["kept_epoch"]),
        reliability=plots.reliability(
            [
                ("val, before", calibration["reliability_before"]),
                ("val, after", calibration["reliability_after"]),
                ("test", evaluation["reliability"]),
            ]
        ),
        largest=max(max(row) for row in evaluation["confusion"]) or 1,
        mistakes=_mistakes(document, blobs),
        mistakes_total=sum(p["label"] != p["predicted"] for p in document["predictions"]),
        seconds=sum(document["timings"].values()),
    )


def _mistakes(document: dict[str, Any], blobs: Blobs) -> list[dict[str, Any]]:
    """The wrong answers the model was surest of: label noise shows here first."""
    wrong = [p for p in document["predictions"] if p["label"] != p["predicted"]]
    wrong.sort(key=lambda p: -max(p["probabilities"]))
    return [
        {**p, "sure": max(p["probabilities"]), "picture": _thumbnail(p["sha256"], blobs)}
        for p in wrong[:MISTAKES]
    ]


def _thumbnail(sha256: str, blobs: Blobs) -> str:
    image = Image.fromarray(blobs.decoded(sha256))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    output = io.BytesIO()
    image.save(output, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(output.getvalue()).decode()
