"""Being told to stop: a pod that is moved gets SIGTERM and some seconds, and must lose nothing.

The signal only sets a mark. The run looks at it where stopping costs nothing: between stages,
between batches of features, and after an optimiser step, whose checkpoint is then written first.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ClassVar

from visionloop.errors import VisionloopError


class PreemptedError(VisionloopError):
    """The run was told to stop and can be continued. A Job should simply run it again."""

    grpc_code: ClassVar[str] = "UNAVAILABLE"
    http_status: ClassVar[int] = 503
    # Not one of sysexits' codes: a pod failure policy must be able to tell it from all others.
    exit_code: ClassVar[int] = 85


class Stop:
    """Whether the run was told to stop. May be asked and told from any thread."""

    def __init__(self) -> None:
        self._told = threading.Event()

    def tell(self) -> None:
        """Stop at the next good moment."""
        self._told.set()

    @property
    def told(self) -> bool:
        """Whether to stop."""
        return self._told.is_set()

    def wait(self, seconds: float) -> None:
        """Sleeps, unless told."""
        self._told.wait(seconds)

    def check(self, where: str) -> None:
        """Raises PreemptedError once told; `where` says to people how far the run was."""
        if self.told:
            raise PreemptedError(
                f"stopped by a signal {where}; run the same command again to go on from there"
            )

    @contextmanager
    def on_signal(self) -> Iterator[None]:
        """SIGTERM tells; to be used on the main thread."""

        def told(_number: int, _frame: FrameType | None) -> None:
            self.tell()

        before = signal.signal(signal.SIGTERM, told)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
