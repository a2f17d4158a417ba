"""From rounds to rows, and from rows to the table."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from bench.serving.figures import median, spread
from bench.serving.limits import Limit
from bench.serving.measure import ECHO, Cell, Measured, Round

BUDGET_FACTOR = 1.25  # of what echo and bare loop cost together
BUDGET_EXTRA = 50e-6  # seconds of CPU for a request


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. For `onnxruntime`, the bare loop, concurrency is its batch size.

    None is what does not apply or was not measured.
    """

    peer: str
    model: str
    concurrency: int
    images_per_second: float
    p50_ms: float
    p99_ms: float
    ratio_to_limit: float | None
    server_cpu_s_per_1000: float
    rss_mb: float | None
    ready_s: float | None
    pairs: int
    spread: float  # of images_per_second
    mean_batch: float
    generator_cores: float
    other_cores: float = 0.0
    cold_ready_s: float | None = None
    idle_cores: float | None = None
    errors: int = 0
    limit_images_per_second: float | None = None
    limit_cpu_s_per_1000: float | None = None
    echo_ratio: float | None = None  # throughput ÷ the echo's in the same round
    cpu_ratio: float | None = None  # CPU ÷ (1.25 x (echo + bare loop) + 50 us) in the same round

    def as_json(self) -> dict[str, object]:
        """Rounded to what is meant."""
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


COLUMNS = tuple(field.name for field in fields(Row))[:14]  # of the printed table


def rows_of(measured: Measured) -> list[Row]:
    """The bare loop's first, then the subjects', in the order they were measured."""
    rows = [
        _limit_row(model, batch, laps)
        for model, by_batch in measured.limits.items()
        for batch, laps in sorted(by_batch.items())
    ]
    return rows + [row_of(cell) for cell in measured.cells]


def row_of(cell: Cell) -> Row:
    """Medians over the cell's rounds."""
    rounds = cell.rounds
    windows = [one.window for one in rounds]
    rates = [window.images_per_second for window in windows]
    with_echo = [one for one in rounds if one.echo is not None and cell.peer != ECHO]
    return Row(
        peer=cell.peer,
        model=cell.model,
        concurrency=cell.concurrency,
        images_per_second=median(rates),
        p50_ms=median([window.p50_ms for window in windows]),
        p99_ms=median([window.p99_ms for window in windows]),
        ratio_to_limit=None if cell.peer == ECHO else median([one.ratio for one in rounds]),
        server_cpu_s_per_1000=1000 * median([window.cpu_s_per_image for window in windows]),
        rss_mb=max(window.rss for window in windows) / 2**20,
        ready_s=cell.ready_s,
        pairs=len(rounds),
        spread=spread(rates),
        mean_batch=median([window.mean_batch for window in windows]),
        generator_cores=median([window.generator_cores for window in windows]),
        other_cores=median([window.other_cores for window in windows]),
        cold_ready_s=cell.cold_ready_s,
        idle_cores=cell.idle_cores,
        errors=sum(window.errors for window in windows),
        limit_images_per_second=median([one.limit for one in rounds]),
        limit_cpu_s_per_1000=1000 * median([one.limit_cpu for one in rounds]),
        echo_ratio=median([_over_echo(one) for one in with_echo]) if with_echo else None,
        cpu_ratio=median([_over_budget(one) for one in with_echo]) if with_echo else None,
    )


def _over_echo(one: Round) -> float:
    return one.window.images_per_second / one.echo.images_per_second if one.echo else 0.0


def _over_budget(one: Round) -> float:
    echo = one.echo.cpu_s_per_image if one.echo else 0.0
    return one.window.cpu_s_per_image / (BUDGET_FACTOR * (echo + one.limit_cpu) + BUDGET_EXTRA)


def _limit_row(model: str, batch: int, laps: Sequence[Limit]) -> Row:
    rates = [lap.images_per_second for lap in laps]
    return Row(
        peer="onnxruntime",
        model=model,
        concurrency=batch,
        images_per_second=median(rates),
        p50_ms=median([lap.p50_ms for lap in laps]),
        p99_ms=median([lap.p99_ms for lap in laps]),
        ratio_to_limit=1.0,
        server_cpu_s_per_1000=1000 * median([lap.cpu_s_per_image for lap in laps]),
        rss_mb=None,
        ready_s=None,
        pairs=len(laps),
        spread=spread(rates),
        mean_batch=float(batch),
        generator_cores=0.0,
    )


def disturbed(rows: Sequence[Row]) -> float:
    """Cores that others used in the median row; figures are to be trusted where it is near 0."""
    measured = [row.other_cores for row in rows if row.peer != "onnxruntime"]
    return median(measured) if measured else 0.0


def table(rows: Sequence[Row]) -> str:
    """Aligned for a terminal."""
    lines = [COLUMNS, *(tuple(shown(getattr(row, name)) for name in COLUMNS) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def shown(value: object) -> str:
    """A figure with the digits that mean something."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
