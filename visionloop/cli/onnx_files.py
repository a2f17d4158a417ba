"""`visionloop models add`: a plain ONNX file becomes the next version of a model.

The inference program's `describe` looks at the file in a process of its own, which is also how a
graph that crashes the runtime becomes one line here.
"""

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path

from pydantic import ValidationError

from visionloop.aliases import AliasMove
from visionloop.bundle import TensorsBundle
from visionloop.cli.output import Output
from visionloop.cli.store import open_from, user_name
from visionloop.cli.tensors import tensor_facts
from visionloop.errors import (
    ConfigurationError,
    ConflictError,
    CorruptError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    VisionloopError,
)
from visionloop.graph_file import Description, publish_graph, read_labels
from visionloop.repository import ModelRepository

DESCRIBE = "visionloop_inference.describe"
NOTED_BYTES = 32 << 20  # what takes long enough that people wonder
_ERRORS = {
    "corrupt": CorruptError,
    "not_found": NotFoundError,
    "refused": RefusedError,
    "invalid_input": InvalidInputError,
    "configuration": ConfigurationError,
}


def add(options: argparse.Namespace, output: Output) -> int:
    """Describes, publishes and, with --promote, makes stable. Adding it again finds what is there.

    With --promote, an alias that moves meanwhile is left as it is (exit code 75): the version is
    published then, and can be promoted.
    """
    path = Path(options.file)
    labels = read_labels(Path(options.labels)) if options.labels else []
    repository = ModelRepository(open_from(options))
    before = repository.aliases(options.model)  # what a promotion will be conditional on
    description = described(path)
    if description.warm_up is None:
        output.note(f"warning: {path.name} was not seen to run; batching {description.batching}")
    elif not description.warm_up.finite:
        output.note(f"warning: {path.name} answers NaN or infinity to inputs of one value")
    who, why = options.who or user_name(), options.why or f"added {path.name}"
    if description.file.size > NOTED_BYTES:
        output.note(f"publishing {path.name}, {description.file.size / 2**20:.0f} MiB")
    bundle, new = publish_graph(
        repository, path, description, model=options.model, labels=labels, who=who, why=why
    )
    move = None
    if options.promote:
        try:
            move = repository.promote(
                options.model, bundle.version, expected=before, who=who, why=why
            )
        except (ConflictError, RefusedError) as error:
            raise type(error)(f"version {bundle.version} is published, but {error}") from None
    _report(bundle, new, move, output)
    return 0


def described(path: Path) -> Description:
    """What the inference program finds out about the file.

    Raises its errors; RefusedError when the graph crashed it.
    """
    done = subprocess.run(
        # -P: no module of the folder that the user happens to stand in.
        [sys.executable, "-P", "-m", DESCRIBE, str(path.absolute())],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        hint = "; it may need more memory than there is" if name == "SIGKILL" else ""
        raise RefusedError(
            f"{path.name} brought down the program that tried to load and run it ({name}){hint}. "
            "It was not published"
        )
    try:
        said = json.loads(done.stdout)
        if "error" in said:
            kind = _ERRORS.get(said["error"]["reason"], VisionloopError)
            raise kind(said["error"]["message"])
        return Description.model_validate(said)
    except (ValueError, ValidationError, KeyError, TypeError):
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise VisionloopError(
            f"{path.name} could not be looked at: {DESCRIBE} ended with exit code "
            f"{done.returncode}: {last or 'it said nothing'}"
        ) from None


def _report(bundle: TensorsBundle, new: bool, move: AliasMove | None, output: Output) -> None:
    output.result(
        {
            "bundle": bundle.model_dump(mode="json"),
            "new": new,
            "move": None if move is None else move.model_dump(mode="json"),
        }
    )
    known = "" if new else " (the same file was added before)"
    output.line(f"{bundle.model}: version {bundle.version}{known}")
    output.fields(tensor_facts(bundle))
    if move is not None:
        output.line(f"{bundle.model}: stable is now version {bundle.version}")
    else:
        output.line(
            f"serve it: visionloop models promote {bundle.model} {bundle.version} --why REASON"
        )
