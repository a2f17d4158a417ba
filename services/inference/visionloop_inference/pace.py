"""How long a batch takes, and how large one should be: measured at warm-up, corrected by every run.

Warm-up runs batches of 1, 2, 4, … rows for as long as a row gets cheaper; the best size becomes the
limit. A GPU wants large batches; a CPU often none: for EfficientNet-Lite0 on two cores, a limit of
4 rows answered 1.6 times the requests of a limit of 32, in half the time, because the activations
of a large batch fall out of the cache.

A batch between two measured sizes is taken to cost what lies between, or, where batches are padded,
what the next larger size costs; times a factor that follows the ratio of measured to predicted
time, so that a machine which got busier shows at once. It is used to refuse early what would answer
late; an estimate, so some of what it refuses would just have made it. A runner's pace is published
in the first page of every arena (`Board`), where front ends read it without asking.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from time import perf_counter

from visionloop.errors import OverloadedError

FORGETTING = 0.2  # weight of the newest run in the moving average
WORTH_IT = 0.95  # a larger batch must bring a row's cost below this share of the best so far
TRIES = 2  # the best one counts: other work on the machine only ever adds time
MOST_TRIES = 50  # of a run so short that other work disturbs two of them as a whole
TRIES_SECONDS = 0.005  # after which no more than TRIES are made
PATIENCE = 2  # sizes in a row that may fail to be better before the search ends
SHORT = 0.05  # seconds; a longer run is tried once less
LONGEST = 1.0  # seconds; a batch that takes longer is never made larger
LEAST = 1e-9  # seconds a row takes at least


class Pace:
    """Seconds per batch. Written by the runner; front ends have copies."""

    def __init__(self, fixed: float, per_row: float, batch: int) -> None:
        """A batch of n rows takes fixed + per_row * n seconds."""
        fixed, per_row = max(fixed, 0.0), max(per_row, LEAST)
        self._set({1: fixed + per_row, 2: fixed + 2 * per_row}, batch)

    @classmethod
    def of(cls, seconds: Mapping[int, float], batch: int, *, padded: bool = False) -> "Pace":
        """From measured batches: rows -> seconds, at least one; `batch` rows are cheapest."""
        made = cls.__new__(cls)
        made._set(seconds, batch)
        made.padded = padded
        return made

    def _set(self, seconds: Mapping[int, float], batch: int) -> None:
        self.batch = batch  # rows at which a row is cheapest
        self.factor = 1.0
        self.padded = False  # to the next measured size
        self.sizes = sorted(seconds)
        self.times: list[float] = []
        least = LEAST
        for size in self.sizes:  # noise must not make a larger batch the cheaper one
            least = max(seconds[size], least)
            self.times.append(least)

    @classmethod
    def measure(
        cls,
        run: Callable[[int], object],
        max_batch: int,
        clock: Callable[[], float] = perf_counter,
        budget: float = math.inf,
        warm_ups: int = 0,
        turn: float = 0.0,
    ) -> "Pace":
        """Runs batches of growing size; `run(n)` runs one of n rows.

        After `budget` seconds no larger one is begun. `warm_ups` are the runs of each size that do
        not count: a GPU chooses kernels and grows its memory for each. `turn` seconds are what a
        batch of any size costs around its run: they count when sizes are compared, and no more. A
        size for which `run` finds no memory (OverloadedError) ends the search, one row's is raised.
        """
        began = clock()
        seconds: dict[int, float] = {}
        size, best, failed = 1, 1, 0
        while failed < PATIENCE:
            try:
                for _ in range(warm_ups):
                    run(size)
                seconds[size] = _cost(run, size, clock)
            except OverloadedError:
                if size == 1:
                    raise
                break
            best_row, row = (turn + seconds[best]) / best, (turn + seconds[size]) / size
            if size > 1 and row > WORTH_IT * best_row:
                failed += 1
            else:
                best, failed = size, 0
            if size == max_batch or seconds[size] > LONGEST or clock() - began > budget:
                break
            size = min(2 * size, max_batch)
        return cls.of({size: took for size, took in seconds.items() if size <= best}, best)

    def padded_to(self, rows: int) -> int:
        """The rows that a batch of so many really runs with."""
        if not self.padded or rows > self.sizes[-1]:
            return rows
        return self.sizes[bisect_left(self.sizes, rows)]

    def batch_seconds(self, rows: int) -> float:
        """Predicted seconds for one batch."""
        return self.factor * self._plain(rows) if rows else 0.0

    def _plain(self, rows: int) -> float:
        sizes, times = self.sizes, self.times
        place = bisect_left(sizes, rows)
        if place < len(sizes) and (sizes[place] == rows or self.padded or place == 0):
            return times[place]
        place = min(place, len(sizes) - 1)
        if place == 0:  # one size is known
            return times[0] * rows / sizes[0]
        slope = (times[place] - times[place - 1]) / (sizes[place] - sizes[place - 1])
        return times[place] + slope * (rows - sizes[place])

    def seconds(self, rows: int) -> float:
        """Predicted seconds for `rows` in as few batches as they fit."""
        full, rest = divmod(rows, self.batch)
        return full * self.batch_seconds(self.batch) + self.batch_seconds(rest)

    def rows_within(self, seconds: float) -> int:
        """Rows of a batch that takes at most so long: the full one, or a half of it, or a half of
        that; at least 1."""
        rows = self.batch
        while rows > 1 and self.batch_seconds(rows) > seconds:
            rows //= 2
        return rows

    def observe(self, rows: int, seconds: float) -> None:
        """Takes a finished batch into account."""
        ratio = min(
            max(seconds / self._plain(rows), 0.1), 10.0
        )  # one hiccup must not close the door
        self.factor += FORGETTING * (ratio - self.factor)


class Board:
    """A runner's pace in the header page of an arena. Written by the runner, read by the front end.

    Words of 8 bytes: batch, factor, rows of other front ends, those of them that are of low
    priority, padded, n, n x (rows, seconds); factor and seconds are f64, the others u64. Each is
    one store (struct's pack_into is two: it clears what it writes to), and n is written after what
    it counts, so a reader never sees half a number; new ones beside old ones, which an estimate
    bears. n is 0 until the first write.
    """

    MOST = 128  # measured sizes
    _BATCH, _FACTOR, _OTHERS, _LOW, _PADDED, _COUNT, _SIZES = range(7)

    def __init__(self, header: memoryview) -> None:
        self._whole = header.cast("Q")
        self._real = header.cast("d")
        self._pace: Pace | None = None

    def publish(self, pace: Pace) -> None:
        """What was measured; once, before the first answer."""
        self.update(pace, 0, 0)
        known = list(zip(pace.sizes, pace.times, strict=True))[: self.MOST]
        for at, (size, seconds) in enumerate(known):
            self._whole[self._SIZES + 2 * at] = size
            self._real[self._SIZES + 2 * at + 1] = seconds
        self._whole[self._PADDED] = pace.padded
        self._whole[self._COUNT] = len(known)

    def update(self, pace: Pace, others: int, low: int) -> None:
        """What changes. `others`: rows of other front ends that are not answered, `low` of them of
        low priority."""
        self._whole[self._BATCH] = pace.batch
        self._real[self._FACTOR] = pace.factor
        self._whole[self._OTHERS] = others
        self._whole[self._LOW] = low

    @property
    def batch(self) -> int:
        """Most rows in one run, at least 1."""
        return max(self._whole[self._BATCH], 1)

    @property
    def others(self) -> int:
        """Rows of other front ends that waited when the runner last looked."""
        return self._whole[self._OTHERS]

    @property
    def low(self) -> int:
        """Those of `others` that are of low priority."""
        return self._whole[self._LOW]

    def seconds(self, rows: int) -> float:
        """Predicted seconds for so many rows; 0 before anything was published."""
        pace = self._pace or self._read()
        if pace is None:
            return 0.0
        pace.batch, pace.factor = self.batch, self._real[self._FACTOR]
        return pace.seconds(rows)

    def _read(self) -> Pace | None:
        count = min(self._whole[self._COUNT], self.MOST)
        if not count:
            return None
        places = range(self._SIZES, self._SIZES + 2 * count, 2)
        known = {self._whole[place]: self._real[place + 1] for place in places}
        self._pace = Pace.of(known, 1, padded=bool(self._whole[self._PADDED]))
        return self._pace

    def close(self) -> None:
        """Lets go of the header. To be called before the arena is closed."""
        self._whole.release()
        self._real.release()


def _cost(run: Callable[[int], object], size: int, clock: Callable[[], float]) -> float:
    """Seconds of a run."""
    # The first run of a size allocates, which only short ones feel.
    first = _timed(run, size, clock)
    again = _best(run, size, clock, TRIES if first < SHORT else TRIES - 1)
    return again if first < SHORT else min(first, again)


def _best(run: Callable[[int], object], size: int, clock: Callable[[], float], tries: int) -> float:
    """Seconds of the best run: of so many, or of more where they are short."""
    best = spent = 0.0
    for made in range(MOST_TRIES):
        if made >= tries and spent >= TRIES_SECONDS:
            break
        took = _timed(run, size, clock)
        best, spent = min(best, took) if made else took, spent + took
    return best


def _timed(run: Callable[[int], object], size: int, clock: Callable[[], float]) -> float:
    began = clock()
    run(size)
    return clock() - began
