"""`visionloop import` of what the service reads by itself: sent once, then followed to its end.

The job's key is a digest of the file and of what was said with it, so repeating an interrupted
import finds the job that it began; interrupting this program does not interrupt the job.
"""

import argparse
import hashlib
import json
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from visionloop.cli import import_sources
from visionloop.cli.connection import token
from visionloop.cli.import_client import ImportClient, Sent
from visionloop.cli.output import Output
from visionloop.errors import ConfigurationError, RefusedError
from visionloop.objectstore.local import sha256_of
from visionloop.telemetry import progress

SHOWN_REJECTIONS: Final = 20
_POLL_SECONDS: Final = 0.5
_UNFINISHED: Final = ("queued", "running")
# What labels of a new dataset say, where the format tells: a dataset's task never changes.
_TASKS: Final = {"coco": "detection", "yolo": "detection"}


def import_job(options: argparse.Namespace, format_name: str, output: Output) -> int:
    """Exit code 0 when all rows got in, 65 when some were not (and the others kept)."""
    parameters = _parameters(options, format_name)
    client = ImportClient(
        options.url,
        options.dataset,
        token=token(),
        tls=_tls(options),
        server_name=options.tls_server_name,
    )
    task = client.create_dataset(options.task or _TASKS.get(format_name, "classification"))
    check_task(options, task)
    if format_name == "s3":
        # A sync is not its file: asking again looks for what is new.
        job = client.begin("s3", {**parameters, "url": options.source}, None, options.batch or "")
    else:
        job = _send(options, format_name, parameters, client)
    if options.no_wait:
        output.result(job)
        output.line(f"import {job['id']} is {job['state']}")
        return 0
    return _report(options.dataset, client, _follow(client, job), output)


def _send(
    options: argparse.Namespace,
    format_name: str,
    parameters: Mapping[str, Any],
    client: ImportClient,
) -> dict[str, Any]:
    source = Path(options.source)
    images = Path(options.images) if options.images else None
    if images is not None and not images.is_dir():
        raise ConfigurationError(f"--images {images} is not a folder", field="images")
    with import_sources.packed(source, images) as file:
        said = json.dumps([format_name, sorted(parameters.items()), options.batch, sha256_of(file)])
        key = hashlib.sha256(said.encode()).hexdigest()
        size = file.stat().st_size
        nothing: tuple[int, ...] = ()  # counted by hand
        with progress(nothing, total=size, description="upload", unit="B") as bar:
            return client.begin(format_name, parameters, file, key, _Bar(bar.advance))


class _Bar(Sent):
    def __init__(self, advance: Any) -> None:
        self._advance = advance

    def advance(self, count: int) -> None:
        self._advance(count)


def _follow(client: ImportClient, job: dict[str, Any]) -> dict[str, Any]:
    """Waits for the job's end; interrupting it leaves the job alone."""
    while job["state"] in _UNFINISHED and job["rows"] is None:
        time.sleep(_POLL_SECONDS)
        job = client.show(job["id"])
    nothing: tuple[int, ...] = ()  # counted by hand
    with progress(nothing, total=job["rows"] or 0, description="import", unit="image") as bar:
        shown = 0
        while True:
            bar.advance(job["answered"] - shown)
            shown = job["answered"]
            if job["state"] not in _UNFINISHED:
                return job
            time.sleep(_POLL_SECONDS)
            job = client.show(job["id"])


def _report(dataset: str, client: ImportClient, job: dict[str, Any], output: Output) -> int:
    if job["state"] != "done":
        raise RefusedError(
            f"the import {job['id']} {job['state']} after {job['answered']} rows: "
            f"{job['message'] or 'somebody cancelled it'}"
        )
    rejected = [
        {"row": one["ordinal"], **{name: one[name] for name in ("source", "reason", "message")}}
        for outcome in ("rejected", "quarantined")
        if job["counts"][outcome]
        for one in client.receipts(job["id"], outcome)
    ]
    accepted, duplicates = job["counts"]["accepted"], job["counts"]["duplicate"]
    output.result(
        {
            "dataset": dataset,
            "import": job["id"],
            "rows": job["rows"],
            "accepted": accepted,
            "duplicates": duplicates,
            "rejected": rejected,
            "message": job["message"],
        }
    )
    output.line(
        f"{dataset}: {accepted} images accepted, {duplicates} were there already, "
        f"{len(rejected)} rejected"
    )
    if job["message"]:
        output.note(job["message"])
    for row in rejected[:SHOWN_REJECTIONS]:
        output.note(f"row {row['row']} ({row['source']}): {row['message']}")
    if len(rejected) > SHOWN_REJECTIONS:
        output.note(f"… and {len(rejected) - SHOWN_REJECTIONS} more; --json lists all")
    return 65 if rejected else 0


def _parameters(options: argparse.Namespace, format_name: str) -> dict[str, Any]:
    """What the sender says of the source: --option NAME=VALUE, and the columns of a table."""
    said: dict[str, Any] = {}
    if format_name == "csv":
        said = {"path_column": options.path_column, "label_column": options.label_column}
        more = {
            "attribute_columns": list(listed(options.attribute_columns)),
            "probability_columns": list(listed(options.probability_columns)),
            "group_column": options.group_column,
            "weight_column": options.weight_column,
            "label_separator": options.label_separator,
        }
        said |= {name: value for name, value in more.items() if value}
    if options.unannotated != "open":
        said["unannotated"] = options.unannotated
    for option in options.option:
        name, given, value = option.partition("=")
        if not given or not name.strip():
            raise ConfigurationError(
                f"--option {option!r} is not NAME=VALUE, as unannotated=empty", field="option"
            )
        try:
            said[name.strip()] = json.loads(value)
        except ValueError:
            said[name.strip()] = value
    return said


def check_task(options: argparse.Namespace, task: str) -> None:
    """Raises ConfigurationError where a task is asked for that the dataset does not have."""
    if options.task not in (None, task):
        raise ConfigurationError(
            f"dataset {options.dataset!r} is there already, and its task, {task}, never changes; "
            "leave --task out, or import into another dataset",
            field="task",
        )


def listed(names: str) -> tuple[str, ...]:
    """The names in a flag such as A,B."""
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    if not options.url.startswith("https://"):
        return None
    try:
        context = ssl.create_default_context(cafile=options.tls_ca)
        if options.tls_certificate:
            context.load_cert_chain(options.tls_certificate, options.tls_key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"cannot use the TLS files: {error}", field="tls") from error
    return context
