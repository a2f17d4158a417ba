"""The series that the stories of the inference chart's alerts are told in: those of one pod."""

from support.alert_stories import series
from support.prometheus_rules import job

JOB = job("inference")
POD = "demo-inference-7d9c-abcde"
ON_POD = {"job": JOB, "pod": POD}  # what Prometheus adds to all that it scrapes there


def on_pod(metric: str, **labels: str) -> str:
    """A series of the pod."""
    return series(metric, **{**ON_POD, **labels})


def of_model(metric: str, **labels: str) -> str:
    """A series that the pod has for the model cells; with `pod`, another's."""
    return on_pod(metric, **{"model": "cells", **labels})


def answered(name: str, confidence: str = "sure") -> str:
    """Images of the model cells that were said to show this class."""
    return of_model("visionloop_predictions_total", **{"class": name}, confidence=confidence)
