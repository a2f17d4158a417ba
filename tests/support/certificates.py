"""Real certificates for tests, made by the openssl program: an authority, servers, clients."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SERVER_NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, PEM files."""

    certificate: Path
    key: Path


def authority(folder: Path, name: str = "authority") -> Pair:
    """A self-signed authority."""
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    _openssl("req", "-x509", "-days", "2", *_key(pair), "-subj", f"/CN={name}")
    return pair


def signed(folder: Path, name: str, by: Pair, *, extension: str = SERVER_NAMES) -> Pair:
    """A pair for `name`, signed by the authority; for localhost unless said otherwise."""
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    issuer = ("-CA", str(by.certificate), "-CAkey", str(by.key))
    _openssl("req", "-x509", "-days", "2", *_key(pair), "-subj", f"/CN={name}", *issuer,
             "-addext", extension, "-addext", "basicConstraints=critical,CA:FALSE")  # fmt: skip
    return pair


def encrypted(pair: Pair, target: Path) -> Path:
    """The pair's key with a password."""
    _openssl("pkey", "-in", str(pair.key), "-aes256", "-passout", "pass:word", "-out", str(target))
    return target


def _key(pair: Pair) -> tuple[str, ...]:
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    return (*curve, "-keyout", str(pair.key), "-out", str(pair.certificate))


def _openssl(*arguments: str) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: apt-get install openssl")
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {' '.join(arguments)}: {done.stderr}")
