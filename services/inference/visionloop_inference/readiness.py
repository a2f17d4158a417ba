"""Whether to send this server requests: one answer for gRPC health, /readyz and the drain.

Ready means that the models serve (see `Supervisor.ready`) and that nobody asked the server to stop.
The supervisor's process decides; front ends are told, and answer health checks by themselves.
"""

import asyncio
from collections.abc import Callable

from visionloop_inference.catalogue import NO_MODEL_YET
from visionloop_inference.supervisor import Supervisor

DRAINING = "draining"


class Readiness:
    """Owns the wish to stop. `changed` is told when the answer may be another."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.stopping = asyncio.Event()
        self.hurry = asyncio.Event()  # asked a second time
        self.changed = changed
        self._supervisor: Supervisor | None = None

    def watch(self, supervisor: Supervisor) -> None:
        """From now on the answer is about these models."""
        self._supervisor = supervisor

    def stop(self) -> None:
        """A signal came: not ready from here on. The second one asks to skip the quiet."""
        if self.stopping.is_set():
            self.hurry.set()
        self.stopping.set()
        self.changed()

    def reason(self) -> str:
        """Why the server is not ready; "" when it is."""
        if self.stopping.is_set():
            return DRAINING
        return self._supervisor.reason() if self._supervisor is not None else NO_MODEL_YET
