"""A runner as the supervisor sees it: a child that loads one version, proves it, and runs it."""

import asyncio
import logging
from pathlib import Path
from typing import Any

from visionloop.bundle import Bundle, ClassifierBundle
from visionloop.errors import CorruptError, RefusedError, UnavailableError, VisionloopError
from visionloop_inference.children import Child
from visionloop_inference.control import Control, Message
from visionloop_inference.datatypes import byte_size
from visionloop_inference.linked_child import Linked, LinkedChild
from visionloop_inference.rows import aligned

log = logging.getLogger(__name__)

MODULE = "visionloop_inference.runner_process"
MANY = 10  # times the predicted cost; more than that and a runner hangs


class HostedRunner(LinkedChild):
    """One runner of one version. `batch` and `row_seconds` are known once it is loaded."""

    def __init__(self, bundle: Bundle, folder: Path, instance: int, *, process: bool) -> None:
        super().__init__()
        self.bundle = bundle
        self.folder = folder
        self.instance = instance
        self.batch = 0
        self.row_seconds = 0.0
        self.pause = 0.0  # seconds that its place was empty before it was started
        self._said: asyncio.Queue[Message | None] = asyncio.Queue()
        name = f"runner {instance} of {bundle.model} version {bundle.version}"
        self.child = Child(name, self._said.put_nowait)
        self.child.ended.add_done_callback(lambda _: self._said.put_nowait(None))
        if process:
            self.child.spawn(MODULE, {})
        else:
            self.child.start_thread(_serve)

    async def load(self, options: dict[str, Any], patience: float) -> None:
        """Loads, warms up and replays the first golden images, all in the runner.

        Raises CorruptError or RefusedError when the version must not serve, UnavailableError when
        the runner died or took too long. Nothing is left running then.
        """
        try:
            async with asyncio.timeout(patience):
                self.child.send({"do": "load", "folder": str(self.folder), **options})
                loaded = await self._wait_for("loaded")
                self.batch, self.row_seconds = loaded["batch"], loaded["row_seconds"]
                await self._wait_for("tested")
        except BaseException as error:
            self.child.kill()
            if isinstance(error, TimeoutError):
                raise UnavailableError(
                    f"{self.child.name} was not ready after {patience:.0f} s (--load-seconds)"
                ) from error
            raise

    async def replay(self, patience: float) -> float:
        """Replays the other golden images beside the traffic; the largest difference.

        Raises RefusedError on a mismatch, UnavailableError when the runner died or hangs: it gets
        `patience` seconds, and many times what each image costs beside a full batch.
        """
        bundle = self.bundle
        images = bundle.golden.items if isinstance(bundle, ClassifierBundle) else 0
        seconds = patience + MANY * images * (self.batch + 1) * self.row_seconds
        self.child.send({"do": "replay"})
        try:
            async with asyncio.timeout(seconds):
                difference: float = (await self._wait_for("proven"))["difference"]
        except TimeoutError as error:
            raise UnavailableError(
                f"{self.child.name} has not replayed its golden images after {seconds:.0f} s "
                "(--load-seconds and more): it hangs"
            ) from error
        return difference

    def link(self, front_end: Linked, arena_bytes: int, rows: int) -> None:
        signature = self.bundle.signature
        row = sum(
            aligned(byte_size(spec.datatype, [max(size, 1) for size in spec.shape]))
            for spec in (*signature.inputs, *signature.outputs)
        )
        # The bundle itself, not where it lies: a cache may be swept while we serve.
        told = {"do": "link", "bundle": self.bundle.model_dump_json(), "runner": self.number}
        self._join(front_end, max(arena_bytes, (rows + 1) * row), told)

    async def _wait_for(self, wanted: str) -> Message:
        while (message := await self._said.get()) is not None:
            said = message["said"]
            if said == wanted:
                return message
            if said in ("refused", "demoted"):
                raise _refusal(message)
            log.debug("%s said %s", self.child.name, said)
        raise RunnerDiedError(f"{self.child.name} {self.child.ended.result()}")


def _serve(control: Control) -> None:
    # Here, because onnxruntime is 40 MB which a supervisor of processes does without.
    from visionloop_inference import runner

    runner.serve(control)


class RunnerDiedError(UnavailableError):
    """The runner's process ended when it should not have."""


def _refusal(message: Message) -> VisionloopError:
    kinds = {"corrupt": CorruptError, "refused": RefusedError}
    kind = kinds.get(message.get("reason", "refused"))
    if kind is not None:
        return kind(message["problem"])
    return (
        RefusedError(message["problem"])
        if message.get("for_good")
        else UnavailableError(message["problem"])
    )
