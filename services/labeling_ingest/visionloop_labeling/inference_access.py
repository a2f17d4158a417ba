"""How this service reaches the inference service: address, token, trusted authorities."""

import ssl
from pathlib import Path

import grpc

from visionloop.channels import check_target
from visionloop.client import DEFAULT_TIMEOUT, Client
from visionloop.errors import ConfigurationError, InvalidInputError


def open_inference(target: str, *, token_file: Path | None, ca: Path | None) -> Client:
    """A client; with `ca` (PEM) the connection is TLS. It connects when it is first used.

    Raises ConfigurationError for an address or a file that cannot be used.
    """
    try:
        check_target(target, DEFAULT_TIMEOUT)
    except InvalidInputError as error:
        raise ConfigurationError(f"--inference: {error}", field="inference") from error
    if token_file is not None and ca is None and not _is_local(target):
        raise ConfigurationError(
            f"--inference-token-file: the token would go to {target} in the clear; name the "
            "authorities to trust by --inference-ca",
            field="inference_ca",
        )
    return Client(
        target,
        credentials=None if ca is None else grpc.ssl_channel_credentials(_authorities(ca)),
        token=None if token_file is None else _token(token_file),
    )


def _is_local(target: str) -> bool:
    host = target.rpartition(":")[0].strip("[]")
    return host in ("localhost", "127.0.0.1", "::1") or target.startswith("unix:")


def _token(path: Path) -> str:
    token = _content(path, "inference_token_file").decode(errors="replace").strip()
    if not token or not token.isascii() or not token.isprintable():
        raise ConfigurationError(
            f"--inference-token-file: {path} holds no token; it is one line of printable ASCII",
            field="inference_token_file",
        )
    return token


def _authorities(path: Path) -> bytes:
    content = _content(path, "inference_ca")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"--inference-ca: {path} holds no certificate in PEM form", field="inference_ca"
        ) from error
    return content


def _content(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"--{field.replace('_', '-')}: {path} cannot be read ({error.strerror})", field=field
        ) from error
