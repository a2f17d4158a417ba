"""This machine: space where a program writes, and the ports that it will listen on."""

import contextlib
import errno
import http.client
import os
import shutil
import socket
import ssl
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from visionloop.doctor.findings import Finding, Findings
from visionloop.errors import ConfigurationError

MEBIBYTE = 2**20
# Below this much beyond what is needed, logs and temporary files fill a disk within days.
SPARE_BYTES = 1024 * MEBIBYTE


def check_folder(check: str, folder: Path, needed: int, flag: str) -> Finding:
    """Can `folder` (made if missing, by the program) be written, and does it hold `needed` bytes
    more? `flag` is what names the folder."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        return Finding.failed(check, f"{there} is no folder; choose another {flag}")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return Finding.failed(
            check,
            f"{there} cannot be written by user {os.geteuid()}: {error.strerror}; choose another "
            f"{flag}, or mount a volume there that this user may write",
        )
    free = shutil.disk_usage(there).free
    sizes = f"{_size(free)} free in {folder}"
    if free < needed:
        return Finding.failed(
            check,
            f"{sizes}, and {_size(needed)} are needed; make room or choose another {flag}",
        )
    if free < needed + SPARE_BYTES:
        return Finding.warning(
            check, f"{sizes}, which is not much; make room or choose another {flag}"
        )
    return Finding.ok(check, sizes)


def check_ports(findings: Findings, host: str, ports: Mapping[str, int], *, health: int) -> None:
    """Is `host` an address of this machine, and are the ports (by flag) free?

    Where `health` answers /healthz, they are taken by the running program itself.
    """
    taken = {flag: port for flag, port in ports.items() if port and not _is_free(host, port)}
    if taken and _answers(host, health):
        findings.add(Finding.ok("ports", "taken by this service, which is running already"))
        return
    for flag, port in taken.items():
        findings.add(
            Finding.failed(
                "ports",
                f"another program listens on {host}:{port}; stop it, or choose another --{flag}",
            )
        )
    if not taken:
        shown = ", ".join(str(port or "any") for port in ports.values())
        findings.add(Finding.ok("ports", f"{shown} on {host}: free"))


def _is_free(host: str, port: int) -> bool:
    """Raises ConfigurationError for an address or a port that is not ours to take at all."""
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bare, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise ConfigurationError(
                f"cannot listen on {host}:{port}: {error.strerror}; choose an address of this "
                "machine by --host, and ports from 1024 on",
                field="host",
            ) from error
    return True


def _answers(host: str, port: int) -> bool:
    bare = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "::": "[::1]"}.get(host, host)  # noqa: S104
    # Whose the certificate is does not matter: nothing is told, and the port is this machine's own.
    anybody = ssl.create_default_context()
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    # Nor is it a matter for the proxy that the environment may name.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=anybody)
    )
    for scheme in ("http", "https"):
        with (
            contextlib.suppress(OSError, ValueError, http.client.HTTPException),
            opener.open(f"{scheme}://{bare}:{port}/healthz", timeout=3) as answer,
        ):
            return bool(answer.status == 200)
    return False


def _size(count: int) -> str:
    gibibytes = count / 2**30
    return f"{gibibytes:.1f} GiB" if gibibytes >= 1 else f"{count / MEBIBYTE:.0f} MiB"
