"""The golden images of a bundle: the proof that this service gives the answers that were tested.

Each is decoded and run exactly as a request's image is. The first few are replayed before a
version serves; the rest while it serves, one at a time between the requests' rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from visionloop.bundle import ClassificationBundle, GoldenItem
from visionloop.errors import CorruptError, ImageError, RefusedError
from visionloop_inference.decoding import Decoder
from visionloop_inference.runner import Runner

PRECISION = "fp32"

_ITEMS = TypeAdapter(list[GoldenItem])


@dataclass(frozen=True, slots=True)
class GoldenImage:
    """One encoded image and the probabilities that the tested graph gave, in label order."""

    name: str
    data: bytes
    probabilities: tuple[float, ...]


def read_golden(bundle: ClassificationBundle, folder: Path) -> list[GoldenImage]:
    """All golden images of a fetched bundle. Raises CorruptError.

    Only files that bundle.json lists are opened, so their digests were checked.
    """
    try:
        items = _ITEMS.validate_json((folder / bundle.golden.file).read_bytes(), strict=True)
    except ValidationError as error:
        raise CorruptError(
            f"{bundle.golden.file} is not a list of golden items: {error.errors()[0]['msg']}"
        ) from error
    if len(items) != bundle.golden.items:
        raise CorruptError(
            f"{bundle.golden.file} lists {len(items)} images; bundle.json says "
            f"{bundle.golden.items}"
        )
    for item in items:
        if item.file not in bundle.files:
            raise CorruptError(
                f"{bundle.golden.file} names {item.file!r}, which bundle.json does not list"
            )
        if len(item.probabilities) != len(bundle.labels):
            raise CorruptError(
                f"{item.file} has {len(item.probabilities)} probabilities for "
                f"{len(bundle.labels)} labels"
            )
    return [
        GoldenImage(item.file, (folder / item.file).read_bytes(), tuple(item.probabilities))
        for item in items
    ]


def tolerance(bundle: ClassificationBundle, provider: str) -> float:
    """The largest probability difference that the bundle allows here. Raises RefusedError."""
    allowed = bundle.golden.max_probability_difference
    for key in (f"{PRECISION}/{provider}", "default"):
        if key in allowed:
            return allowed[key]
    raise RefusedError(
        f"golden.max_probability_difference allows nothing for {PRECISION}/{provider} and has no "
        f'"default"; it lists {", ".join(sorted(allowed)) or "nothing"}'
    )


async def replay(
    images: Sequence[GoldenImage],
    bundle: ClassificationBundle,
    runner: Runner,
    decoder: Decoder,
    provider: str,
) -> float:
    """Runs the images; the largest probability difference seen. Raises RefusedError on a mismatch.

    An answer that is not a number counts as a mismatch.
    """
    output = bundle.output("probabilities")
    if output is None:
        raise RefusedError("the bundle declares no output of kind probabilities")
    allowed = tolerance(bundle, provider)
    largest = 0.0
    for image in images:
        try:
            decoded = await decoder.decode(image.data, bundle.preprocessing)
        except ImageError as error:
            raise RefusedError(f"the golden image {image.name} is refused: {error}") from error
        answer = await runner.run([decoded.row], deadline=None)
        found = answer.outputs[output.name][0]  # (labels,)
        difference = float(np.max(np.abs(found - np.asarray(image.probabilities, np.float32))))
        if not difference <= allowed:  # also true for NaN
            raise RefusedError(
                f"the golden image {image.name} gives probabilities {difference:.2g} away from the "
                f"tested ones; {allowed:.2g} is allowed for {PRECISION}/{provider}"
            )
        largest = max(largest, difference)
    return largest
