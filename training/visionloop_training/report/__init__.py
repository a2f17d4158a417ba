"""The evaluation report inside a bundle: report.json, gate.json and one self-contained page."""

from visionloop_training.report.document import document
from visionloop_training.report.write import write

__all__ = ["document", "write"]
