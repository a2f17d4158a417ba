"""A supervisor and its front ends in the test's own process, to which a test does bad things."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from support.waiting import PATIENCE

from visionloop.objectstore import open_store
from visionloop.repository import ModelRepository
from visionloop_inference.answers import Answers
from visionloop_inference.front_ends import FrontEnds
from visionloop_inference.loading import Loader
from visionloop_inference.settings import parse
from visionloop_inference.supervisor import Supervisor

# The modules that children run as.
RUNNER, FRONT_END = "visionloop_inference.runner_process", "visionloop_inference.front_end"


class Plane:
    """A supervisor and its children in this process, without signals and HTTP."""

    def __init__(self, supervisor: Supervisor, all_front_ends: FrontEnds) -> None:
        self.supervisor = supervisor
        self.front_ends = all_front_ends

    async def settle(self) -> bool:
        """One look at "cells" as it stands in the store; whether it is settled."""
        model = self.supervisor._model("cells")
        await self.supervisor.look(model)
        return "cells" in self.supervisor._settled


def in_plane(
    folder: Path, store: str, scenario: Callable[[Plane], Awaitable[None]], *flags: str
) -> None:
    """Plays a scenario on a plane that follows `store`; `folder` keeps its cache."""

    @asynccontextmanager
    async def plane() -> AsyncIterator[Plane]:
        settings = parse(
            [f"--store={store}", "--port=0", "--front-ends=1", "--threads=1", *flags], {}
        )
        answers = Answers()
        everyone = answers.front_ends = FrontEnds(settings, answers)
        with ThreadPoolExecutor(2) as pool:
            repository = ModelRepository(open_store(store))
            loader = Loader(repository, folder / "cache", settings, pool, everyone)
            supervisor = answers.supervisor = Supervisor(loader, settings, lambda: None)
            try:
                everyone.start(settings.host, settings.port)
                await everyone.listening()
                yield Plane(supervisor, everyone)
            finally:
                await supervisor.close()
                await everyone.close()

    async def run() -> None:
        async with asyncio.timeout(PATIENCE), plane() as the_plane:
            await scenario(the_plane)

    asyncio.run(run())
