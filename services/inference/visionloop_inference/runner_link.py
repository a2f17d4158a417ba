"""A front end's end of a link to a runner: tensors in, an answer out, any number at a time.

What the runner publishes of itself (`pace.Board`) is read here without asking: how many rows it
runs at once, what they cost, how many of other front ends wait for it.
"""

import asyncio
from collections.abc import Sequence

from visionloop_inference.datatypes import Answer, Tensor
from visionloop_inference.link import Link

# To wake a runner for one row costs both sides some 0.2 ms. Where the row itself costs less than
# CHEAP seconds, its frame may wait while a busy loop does PATIENCE seconds of other work; for a
# slower graph, or one that runs row by row, that would save little.
CHEAP = 0.0005
PATIENCE = 0.002


class RunnerLink(Link):
    """Used from one event loop only, the one it is made in."""

    other = "the runner"
    retry_seconds = 1.0  # about what a runner needs to be back

    @property
    def batch(self) -> int:
        """Most rows in one run, as the runner has it now; at least 1."""
        return self._board.batch if self._open else 1

    def ahead(self, *, low: bool) -> int:
        """Rows of other front ends that run before one that is sent now, as the runner last said:
        those of low priority only before their like."""
        if not self._open:
            return 0
        others = self._board.others
        return others if low else max(0, others - self._board.low)

    async def run(
        self, inputs: Sequence[Tensor], rows: int, deadline: float | None, priority: int = 0
    ) -> Answer:
        """Runs the inputs, in the signature's order.

        With a batch dimension every shape begins with `rows`; without one `rows` is 1. `deadline`
        is a time.monotonic(). Priority 1 goes first, higher numbers later; 0 is the normal level.
        Raises InvalidInputError for tensors that are not the signature's, DeadlineExceededError
        when it expired in the queue, OverloadedError when the arena is full or a run found no
        memory, UnavailableError when the runner is gone, VisionloopError for what went wrong
        there. Rows on which the graph fails are reported in the answer.
        """
        future: asyncio.Future[Answer] = self._loop.create_future()
        job = self._submit(inputs, rows, deadline, priority, future)
        try:
            return await future
        except asyncio.CancelledError:
            self._cancel(job)
            raise

    def _patience(self) -> float:
        worth_it = self._board.batch > 1 and self._board.seconds(1) < CHEAP
        return PATIENCE if worth_it else 0.0
