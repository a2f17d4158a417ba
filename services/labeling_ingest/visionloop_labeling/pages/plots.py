"""The geometry of plots; the templates draw it as SVG in CSS colours.

Words stand beside the drawings as HTML, so that they keep their size on a small screen and are read
by screen readers; the drawings themselves are stretched to the room there is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from visionloop_labeling.fold import AuthorKind
from visionloop_labeling.overview import Day

# Who spoke: the word for it, and the number of the colour.
_KINDS: Final = {
    AuthorKind.HUMAN: ("People", 1),
    AuthorKind.IMPORT: ("Imports", 3),
    AuthorKind.APP: ("Apps", 2),
    AuthorKind.MODEL: ("Models", 4),
}


@dataclass(frozen=True, slots=True)
class Bar:
    """A piece of a column: `x` in columns, `y` and `height` in units of the axis, from above."""

    x: int
    y: int
    height: int
    series: int
    date: date
    value: int


@dataclass(frozen=True, slots=True)
class DayPlot:
    """Labels a day as stacked columns. The drawing is `len(days)` wide and `top` high."""

    days: list[Day]
    bars: list[Bar]
    kinds: list[AuthorKind]  # that said anything
    names: dict[AuthorKind, str]
    key: list[tuple[str, int]]
    top: int
    ticks: list[int]  # from the top down, 0 last


def days(counted: Sequence[Day]) -> DayPlot:
    """The plot of labels a day."""
    top = round_up(max((day.total for day in counted), default=0))
    bars = []
    for x, day in enumerate(counted):
        above = top
        for kind, (_, series) in _KINDS.items():
            value = day.labels.get(kind, 0)
            if value:
                above -= value
                bars.append(Bar(x, above, value, series, day.date, value))
    kinds = [kind for kind in _KINDS if any(day.labels.get(kind) for day in counted)]
    return DayPlot(
        days=list(counted),
        bars=bars,
        kinds=kinds,
        names={kind: _KINDS[kind][0] for kind in kinds},
        key=[_KINDS[kind] for kind in kinds],
        top=top,
        ticks=[top, top // 2, 0],
    )


def segments(
    shown: Sequence[tuple[str, str, int]], counts: Mapping[str, int]
) -> list[tuple[int, int]]:
    """(value, series) of a bar whose parts are (name, title, series)."""
    return [(counts[name], series) for name, _, series in shown]


def round_up(value: int) -> int:
    """The next of 2, 4, 6, 10, 20, 40, 60, 100, …: an axis that ends on a number people know."""
    step = 1
    while True:
        for digit in (2, 4, 6, 10):
            if value <= digit * step:
                return digit * step
        step *= 10
