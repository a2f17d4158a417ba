"""The runner: one process that owns the graph of one model version, and nothing else.

One thread, one loop: look at every socket, read every frame that is there, run a batch, send the
answers, again. It sleeps only when no row waits, so batching costs no delay; rows that arrive
during a run are read after it. The same loop runs as a thread of the supervisor's process when
everything is to be in one.

    control channel, from the supervisor        and back
        load {folder, provider, device,         loaded {batch, row_seconds, threads, cold}, then
            threads, max_batch, tuning,         tested {difference}; or
            precision, pad}                     refused {reason, for_good, problem}
        link {front_end} + socket, memfd
        replay                                  proven {difference} or demoted {problem}
        close {seconds}                         (the end of the channel)

`load` comes first and once. Nothing that a front end or a graph does ends this process but a native
crash, and that takes only the jobs along that were here. The supervisor's death is the end of the
control channel: the runner leaves at once. Price: a run of the graph is not interrupted for
anything, so everything here waits for as long as one batch takes.
"""

import logging
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from visionloop.errors import (
    ConfigurationError,
    CorruptError,
    NotFoundError,
    RefusedError,
    VisionloopError,
)
from visionloop.failpoints import failpoint
from visionloop_inference.control import Control, Message
from visionloop_inference.front_end_link import FrontEndLink
from visionloop_inference.loaded_model import LoadedModel, LoadOptions
from visionloop_inference.rows import Arena

log = logging.getLogger(__name__)

# What trying again cannot mend: the bundle or the flags must change.
FOR_GOOD = (CorruptError, RefusedError, NotFoundError, ConfigurationError)

_READABLE = select.EPOLLIN
_WRITABLE = select.EPOLLOUT


def serve(control: Control) -> None:
    """Lives until `close` or the end of the channel. Takes the channel over."""
    _Runner(control).live()


class _Runner:
    """The loop and what it looks at."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._model: LoadedModel | None = None
        self._links: dict[int, FrontEndLink] = {}  # by descriptor
        self._poll = select.epoll()
        self._ending: float | None = None  # monotonic time to be gone by
        self._gone = False
        self._do: dict[str, Callable[[Message, list[int]], None]] = {
            "load": self._load,
            "link": self._link,
            "replay": self._replay,
            "close": self._close,
        }

    def live(self) -> None:
        self._control.setblocking(True)
        self._poll.register(self._control.fileno(), _READABLE)
        try:
            while not self._gone:
                self._turn()
        finally:
            for link in list(self._links.values()):
                self._drop(link)
            self._poll.close()
            self._control.close()

    def _turn(self) -> None:
        model = self._model
        busy = model is not None and model.busy
        for fd, events in self._poll.poll(0 if busy else self._patience()):
            self._look(fd, events)
        if model is not None and model.busy:
            said = model.step()
            if said is not None:
                self._say(said)
            for link in self._links.values():
                model.publish(link)
        for link in list(self._links.values()):
            if link.unsent:
                self._flush(link)
        if self._ending is not None:
            idle = not self._links and not (model is not None and model.busy)
            self._gone = self._gone or idle or monotonic() >= self._ending

    def _patience(self) -> float | None:
        """Seconds to sleep for; None: until something happens."""
        return None if self._ending is None else max(0.0, self._ending - monotonic())

    def _look(self, fd: int, events: int) -> None:
        if fd == self._control.fileno():
            self._obey()
            return
        link = self._links.get(fd)  # None: dropped since the look
        if link is not None and events & ~_WRITABLE and not link.read():
            self._drop(link)

    def _flush(self, link: FrontEndLink) -> None:
        if not link.flush():
            self._drop(link)
            return
        wanted = _READABLE | _WRITABLE if link.unsent else _READABLE
        if wanted != link.events:
            link.events = wanted
            self._poll.modify(link.fileno(), wanted)

    def _drop(self, link: FrontEndLink) -> None:
        fd = link.fileno()
        self._poll.unregister(fd)
        del self._links[fd]
        link.close()

    # The control channel

    def _obey(self) -> None:
        received = self._control.receive()
        if received is None:
            self._gone = True
            return
        message, fds = received
        do = self._do.get(str(message.get("do")))
        if do is None:
            log.error("the supervisor said %s, which a runner does not know", message)
            for fd in fds:
                os.close(fd)
            return
        do(message, fds)

    def _say(self, message: Message) -> None:
        try:
            self._control.send(message)
        except OSError:
            self._gone = True

    def _load(self, message: Message, _fds: list[int]) -> None:
        try:
            failpoint(f"runner.load.{Path(message['folder']).name}")
            model = LoadedModel.of_bundle(LoadOptions.of(message))
            self._say({"said": "loaded", **model.measured()})
            self._say({"said": "tested", "difference": model.test()})
        except Exception as error:
            known = isinstance(error, VisionloopError)
            if not known:
                log.exception("a fault while loading %s", message.get("folder"))
            self._say(
                {
                    "said": "refused",
                    "reason": error.reason if isinstance(error, VisionloopError) else "internal",
                    "for_good": isinstance(error, FOR_GOOD),
                    "problem": str(error) if known else f"{type(error).__name__}: {error}",
                }
            )
            return
        self._model = model

    def _link(self, message: Message, fds: list[int]) -> None:
        if len(fds) != 2:  # the kernel drops what a process has no descriptors left for
            log.error("a link came with %d of 2 descriptors; it is closed", len(fds))
            for fd in fds:
                os.close(fd)
            return
        end = socket.socket(fileno=fds[0])
        if self._model is None:
            log.error("a link came before the model was loaded; it is closed")
            end.close()
            os.close(fds[1])
            return
        try:
            arena = Arena.open(fds[1])
        except CorruptError as error:
            log.error("%s", error)
            end.close()
            return
        link = self._model.link(end, arena, f"front end {message.get('front_end')}")
        link.events = _READABLE
        self._links[link.fileno()] = link
        self._poll.register(link.fileno(), _READABLE)

    def _replay(self, _message: Message, _fds: list[int]) -> None:
        if self._model is None:
            self._say({"said": "demoted", "problem": "no model was loaded"})
            return
        self._model.replay_rest()

    def _close(self, message: Message, _fds: list[int]) -> None:
        self._ending = monotonic() + float(message.get("seconds", 30.0))
