"""A decoder as the supervisor sees it: a child that is up, or not yet, and linked to front ends."""

import asyncio

from visionloop.errors import UnavailableError
from visionloop.images import DEFAULT_LIMITS
from visionloop_inference.children import Child
from visionloop_inference.control import Message
from visionloop_inference.hosted_front_end import ALLOCATOR
from visionloop_inference.linked_child import Linked, LinkedChild

MODULE = "visionloop_inference.decoder_process"
START_PATIENCE = 60.0  # seconds
# Pixels of one image are handed back and fetched anew by the next otherwise; and numpy, which only
# copies here, must not start a thread for every core.
ENVIRONMENT = {**ALLOCATOR, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# Bytes of each link's arena: the largest image that is taken, and a row of 2048 x 2048. It costs
# memory where it holds something: 0.2 MB for each small image that is under way.
ARENA = DEFAULT_LIMITS.max_bytes + 12 * 2**20


class HostedDecoder(LinkedChild):
    """One decoder; `index` is its place among them. Raises OSError where no process can be made."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.child = Child(f"decoder {index}", self._hear)
        self.child.ended.add_done_callback(self._gone)
        self.child.spawn(MODULE, ENVIRONMENT)

    async def ready(self) -> None:
        """Waits until it is up: images would wait while it imports. Raises UnavailableError when
        it died or took too long."""
        try:
            async with asyncio.timeout(START_PATIENCE):
                await self._ready
        except TimeoutError as error:
            raise UnavailableError(
                f"decoder {self.index} is not up after {START_PATIENCE:.0f} s"
            ) from error

    def link(self, front_end: Linked, _arena_bytes: int, _rows: int) -> None:
        self._join(front_end, ARENA, {"do": "decoder", "decoder": self.number})

    def _hear(self, message: Message) -> None:
        if message["said"] == "ready" and not self._ready.done():
            self._ready.set_result(None)

    def _gone(self, ended: asyncio.Future[str]) -> None:
        if not self._ready.done():
            self._ready.set_exception(
                UnavailableError(f"decoder {self.index} {ended.result()} before it was up")
            )
            self._ready.exception()  # there may be nobody to hear of it
