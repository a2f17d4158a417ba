"""Writes the report's files into the bundle's folder."""

import json
from pathlib import Path
from typing import Any

from visionloop_training.data import Blobs


def write(folder: Path, document: dict[str, Any], blobs: Blobs) -> None:
    """report.json, gate.json and report.html in `folder`."""
    del blobs
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    (folder / "gate.json").write_text(json.dumps(document["gate"], indent=1), encoding="utf-8")
