"""build/demo/report.json and report.html: what happened, in figures and pictures."""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from visionloop.demo import charts, steps
from visionloop.demo.load import Request
from visionloop.demo.programs import say
from visionloop.demo.promises import Promise, count_requests, mcnemar_worse, promises
from visionloop.demo.steps import Answer, Training

SAMPLES = 12


@dataclass(frozen=True, slots=True)
class DemoRun:
    """Everything the loop left behind."""

    images: int
    trainings: tuple[Training, Training]
    answers: list[Answer]
    requests: list[Request]
    deadline: float  # of each, in seconds
    served_version_at_end: int
    after_swap_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Scored:
    """One test item: the truth and the exported model's probabilities, in label order."""

    truth: int
    probabilities: tuple[float, ...]

    @property
    def said(self) -> int:
        """The most probable class."""
        return self.probabilities.index(max(self.probabilities))

    @property
    def right(self) -> bool:
        """Whether that is the truth."""
        return self.said == self.truth


def write_report(run: DemoRun, output: Path) -> list[str]:
    """Writes both files and prints the figures; returns the sentences of broken promises."""
    scored = [_scored(training) for training in run.trainings]
    first_test = [sha256 for sha256 in scored[0] if sha256 in scored[1]]
    pairs = [(scored[0][sha256].right, scored[1][sha256].right) for sha256 in first_test]
    worse_p = mcnemar_worse(pairs.count((True, False)), pairs.count((False, True)))
    versions = (run.trainings[0].version, run.trainings[1].version)
    counts, swapped = count_requests(
        run.requests, versions, run.trainings[1].promoted, run.after_swap_seconds
    )
    report = {
        "images": run.images,
        "rounds": [_round(training) for training in run.trainings],
        "round1_test_accuracy": {
            str(version): sum(pair[index] for pair in pairs) / max(len(pairs), 1)
            for index, version in enumerate(versions)
        },
        "round1_test_images": len(pairs),
        "round1_test_worse_p": worse_p,
        "unseen_accuracy_of_first_version": sum(a.right for a in run.answers) / len(run.answers),
        "requests": asdict(counts),
        "served_version_at_end": run.served_version_at_end,
        "seconds": run.seconds,
    }
    kept = promises(report, worse_p)
    report["promises"] = [asdict(promise) for promise in kept]
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (output / "report.html").write_text(_page(run, report, kept, scored, swapped))
    _print(report, kept, output)
    return [promise.sentence for promise in kept if not promise.kept]


def _scored(training: Training) -> dict[str, Scored]:
    """The answers to each test image, by its digest."""
    place = {label["id"]: index for index, label in enumerate(training.report["labels"])}
    return {
        item["sha256"]: Scored(place[item["label"]], tuple(item["probabilities"]))
        for item in training.predictions
    }


def _round(training: Training) -> dict[str, Any]:
    report = training.report
    return {
        "version": training.version,
        "train_images": report["images"]["train"],
        "test_images": report["images"]["test"],
        "test_accuracy": report["evaluation"]["accuracy"]["value"],
        "macro_f1": report["evaluation"]["macro_f1"]["value"],
        "ece_before": report["calibration"]["ece_before"],
        "ece_after": report["calibration"]["ece_after"],
        "train_seconds": training.seconds,
        "parity_max_abs_probability_difference": report["parity"]["max_probability_difference"],
        "label_to_serving_seconds": training.served - training.labelled,
    }


def _page(
    run: DemoRun,
    report: dict[str, Any],
    kept: Sequence[Promise],
    scored: Sequence[dict[str, Scored]],
    swapped: float,
) -> str:
    from jinja2 import Environment

    template = files("visionloop.demo").joinpath("report.html.j2").read_text()
    wrong = [answer for answer in run.answers if not answer.right][:SAMPLES]
    right = [answer for answer in run.answers if answer.right][:SAMPLES]
    return (
        Environment(autoescape=True)
        .from_string(template)
        .render(
            report=report,
            rounds=report["rounds"],
            minutes=f"{run.seconds / 60:.1f} minutes",
            promises=kept,
            panels=[
                _panel(training, items)
                for training, items in zip(run.trainings, scored, strict=True)
            ],
            latency=charts.latency(run.requests, swapped, run.trainings[0].version),
            rate=steps.LOAD_RATE,
            deadline=run.deadline,
            samples=[
                {
                    "title": "What the first version got wrong, and was corrected",
                    "answers": [_sample(answer) for answer in wrong],
                },
                {"title": "What it got right", "answers": [_sample(answer) for answer in right]},
            ],
        )
    )


def _panel(training: Training, items: dict[str, Scored]) -> dict[str, Any]:
    classes = [label["name"] for label in training.report["labels"]]
    confusion = [[0] * len(classes) for _ in classes]
    for item in items.values():
        confusion[item.truth][item.said] += 1
    bins = charts.reliability_bins(
        [max(item.probabilities) for item in items.values()],
        [item.right for item in items.values()],
    )
    return {
        "version": training.version,
        "test_images": len(items),
        "classes": classes,
        "confusion": confusion,
        "reliability": charts.reliability(bins, f"Calibration of version {training.version}"),
    }


def _sample(answer: Answer) -> dict[str, Any]:
    picture = base64.b64encode(answer.cell.path.read_bytes()).decode()
    return {
        "picture": f"data:image/png;base64,{picture}",
        "truth": answer.cell.label,
        "said": answer.label,
        "probability": answer.probability,
        "right": answer.right,
        "not_sure": answer.not_sure,
    }


def _print(report: dict[str, Any], kept: Sequence[Promise], output: Path) -> None:
    for entry in report["rounds"]:
        own = report["round1_test_accuracy"][str(entry["version"])]
        say(
            f"  version {entry['version']}: {entry['train_images']} images learned, test accuracy "
            f"{entry['test_accuracy']:.2%} of {entry['test_images']} "
            f"({own:.2%} on round 1's test), "
            f"macro F1 {entry['macro_f1']:.3f}, ECE {entry['ece_before']:.3f} → "
            f"{entry['ece_after']:.3f}, label to serving {entry['label_to_serving_seconds']:.0f} s"
        )
    requests = report["requests"]
    say(
        f"  requests: {requests['sent']} sent, {requests['failed']} failed, "
        f"{requests['during_swap']} during the swap, p50 {requests['p50_ms']:.0f} ms, "
        f"p99 {requests['p99_ms']:.0f} ms"
    )
    for promise in kept:
        say(f"  {'✓' if promise.kept else '✗'} {promise.sentence}")
    say(f"  {report['seconds'] / 60:.1f} minutes; see {output / 'report.html'}")
