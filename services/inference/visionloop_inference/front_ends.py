"""All front ends of this server: started, kept alive, and told the same.

A front end that dies is started again and told everything anew: runners and decoders get a new link
to it, and the routes are repeated. What it held is lost to its callers, who see UNAVAILABLE.
"""

import asyncio
import contextlib
import logging
import socket
import tempfile
from pathlib import Path
from typing import Any

from visionloop.errors import ConfigurationError, UnavailableError, VisionloopError
from visionloop.flags import endpoint
from visionloop.telemetry import inference as metrics
from visionloop_inference.control import Message
from visionloop_inference.decoding_load import DecodingLoad
from visionloop_inference.hosted_front_end import Answer, HostedFrontEnd
from visionloop_inference.linked_child import LinkedChild
from visionloop_inference.restarts import next_pause
from visionloop_inference.settings import Settings

log = logging.getLogger(__name__)

LINK_PAUSE = 1.0  # seconds before a link that the machine had no room for is tried again


class FrontEnds:
    """`answer(kind, payload)` answers what front ends ask."""

    def __init__(self, settings: Settings, answer: Answer) -> None:
        self.settings = settings
        self.count = max(1, settings.front_end_processes)
        self._address = ""
        self.local = ""  # the gRPC target of the first one, for this program's own HTTP port
        self._in_processes = settings.front_end_processes > 0
        self._answer = answer
        self._hosted: list[HostedFrontEnd] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._children: list[LinkedChild] = []  # that all are linked to
        self._load = DecodingLoad.create()
        self._routes: dict[str, Message] = {}
        self._regions: Message | None = None
        self._server: Message | None = None
        self._log: Message | None = None
        self._port_holder: socket.socket | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="visionloop-sockets-")
        self._closing = False

    def start(self, host: str, port: int) -> int:
        """Starts all; the port they will listen on. Raises ConfigurationError when it is taken."""
        self._port_holder, port = held_port(host, port)
        address = endpoint(host, port)
        self._hosted = [self._new(index, address) for index in range(self.count)]
        self.local = f"unix:{self._hosted[0].local}"
        self._address = address
        return port

    async def listening(self) -> None:
        """Waits until all listen; from then on one that dies is started again.

        Raises ConfigurationError when one cannot listen, UnavailableError when one died.
        """
        await asyncio.gather(*(one.listening() for one in self._hosted))
        self._keepers = [
            asyncio.create_task(self._keep(index, self._address), name=f"keep front end {index}")
            for index in range(self.count)
        ]

    def _new(self, index: int, address: str) -> HostedFrontEnd:
        local = Path(self._folder.name) / f"front-end-{index}.sock"
        local.unlink(missing_ok=True)
        return HostedFrontEnd(
            index,
            address,
            str(local),
            self._load.fd,
            self.settings,
            self._answer,
            self._unlinked,
            process=self._in_processes,
        )

    async def _keep(self, index: int, address: str) -> None:
        pause = 0.0
        loop = asyncio.get_running_loop()
        born = loop.time()
        while True:
            how = await asyncio.shield(self._hosted[index].child.ended)
            self._load.clear(index)
            if self._closing:
                return
            longest = self.settings.restart_pause_seconds
            pause = next_pause(pause, loop.time() - born, longest)
            metrics.RESTARTS.labels(process="front_end").inc()
            log.error("front end %d %s; starting it again", index, how)
            await asyncio.sleep(pause)
            if self._closing:  # one that starts now would not be told to drain
                return
            born = loop.time()
            try:
                await self._start_again(index, address)
            except (VisionloopError, OSError) as error:
                log.error("front end %d does not start: %s", index, error)
                self._hosted[index].child.kill()

    async def _start_again(self, index: int, address: str) -> None:
        """Raises VisionloopError, and OSError when the machine has no room for a process."""
        hosted = self._hosted[index] = self._new(index, address)
        # Before it listens: from here on it hears what all hear, and hears nothing twice.
        for child in tuple(self._children):
            self._link(child, hosted)
        for message in (*self._routes.values(), self._regions, self._server, self._log):
            if message is not None:
                hosted.say(message)
        await hosted.listening()

    # What all of them are told.

    def connect(self, child: LinkedChild) -> None:
        """Links a runner or decoder to every front end, from now on; it hears what all hear."""
        self._children.append(child)
        self.greet(child)
        for hosted in self._hosted:
            self._link(child, hosted)

    def disconnect(self, child: LinkedChild) -> None:
        """It is gone or about to go: no new links."""
        with contextlib.suppress(ValueError):
            self._children.remove(child)

    def _link(self, child: LinkedChild, hosted: HostedFrontEnd) -> None:
        if child not in self._children or hosted not in self._hosted or self._closing:
            return  # gone while this waited
        try:
            child.link(hosted, self.settings.queue_bytes, self.settings.max_images)
        except UnavailableError as error:
            log.debug("no link: %s", error)  # whoever died is started again, and linked then
        except OSError as error:
            # Out of descriptors or memory: it would serve the others alone.
            log.error(
                "%s and front end %d cannot be linked (%s); trying again in %.0f s",
                child.child.name, hosted.index, error, LINK_PAUSE,
            )  # fmt: skip
            self._link_later(child, hosted)

    def _link_later(self, child: LinkedChild, hosted: HostedFrontEnd) -> None:
        asyncio.get_running_loop().call_later(LINK_PAUSE, self._link, child, hosted)

    def _unlinked(self, hosted: HostedFrontEnd, number: int) -> None:
        """A front end says that a link of it broke, or could not be taken up. Where the other side
        died, the pause is long enough for its end to be seen, and there is no link."""
        for child in self._children:
            if child.number == number:
                self._link_later(child, hosted)

    def route(self, model: str, message: Message) -> None:
        """The routes of a model, until the next ones."""
        self._routes[model] = {"do": "model", "model": model, **message}
        self._say(self._routes[model])

    def server(self, *, ready: bool, stopping: bool, reason: str, default: str) -> None:
        """The readiness of the whole; said when it changed."""
        message = {
            "do": "server", "ready": ready, "stopping": stopping, "reason": reason,
            "default": default,
        }  # fmt: skip
        if message != self._server:
            self._server = message
            self._say(message)

    def log_level(self, level: str) -> None:
        """Of all loggers, also those of what is linked to front ends, until the next one; by its
        name in `logging`."""
        self._log = {"do": "log", "level": level}
        self._say(self._log)
        for child in self._children:
            self.greet(child)

    def greet(self, child: LinkedChild) -> None:
        """Tells a child the level of the log, where it was changed since the start."""
        if self._log is not None:
            child.log_level(self._log["level"])

    def regions(self, regions: list[dict[str, Any]]) -> None:
        """Shared memory that callers registered, all of it: every front end must know it."""
        self._regions = {"do": "regions", "regions": regions}
        self._say(self._regions)

    def _say(self, message: Message) -> None:
        for hosted in self._hosted:
            hosted.say(message)

    # The end.

    async def drain(self, quiet: float, seconds: float) -> None:
        """Each serves on until it is quiet, lets what is under way finish, and ends."""
        self._closing = True
        self._say({"do": "drain", "quiet": quiet, "seconds": seconds})
        await asyncio.gather(*(hosted.child.stop(seconds + 2.0) for hosted in self._hosted))

    def hurry(self) -> None:
        """While they drain: they no longer wait until it is quiet."""
        self._say({"do": "hurry"})

    async def close(self) -> None:
        """Ends whatever still runs."""
        self._closing = True
        for task in self._keepers:
            task.cancel()
        for hosted in self._hosted:
            if not hosted.child.ended.done():
                hosted.child.kill()
                await hosted.child.stop(2.0)
        if self._port_holder is not None:
            self._port_holder.close()
        self._folder.cleanup()
        self._load.close()


def held_port(host: str, port: int) -> tuple[socket.socket, int]:
    """A socket that holds the port without listening, so that front ends can share it.

    A port with SO_REUSEPORT can be shared by any program of the same user: that nobody has it is
    seen by binding it without, once. Raises ConfigurationError when it is taken.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(address)
            address = alone.getsockname()
        holder = socket.socket(family, kind)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(address)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: the port is taken or the address is not of this "
            f"machine ({error.strerror or error}); choose another by --port or --host",
            field="port",
        ) from error
    return holder, int(address[1])
