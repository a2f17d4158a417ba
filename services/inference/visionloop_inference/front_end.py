"""One front end: a gRPC server, as the supervisor's messages want it, in a process or in a task.

A front end parses, decodes and admits; it holds no graph. It follows the supervisor's messages:

    start   {address, socket, index, settings} + fd     listen; said: listening {port}, or
                                                        refused {problem, field}
    link    {bundle, runner} + fds      a runner's socket and arena; said: unlinked {number} when
                                        it could not be taken, or broke later
    decoder {decoder} + fds             the same of a decoder
    model   {model, wanted, problem,
             stable, canary, versions}                  the routes of one model, all of them
    server  {ready, stopping, reason, default}          readiness of the whole
    log     {level}                                     how much to log
    regions {regions: [{name, key, offset, size}]}      shared memory of callers, all of it
    drain   {quiet, seconds}                            serve until it is quiet, then end
    hurry   {}                                          skip the quiet
    reply   {id, ok | error}                            to an `ask {id, kind, payload}` of ours

It ends after a drain, when the supervisor is gone, or when it has missed what the supervisor said.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import uvloop

from visionloop import errors
from visionloop.errors import ConfigurationError, UnavailableError, VisionloopError
from visionloop.telemetry import configure_logging, metrics
from visionloop.telemetry.pages import Page
from visionloop_inference.catalogue import Catalogue
from visionloop_inference.control import Control, Message
from visionloop_inference.decoder import Decoder
from visionloop_inference.decoding_load import DecodingLoad
from visionloop_inference.garbage import settle_garbage_collector
from visionloop_inference.rows import Arena
from visionloop_inference.runner_link import RunnerLink
from visionloop_inference.server import Server
from visionloop_inference.settings import Settings
from visionloop_inference.shared_memory import Region
from visionloop_inference.traffic import Traffic

log = logging.getLogger(__name__)


class FrontEnd:
    """Owns the gRPC server of this process and everything that its requests need."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._control.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[tuple[Message, list[int]] | None] = asyncio.Queue()
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count(1)
        self._drain_asked: asyncio.Future[Message | None] = self._loop.create_future()
        self._hurry = asyncio.Event()
        self._loop.add_reader(control.fileno(), self._read)

    async def run(self) -> None:
        """Until drained, or until nothing more is heard. Raises ConfigurationError at start."""
        try:
            start = await self._inbox.get()
            if start is None:
                return
            message, fds = start
            settings = Settings.from_message(message["settings"])
            catalogue = Catalogue(settings.queue_rows, settings.queue_bytes)
            # The kernel drops what a process has no room for: then we see our own images alone.
            load = DecodingLoad(fds[0], message["index"]) if fds else None
            decoder = Decoder(settings.decode_threads, load=load)
            try:
                await self._serve(message, settings, catalogue, decoder)
            finally:
                catalogue.close()
                decoder.close()
        finally:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()

    async def _serve(
        self, start: Message, settings: Settings, catalogue: Catalogue, decoder: Decoder
    ) -> None:
        traffic = Traffic()
        server = Server(settings, catalogue, decoder, traffic, self.ask)
        try:
            port = server.listen(start["address"], start["socket"])
        except ConfigurationError as error:
            self._say({"said": "refused", "problem": str(error), "field": error.field})
            return
        await server.start()
        self._say({"said": "listening", "port": port})
        follow = asyncio.create_task(
            self._follow(catalogue, decoder, server), name="follow the supervisor"
        )
        try:
            if (drain := await self._drain_asked) is not None:
                await self._drain(drain, server, traffic)
        finally:
            follow.cancel()
            await server.stop(0.0)

    async def _follow(self, catalogue: Catalogue, decoder: Decoder, server: Server) -> None:
        """Does what the supervisor says, until it is gone."""
        while (received := await self._inbox.get()) is not None:
            message, fds = received
            try:
                match message["do"]:
                    case "link":
                        self._link(
                            message["runner"],
                            partial(link_runner, catalogue, message["bundle"], fds),
                        )
                    case "decoder":
                        self._link(message["decoder"], partial(decoder.processes.link, fds))
                    case _:
                        self._obey(catalogue, server, message)
            except Exception:
                # One message that fails must not leave this front end deaf to the next.
                log.exception("what the supervisor said failed: %s", message)
            server.health.notify()
        self._hurry.set()
        if not self._drain_asked.done():
            self._drain_asked.set_result(None)

    def _obey(self, catalogue: Catalogue, server: Server, message: Message) -> None:
        match message["do"]:
            case "model":
                catalogue.update_model(message)
            case "server":
                catalogue.update_server(message)
            case "log":
                logging.getLogger().setLevel(message["level"])
            case "regions":
                server.regions.replace(Region(**region) for region in message["regions"])
            case "drain":
                if not self._drain_asked.done():
                    self._drain_asked.set_result(message)
            case "hurry":
                self._hurry.set()
            case other:
                log.error("the supervisor said %r, which means nothing here", other)

    def _link(self, number: int, take_up: Callable[[Callable[[], None]], None]) -> None:
        """Takes a link up, and asks for another one where that fails or it breaks: the other side
        may well live, and nobody else sees that it cannot be reached from here."""

        def lost() -> None:
            with contextlib.suppress(UnavailableError):  # the supervisor is gone: so are we, soon
                self._say({"said": "unlinked", "number": number})

        try:
            take_up(lost)
        except (OSError, ValueError, VisionloopError) as error:
            log.error("number %d cannot be linked here: %s", number, error)
            lost()

    async def _drain(self, message: Message, server: Server, traffic: Traffic) -> None:
        """Serves on until it is quiet, lets what is under way finish, closes the door.

        Callers who never go quiet get half of the time; the other half is for what is under way.
        """
        end = time.monotonic() + message["seconds"]
        quiet = asyncio.create_task(traffic.quiet(message["quiet"], message["seconds"] / 2))
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({quiet, hurry}, return_when=asyncio.FIRST_COMPLETED)
        for task in (quiet, hurry):
            task.cancel()
        log.info("closing the door", extra={"requests_under_way": traffic.under_way})
        server.health.close()
        # By us, with a status that callers try again elsewhere. gRPC's own end of a server cancels
        # what has come and not begun, and nobody tries that again.
        traffic.closed = True
        answered = await traffic.answered((end - time.monotonic()) / 2)
        # What is still open then is streams in which nothing is asked.
        await server.stop(0.0 if answered else max(0.0, end - time.monotonic()))

    # The channel.

    async def ask(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Asks the supervisor. Raises the VisionloopError that it answers."""
        number = next(self._numbers)
        answer = self._asked[number] = self._loop.create_future()
        try:
            self._say({"said": "ask", "id": number, "kind": kind, "payload": payload})
            found: dict[str, Any] = await answer
            return found
        finally:
            del self._asked[number]

    def _say(self, message: Message) -> None:
        try:
            self._control.send(message)
        except OSError as error:
            raise UnavailableError(f"the supervisor does not listen: {error}") from error

    def _read(self) -> None:
        while True:
            try:
                received = self._control.receive()
            except BlockingIOError:
                return
            except OSError as error:
                # What was said is lost and nobody knows it: who starts afresh is told everything.
                log.error("a message of the supervisor is lost, so this front end ends: %s", error)
                received = None
            if received is None:
                self._loop.remove_reader(self._control.fileno())
                self._inbox.put_nowait(None)
                return
            message, _ = received
            if message["do"] == "reply":
                self._take_reply(message)
            else:
                self._inbox.put_nowait(received)

    def _take_reply(self, message: Message) -> None:
        answer = self._asked.get(message["id"])
        if answer is None or answer.done():
            return
        if (error := message.get("error")) is not None:
            answer.set_exception(errors.error_for_grpc_code(error["code"], error["message"]))
        else:
            answer.set_result(message["ok"])


def link_runner(
    catalogue: Catalogue, bundle: str, fds: list[int], lost: Callable[[], None]
) -> None:
    """One more runner for the version of `bundle`, which is its bundle.json.

    `fds` are the socket and the arena, which are ours from here on. A link that breaks leaves the
    version by itself, and `lost` is told. Raises ValueError where descriptors are missing (the
    kernel drops what a process has no room for), CorruptError, and OSError.
    """
    try:
        end, arena = fds
        version = catalogue.version(bundle.encode())
    except (ValueError, VisionloopError):
        for fd in fds:  # which tells the runner; it would wait for us at its end
            os.close(fd)
        raise

    def broke(link: RunnerLink) -> None:
        if link in version.links:
            version.links.remove(link)
        lost()

    version.links.append(
        RunnerLink(socket.socket(fileno=end), Arena.open(arena), version.signature, broke)
    )


def main() -> int:
    """A front end as a process: `python -m visionloop_inference.front_end CONTROL_FD PAGE_FD`."""
    # Ctrl-C reaches the whole group of a terminal, systemd's SIGTERM the whole service: only the
    # supervisor decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    control_fd, page_fd = map(int, sys.argv[1:])
    metrics.write_to(Page.shared(page_fd))
    os.close(page_fd)
    configure_logging("visionloop-inference")
    settle_garbage_collector()

    async def serve() -> None:
        await FrontEnd(Control.of_fd(control_fd)).run()

    try:
        uvloop.run(serve())
    except VisionloopError as error:
        log.error("the front end ended: %s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
