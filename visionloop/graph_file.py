"""A plain ONNX file as a version of a model: `visionloop models add`.

The inference service's own code describes the file, in a process of its own
(`python -m visionloop_inference.describe`): a hostile or broken graph can take down no more than
that. What it says comes back as a Description, which names the digest of the bytes that were
looked at, so that exactly those are published.

Adding the same file with the same labels to the same model again finds the version that is there.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from visionloop.bundle import Bundle, BundleFile, BundleLabel, Source, TensorsBundle, WarmUp
from visionloop.bundle_files import is_intact
from visionloop.disk_space import temporary_folder
from visionloop.errors import ConflictError, CorruptError, InvalidInputError, NotFoundError
from visionloop.record import Record
from visionloop.repository import ModelRepository
from visionloop.signature import Signature
from visionloop.version_numbers import checked_name

GRAPH = "model.onnx"
MAX_LABELS_BYTES = 16 << 20


class Description(Record):
    """What was found out about an ONNX file."""

    file: BundleFile
    producer: str
    signature: Signature
    batching: Annotated[str, Field(min_length=1)]
    warm_up: WarmUp | None


def publish_graph(
    repository: ModelRepository,
    path: Path,
    description: Description,
    *,
    model: str,
    labels: Sequence[BundleLabel] = (),
    who: str,
    why: str,
) -> tuple[TensorsBundle, bool]:
    """Publishes the file as the next version of `model`; (its bundle, whether it is new).

    Raises InvalidInputError for labels that do not fit, CorruptError when the file is no longer the
    one that was described.
    """
    checked_name(model)
    run_id = _run_id(description, labels)
    source = Source(
        file=path.name,
        run_id=run_id,
        who=who,
        why=why,
        producer=description.producer,
        batching=description.batching,
    )
    bundle = _bundle(model, description, labels, source)  # before a number is spent on it
    bundle = bundle.model_copy(update={"version": repository.claim(model, run_id)})
    with temporary_folder("visionloop-add-") as folder:
        (folder / GRAPH).symlink_to(path.resolve())
        try:
            repository.publish(bundle, folder)
        except ConflictError:
            return _published(repository.read(model, bundle.version), run_id), False
        except CorruptError:
            if is_intact(path, description.file):
                raise
            raise CorruptError(f"{path} changed while it was added; add it again") from None
    return bundle, True


def read_labels(path: Path) -> list[BundleLabel]:
    """The classes in a text file, one a line, in the order of the output's elements.

    Of a name that stands there more than once (ImageNet has two cranes), each class gets its index
    into the id. Raises NotFoundError and InvalidInputError.
    """
    text = _text(path)
    if not text.strip():
        raise InvalidInputError(f"{path} is empty; write one class name a line", field="labels")
    names = [line.strip() for line in text.rstrip("\n").split("\n")]
    for number, name in enumerate(names, 1):
        if not name:
            raise InvalidInputError(
                f"line {number} of {path} is empty; it must name the class with the index "
                f"{number - 1}",
                field="labels",
            )
    count = Counter(names)
    return [
        BundleLabel(id=name if count[name] == 1 else f"{name} ({index})", name=name)
        for index, name in enumerate(names)
    ]


def _bundle(
    model: str, description: Description, labels: Sequence[BundleLabel], source: Source
) -> TensorsBundle:
    signature = description.signature
    try:
        return TensorsBundle(
            model=model,
            version=1,
            created=datetime.now(UTC),
            graph=GRAPH,
            files={GRAPH: description.file},
            inputs=list(signature.inputs),
            outputs=list(signature.outputs),
            batched=signature.batched,
            warm_up=description.warm_up,
            labels=list(labels),
            source=source,
        )
    except ValidationError as error:
        raise InvalidInputError(_in_words(error), field="labels") from None


def _text(path: Path) -> str:
    if not path.is_file():
        raise NotFoundError(f"{path} is not there, or not a file")
    if path.stat().st_size > MAX_LABELS_BYTES:
        raise InvalidInputError(
            f"{path} has {path.stat().st_size} bytes; labels may have {MAX_LABELS_BYTES}",
            field="labels",
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInputError(
            f"{path} is not UTF-8 text; write one class name a line", field="labels"
        ) from None
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror}", field="labels") from None


def _run_id(description: Description, labels: Sequence[BundleLabel]) -> str:
    """The same for the same content, so that an interrupted addition takes up its number again."""
    digest = hashlib.sha256(description.model_dump_json().encode())
    for label in labels:
        digest.update(f"\n{label.model_dump_json()}".encode())
    return f"add-{digest.hexdigest()[:32]}"


def _published(bundle: Bundle, run_id: str) -> TensorsBundle:
    if not isinstance(bundle, TensorsBundle) or bundle.run_id != run_id:
        raise CorruptError(
            f"version {bundle.version} of model {bundle.model!r} is claimed by {run_id}, but holds "
            f"what {bundle.run_id} published"
        )
    return bundle


def _in_words(error: ValidationError) -> str:
    return str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")
