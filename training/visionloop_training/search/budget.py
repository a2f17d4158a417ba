"""The time that a search may take, and a trial that ends with it."""

import time

from visionloop_training.stop import Stop


class Budget:
    """So many seconds from now on."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds; below 0 when it is used up."""
        return self._end - time.monotonic()


class Deadline(Stop):
    """Told to stop when the run is, or when the budget is used up."""

    def __init__(self, run: Stop, budget: Budget) -> None:
        super().__init__()
        self._run = run
        self._budget = budget

    @property
    def told(self) -> bool:
        """Whether to stop, for either reason."""
        return super().told or self._run.told or self._budget.left <= 0
