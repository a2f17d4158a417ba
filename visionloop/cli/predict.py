"""`visionloop predict` and `visionloop feedback`: ask the inference service from the command line,
and tell it what an image truly shows. Needs no extra."""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from visionloop.bulk import recognize_all
from visionloop.cli.connection import credentials, token
from visionloop.cli.image_files import IMAGE_SUFFIXES, images_below
from visionloop.cli.output import Output
from visionloop.cli.prediction_table import table
from visionloop.client import IMAGES_PER_REQUEST, Client, Recognition, ScoredLabel
from visionloop.errors import ConfigurationError, NotFoundError

_DOUBTS = {"unfamiliar": "not sure: unlike what the model was trained for"}


def predict(options: argparse.Namespace, output: Output) -> int:
    """Prints one line per image; exit code 65 when some image was refused."""
    if options.csv and output.as_json:
        raise ConfigurationError("--csv and --json exclude each other; leave one out", field="csv")
    images = list(_images(options.images))
    refused = 0
    with open_client(options) as client:
        results = zip(images, _recognized(client, options, images, output), strict=True)
        if options.csv:
            for line, error in table(results, options.top_k):
                output.text(line)
                if error:
                    output.note(error)
                    refused += 1
        else:
            told = list(results)
            _tell(told, output)
            for path, result in told:
                if result.error is not None:
                    output.note(f"{path}: {result.error}")
                    refused += 1
    return 65 if refused else 0


def _images(named: Sequence[str]) -> Iterator[str]:
    """The files themselves, and the images below folders, in order."""
    for name in named:
        if not name or not Path(name).is_dir():
            yield name
            continue
        found = images_below(Path(name))
        if not found:
            raise ConfigurationError(
                f"there is no image below {name}; taken are {', '.join(sorted(IMAGE_SUFFIXES))}",
                field="images",
            )
        yield from map(str, found)


def _tell(results: Sequence[tuple[str, Recognition]], output: Output) -> None:
    """As a table for people, or as JSON."""
    answered = [pair for pair in results if pair[1].error is None]
    if answered:
        output.table(
            ["image", "what it shows", "version"],
            [[path, _shown(result), result.version] for path, result in answered],
        )
    output.result(
        [
            {
                "image": path,
                "model": result.model,
                "version": result.version,
                "multi_label": result.multi_label,
                "labels": [_plain(label) for label in result.labels],
                "not_sure": result.not_sure,
                "not_sure_reason": result.not_sure_reason,
                "prediction_id": result.prediction_id,
                "error": str(result.error) if result.error else None,
            }
            for path, result in results
        ]
    )


def _shown(result: Recognition) -> str:
    """For people. Of a model of any number of classes, those that the image shows stand first."""
    doubt = f" ({_DOUBTS.get(result.not_sure_reason, 'not sure')})" if result.not_sure else ""
    if result.multi_label:
        others = [label for label in result.labels if not label.present]
        beside = f" (below their thresholds: {_scored(others)})" if others else ""
        return (_scored(result.present) or "none of its classes") + doubt + beside
    return _scored(result.labels) + doubt


def _plain(label: ScoredLabel) -> dict[str, object]:
    """As JSON; what one class an image has no use for is left out."""
    return {name: value for name, value in asdict(label).items() if value is not None}


def _scored(labels: Sequence[ScoredLabel]) -> str:
    return ", ".join(f"{label.name} {label.probability:.3f}" for label in labels)


def feedback(options: argparse.Namespace, output: Output) -> int:
    """Prints the feedback's id once the service has stored it for good."""
    with open_client(options) as client:
        receipt = client.submit_feedback(
            options.prediction_id,
            class_id=options.class_id,
            class_ids=options.class_ids,
            image=options.image,
            image_sha256=options.image_sha256,
            note=options.note,
            feedback_id=options.id,
        )
    before = "" if receipt.created else " (it was there before)"
    output.line(f"feedback {receipt.feedback_id} is stored{before}")
    if receipt.unknown_class_ids:
        named = ", ".join(map(repr, receipt.unknown_class_ids))
        output.note(
            f"no loaded version of the model knows {named}: it takes effect if the dataset does; "
            "else an administrator finds it under Refused feedback"
        )
    output.result(asdict(receipt))
    return 0


def open_client(options: argparse.Namespace) -> Client:
    """A client as the flags and the environment say. Raises ConfigurationError."""
    return Client(
        options.target,
        timeout=options.timeout,
        credentials=credentials(options),
        server_name=options.tls_server_name,
        token=token(),
    )


def _recognized(
    client: Client, options: argparse.Namespace, images: Sequence[str], output: Output
) -> Iterable[Recognition]:
    """One result per image: by one call for a few, by streams for many, as they come."""
    asked = {"model": options.model, "version": options.model_version, "top_k": options.top_k}
    if len(images) <= IMAGES_PER_REQUEST:
        return client.recognize(images, **asked)
    for path in images:  # a mistyped path is better told before thousands of images are sent
        if not Path(path).exists():
            raise NotFoundError(f"there is no file {path}; check the path")
    return recognize_all(client, images, tell=output.note, **asked)
