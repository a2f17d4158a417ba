"""Whether to send this server requests: one answer for gRPC health, /readyz and the drain.

Ready means that the models serve (see `Supervisor.ready`) and that nobody asked the server to stop.
"""

import asyncio

from visionloop_inference.health import Health
from visionloop_inference.supervisor import NO_MODEL_YET, Supervisor

SERVER = ""  # the health service's name for the server as a whole


class Readiness:
    """Owns the wish to stop, and the health service that tells the world."""

    def __init__(self, services: frozenset[str]) -> None:
        self.health = Health(self.serving)
        self.stopping = asyncio.Event()
        self.hurry = asyncio.Event()  # asked a second time
        self._services = services | {SERVER}
        self._supervisor: Supervisor | None = None

    def watch(self, supervisor: Supervisor) -> None:
        """From now on the answer is about these models."""
        self._supervisor = supervisor

    def stop(self) -> None:
        """A signal came: not ready from here on. The second one asks to skip the quiet."""
        if self.stopping.is_set():
            self.hurry.set()
        self.stopping.set()
        self.health.notify()

    @property
    def ready(self) -> bool:
        """For the server as a whole."""
        supervisor = self._supervisor
        return supervisor is not None and supervisor.ready and not self.stopping.is_set()

    def serving(self, name: str) -> bool | None:
        """For the server (""), one of its gRPC services, or a model; None for any other name."""
        if name in self._services:
            return self.ready
        supervisor = self._supervisor
        if supervisor is None or (model := supervisor.models.get(name)) is None:
            return None
        return model.current is not None and not self.stopping.is_set()

    def reason(self) -> str:
        """Why the server is not ready; "" when it is."""
        if self.stopping.is_set():
            return "draining"
        if self.ready:
            return ""
        models = self._supervisor.models.values() if self._supervisor is not None else ()
        return "; ".join(model.problem for model in models if model.problem) or NO_MODEL_YET
