"""The stages of a run as they pass: timed, watched, and with a place to stop between them."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from visionloop_training.request import Request

_log = logging.getLogger(__name__)


class Clock:
    """Wall seconds by stage. Between stages a run can be stopped."""

    def __init__(self, request: Request) -> None:
        self.seconds: dict[str, float] = {}
        self._request = request

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        stop = self._request.stop
        if self._request.workers.stopping:
            stop.tell()
        stop.check(f"before the stage {stage}")
        self._request.watch.stage(stage)
        started = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - started, 3)
        _log.info("%s: %.1f s", stage, self.seconds[stage])
