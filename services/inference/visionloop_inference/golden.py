"""The golden images of a bundle: the proof that this service gives the answers that were tested.

Each is decoded and run exactly as a request's image is. The first few are replayed before a
version serves; the rest while it serves, one at a time between the requests' rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from visionloop.bundle import ClassifierBundle, GoldenItem
from visionloop.errors import CorruptError, ImageError, RefusedError

PRECISION = "fp32"

_ITEMS = TypeAdapter(list[GoldenItem])


@dataclass(frozen=True, slots=True)
class GoldenImage:
    """One encoded image and the probabilities that the tested graph gave, in label order."""

    name: str
    data: bytes
    probabilities: tuple[float, ...]


def read_golden(bundle: ClassifierBundle, folder: Path) -> list[GoldenImage]:
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


def tolerance(bundle: ClassifierBundle, provider: str, precision: str = PRECISION) -> float:
    """The largest probability difference that the bundle allows here. Raises RefusedError."""
    allowed = bundle.golden.max_probability_difference
    for key in (f"{precision}/{provider}", "default"):
        if key in allowed:
            return allowed[key]
    raise RefusedError(
        f"golden.max_probability_difference allows nothing for {precision}/{provider} and has no "
        f'"default"; it lists {", ".join(sorted(allowed)) or "nothing"}'
    )


class GoldenTest:
    """Replays golden images of one bundle, one by one, through a function that runs the graph."""

    def __init__(
        self,
        bundle: ClassifierBundle,
        run: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
        *,
        provider: str,
        precision: str = PRECISION,
    ) -> None:
        """`run` takes one row (height, width, 3) and gives its probabilities, in label order.

        Raises RefusedError when the bundle allows nothing for this precision and provider.
        """
        self._bundle = bundle
        self._run = run
        self._where = f"{precision}/{provider}"
        self._allowed = tolerance(bundle, provider, precision)

    def __call__(self, image: GoldenImage) -> float:
        """The largest probability difference of one image. Raises RefusedError on a mismatch."""
        try:
            _, row = self._bundle.preprocessing.of_file(image.data)
        except ImageError as error:
            raise RefusedError(f"the golden image {image.name} is refused: {error}") from error
        return _difference(image, self._run(row), self._allowed, self._where)


def _difference(
    image: GoldenImage, found: NDArray[np.float32], allowed: float, where: str
) -> float:
    difference = float(np.max(np.abs(found - np.asarray(image.probabilities, np.float32))))
    if not difference <= allowed:  # also true for NaN
        raise RefusedError(
            f"the golden image {image.name} gives probabilities {difference:.2g} away from the "
            f"tested ones; {allowed:.2g} is allowed for {where}"
        )
    return difference
