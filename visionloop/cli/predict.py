"""`visionloop predict` and `visionloop feedback`: ask the inference service from the command line,
and tell it what an image truly shows. Needs no extra."""

import argparse
import os
import ssl
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import grpc

from visionloop.cli.output import Output
from visionloop.client import IMAGES_PER_REQUEST, Client, Recognition
from visionloop.errors import ConfigurationError, NotFoundError

TOKEN_VARIABLE = "VISIONLOOP_TOKEN"  # noqa: S105 - the name of a variable


def predict(options: argparse.Namespace, output: Output) -> int:
    """Prints one line per image; exit code 65 when some image was refused."""
    with open_client(options) as client:
        results = _recognized(client, options)
    rows = []
    for path, result in zip(options.images, results, strict=True):
        if result.error is not None:
            output.note(f"{path}: {result.error}")
            continue
        best = ", ".join(f"{label.name} {label.probability:.3f}" for label in result.labels)
        rows.append([path, best + (" (not sure)" if result.not_sure else ""), result.version])
    if rows:
        output.table(["image", "what it shows", "version"], rows)
    output.result(
        [
            {
                "image": path,
                "model": result.model,
                "version": result.version,
                "labels": [asdict(label) for label in result.labels],
                "not_sure": result.not_sure,
                "prediction_id": result.prediction_id,
                "error": str(result.error) if result.error else None,
            }
            for path, result in zip(options.images, results, strict=True)
        ]
    )
    return 65 if any(result.error for result in results) else 0


def feedback(options: argparse.Namespace, output: Output) -> int:
    """Prints the feedback's id once the service has stored it for good."""
    with open_client(options) as client:
        receipt = client.submit_feedback(
            options.prediction_id,
            class_id=None if options.wrong else options.class_id,
            image=options.image,
            image_sha256=options.image_sha256,
            note=options.note,
            feedback_id=options.id,
        )
    before = "" if receipt.created else " (it was there before)"
    output.line(f"feedback {receipt.feedback_id} is stored{before}")
    output.result(asdict(receipt))
    return 0


def open_client(options: argparse.Namespace) -> Client:
    """A client as the flags and the environment say. Raises ConfigurationError."""
    return Client(
        options.target,
        timeout=options.timeout,
        credentials=_credentials(options),
        token=os.environ.get(TOKEN_VARIABLE) or None,
    )


def _recognized(client: Client, options: argparse.Namespace) -> Sequence[Recognition]:
    """One result per image: by one call for a few, by streams for many."""
    asked = {"model": options.model, "version": options.model_version, "top_k": options.top_k}
    images: list[str] = options.images
    if len(images) <= IMAGES_PER_REQUEST:
        return client.recognize(images, **asked)
    for path in images:  # a mistyped path is better told before thousands of images are sent
        if not Path(path).exists():
            raise NotFoundError(f"there is no file {path}; check the path")
    return list(client.recognize_stream(images, **asked))


def _credentials(options: argparse.Namespace) -> grpc.ChannelCredentials | None:
    """TLS where a flag asks for it."""
    if (options.tls_certificate is None) != (options.tls_key is None):
        raise ConfigurationError(
            "--tls-certificate and --tls-key belong together: give both or neither",
            field="tls_certificate",
        )
    if not (options.tls or options.tls_ca or options.tls_certificate):
        return None
    contents = [
        _content(path) for path in (options.tls_ca, options.tls_key, options.tls_certificate)
    ]
    _check_pem(options)
    return grpc.ssl_channel_credentials(*contents)


def _check_pem(options: argparse.Namespace) -> None:
    """Raises ConfigurationError for files of which gRPC would only say that it cannot connect."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if options.tls_ca:
        try:
            context.load_verify_locations(options.tls_ca)
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"--tls-ca {options.tls_ca} holds no certificate in PEM form", field="tls_ca"
            ) from error
    if options.tls_certificate:
        try:
            context.load_cert_chain(options.tls_certificate, options.tls_key, password=lambda: "")
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"--tls-certificate {options.tls_certificate} and --tls-key {options.tls_key} are "
                "no certificate and its key, both in PEM form and without a password",
                field="tls_certificate",
            ) from error


def _content(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", field="tls") from error
