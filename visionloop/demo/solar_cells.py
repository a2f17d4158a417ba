"""The photographs of the demo: 2,624 solar cells under electroluminescence (ELPV).

They come from the PyPI package `elpv-dataset` (CC BY-NC-SA 4.0), 300×300 pixels, each with a defect
probability given by experts and the module type. "defective" means probability ≥ 0.5, as in
Deitsch et al. 2019, doi:10.1016/j.solener.2019.02.067.
"""

import csv
import importlib.util
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visionloop.errors import NotFoundError

CLASSES = ("functional", "defective")


@dataclass(frozen=True, slots=True)
class Cell:
    """One photograph. `module` is "mono" or "poly"."""

    path: Path
    label: str
    module: str


def load() -> list[Cell]:
    """All photographs in the order of the data set."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise NotFoundError("the photographs are missing; pip install 'visionloop[demo]'")
    folder = Path(spec.origin).parent / "data"
    cells = []
    for line in (folder / "labels.csv").read_text().splitlines():
        name, probability, module = line.split()
        cells.append(Cell(folder / name, CLASSES[float(probability) >= 0.5], module))
    return cells


def halves(cells: Sequence[Cell], seed: int = 20) -> tuple[list[Cell], list[Cell]]:
    """A random half for the first round, the other one for the second."""
    shuffled = list(cells)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - a fixed split, not a secret
    middle = len(shuffled) // 2
    return shuffled[:middle], shuffled[middle:]


def write_csv(cells: Sequence[Cell], path: Path) -> None:
    """The rows as `visionloop import` reads them, with the module type as an attribute."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "module"])
        writer.writerows([cell.path, cell.label, cell.module] for cell in cells)
