"""How the verbs reach a service: TLS by flags, the bearer token by the environment."""

import argparse
import os
import ssl
from pathlib import Path

import grpc

from visionloop.channels import authorization
from visionloop.errors import ConfigurationError, InvalidInputError
from visionloop.labeling_client import LabelingClient

TOKEN_VARIABLE = "VISIONLOOP_TOKEN"  # noqa: S105 - the name of a variable


def token() -> str | None:
    """The bearer token; never a flag, because others on the machine see flags.

    Raises ConfigurationError for what no header holds, without showing it.
    """
    given = os.environ.get(TOKEN_VARIABLE) or None
    try:
        authorization(given)
    except InvalidInputError as error:
        raise ConfigurationError(f"{TOKEN_VARIABLE}: {error}", field="token") from None
    return given


def open_labeling(options: argparse.Namespace) -> LabelingClient:
    """A client as the flags and the environment say. Raises ConfigurationError."""
    return LabelingClient(
        options.target,
        credentials=credentials(options),
        token=token(),
        server_name=options.tls_server_name,
    )


def credentials(options: argparse.Namespace) -> grpc.ChannelCredentials | None:
    """TLS where a flag asks for it."""
    if (options.tls_certificate is None) != (options.tls_key is None):
        raise ConfigurationError(
            "--tls-certificate and --tls-key belong together: give both or neither",
            field="tls_certificate",
        )
    if not (options.tls or options.tls_ca or options.tls_certificate):
        if options.tls_server_name:
            raise ConfigurationError(
                "--tls-server-name is for TLS: give --tls or --tls-ca as well",
                field="tls_server_name",
            )
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
