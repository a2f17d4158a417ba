"""A front end as the supervisor sees it: a child that listens, is told things, and asks some."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from visionloop.errors import ConfigurationError, UnavailableError, VisionloopError
from visionloop_inference.children import Child
from visionloop_inference.control import Control, Message
from visionloop_inference.settings import Settings

log = logging.getLogger(__name__)

MODULE = "visionloop_inference.front_end"
START_PATIENCE = 60.0  # seconds

# glibc gives every buffer above 128 KiB back to the kernel and faults it in again for the next
# message: with these, 150 kB requests cost a tenth less. Larger ones keep more than they save.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
    "MALLOC_TOP_PAD_": str(8 * 2**20),
}

Answer = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


class HostedFrontEnd:
    """One front end: a process, or with `process` False a task of this one.

    `local` is the path of its Unix socket, `load` the descriptor of everybody's `DecodingLoad`.
    `answer(kind, payload)` answers what it asks; `unlinked(front end, number)` is told of a runner
    or decoder that it does not reach (any more).
    """

    def __init__(
        self,
        index: int,
        address: str,
        local: str,
        load: int,
        settings: Settings,
        answer: Answer,
        unlinked: "Callable[[HostedFrontEnd, int], None]",
        *,
        process: bool,
    ) -> None:
        self.index = index
        self.local = local
        self._answer = answer
        self._unlinked = unlinked
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        # Where the start fails for another reason, nobody is left to hear of this one.
        self._listening.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.child = Child(f"front end {index}", self._hear)
        self.child.ended.add_done_callback(self._gone)
        if process:
            self.child.spawn(MODULE, ALLOCATOR)
        else:
            self.child.start_task(_serve)
        self.send(
            {
                "do": "start",
                "address": address,
                "socket": local,
                "index": index,
                "settings": settings.to_message(),
            },
            [load],
        )

    async def listening(self) -> int:
        """The port. Raises ConfigurationError if it cannot listen, UnavailableError if it died or
        took too long."""
        try:
            async with asyncio.timeout(START_PATIENCE):
                return await self._listening
        except TimeoutError as error:
            raise UnavailableError(
                f"front end {self.index} does not listen after {START_PATIENCE:.0f} s"
            ) from error

    def send(self, message: Message, fds: list[int]) -> None:
        """Raises UnavailableError where it is gone or does not read."""
        self.child.send(message, fds)

    def say(self, message: Message) -> None:
        """As `send`, to one that may be gone: it is told when it is back."""
        try:
            self.child.send(message)
        except UnavailableError as error:
            if not self.child.ended.done():
                # It does not read: what it would miss cannot be repeated, so it starts afresh.
                log.error("%s; it is started again", error)
                self.child.kill()

    def _hear(self, message: Message) -> None:
        match message["said"]:
            case "listening" | "refused" if self._listening.done():
                log.debug("nobody waits any more for front end %d", self.index)
            case "listening":
                self._listening.set_result(message["port"])
            case "refused":
                self._listening.set_exception(
                    ConfigurationError(message["problem"], field=message["field"])
                )
            case "ask":
                task = asyncio.create_task(self._reply(message))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case "unlinked":
                self._unlinked(self, message["number"])
            case other:
                log.debug("front end %d said %s: %s", self.index, other, message)

    async def _reply(self, message: Message) -> None:
        reply: Message = {"do": "reply", "id": message["id"]}
        try:
            reply["ok"] = await self._answer(message["kind"], message["payload"])
        except VisionloopError as error:
            reply["error"] = {"code": error.grpc_code, "message": str(error)[:4096]}
        except Exception:
            log.exception("answering %s failed", message["kind"])
            reply["error"] = {"code": "INTERNAL", "message": "a fault of the server; see its log"}
        self.say(reply)

    def _gone(self, ended: asyncio.Future[str]) -> None:
        if not self._listening.done():
            self._listening.set_exception(
                UnavailableError(f"front end {self.index} {ended.result()} before it listened")
            )


async def _serve(control: Control) -> None:
    # Here, because gRPC and its servicers are 30 MB which a supervisor of processes does without.
    from visionloop_inference.front_end import FrontEnd

    await FrontEnd(control).run()
