"""`visionloop-labeling doctor`: the program's own flags, tried instead of served.

Nothing is migrated and no lock is taken: it may run beside the service.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import grpc

from visionloop.doctor.findings import Finding, Findings, tell
from visionloop.doctor.machine import check_folder, check_ports
from visionloop.doctor.store import check_store
from visionloop_labeling.database_state import Kept, State, look
from visionloop_labeling.import_jobs import STAGING
from visionloop_labeling.inference_access import open_inference
from visionloop_labeling.settings import Settings, parse

PROGRAM: Final = "visionloop-labeling"
# Where it writes: content, snapshots, feedback that it takes out, what cannot be decoded, uploads.
_WRITES: Final = ("datasets", "blobs", "inbox", "quarantine", STAGING)
_INFERENCE_SECONDS: Final = 5.0


def main(arguments: Sequence[str]) -> int:
    """Prints what was found; gives the exit code. Raises ConfigurationError for wrong flags."""
    settings = parse([argument for argument in arguments if argument != "--json"])
    return tell(PROGRAM, examine(settings), as_json="--json" in arguments)


def examine(settings: Settings) -> Findings:
    """All that this program needs, each tried."""
    findings = Findings()
    check_store(findings, settings.store, reads=["models"], writes=_WRITES)
    with findings.checking("database"):
        _check_database(findings, settings)
    findings.add(
        check_folder(
            "temporary files", Path(tempfile.gettempdir()), settings.max_image_bytes, "TMPDIR"
        )
    )
    if settings.inference:
        with findings.checking("inference"):
            findings.add(_inference(settings))
    with findings.checking("ports"):
        ports = {"http-port": settings.http_port, "grpc-port": settings.grpc_port}
        if settings.probe_port is not None:
            ports["probe-port"] = settings.probe_port
        check_ports(findings, settings.host, ports, health=settings.http_port)
    return findings


def _check_database(findings: Findings, settings: Settings) -> None:
    state = look(settings.database)
    findings.add(Finding.ok("database", f"{state.server} answers"))
    findings.add(_tables(state))
    if state.file is not None:
        findings.add(check_folder("database file", state.file.parent, 0, "--database"))
        return
    if not state.may_make_tables:
        findings.add(
            Finding.failed(
                "database rights",
                "this user may not make tables here, which migrations do; GRANT CREATE ON SCHEMA "
                "to it, or let it own the database",
            )
        )
    free = state.connections_free
    if free is not None and free < settings.database_connections:
        findings.add(
            Finding.warning(
                "database connections",
                f"{free} are free now, and one replica takes up to "
                f"--database-connections {settings.database_connections}; raise max_connections, "
                "or lower the flag",
            )
        )


def _tables(state: State) -> Finding:
    check = "database tables"
    match state.kept:
        case Kept.NOTHING:
            return Finding.ok(check, "there are none yet; the first start makes them")
        case Kept.CURRENT:
            return Finding.ok(check, f"those of this version ({state.revision})")
        case Kept.OLDER:
            return Finding.warning(
                check,
                f"those of an older version ({state.revision}); the next start migrates them to "
                f"{state.newest}: back the database up first",
            )
        case Kept.NEWER:
            return Finding.failed(
                check,
                f"those of a newer version ({state.revision}; this one knows {state.newest}); run "
                "that version, or restore a backup of before",
            )
        case Kept.FOREIGN:
            return Finding.failed(
                check, "tables of another program are in the way; name a database of its own"
            )


def _inference(settings: Settings) -> Finding:
    """Suggestions come from there; without it people label on without them."""
    target = settings.inference
    open_inference(
        target, token_file=settings.inference_token_file, ca=settings.inference_ca
    ).close()
    credentials = None
    if settings.inference_ca is not None:
        credentials = grpc.ssl_channel_credentials(settings.inference_ca.read_bytes())
    channel = (
        grpc.insecure_channel(target)
        if credentials is None
        else grpc.secure_channel(target, credentials)
    )
    with channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_INFERENCE_SECONDS)
        except grpc.FutureTimeoutError:
            return Finding.warning(
                "inference",
                f"{target} does not answer, so there are no suggestions; start the inference "
                "service, or check --inference, --inference-ca and the network policy",
            )
    return Finding.ok("inference", f"{target} can be reached")
