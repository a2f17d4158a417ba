"""The loop of a process that front ends are linked to: a runner's, and a decoder's.

One thread, one loop: look at every socket, read every frame that is there, do one piece of work,
send the answers, again. It sleeps only when nothing waits, so work is never held back; frames that
arrive meanwhile are read after it. Both kinds of process are told this by the supervisor, besides
what is their own:

    link {front_end} + socket, memfd
    log {level}                             how much to log
    close {seconds}                         (the end of the channel)

Nothing that a front end does ends the process. The supervisor's death is the end of the control
channel: the process leaves at once. Price: a piece of work is not interrupted for anything, so
everything here waits for as long as one takes.
"""

import logging
import os
import select
import socket
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from visionloop.errors import CorruptError
from visionloop_inference.control import Control, Message
from visionloop_inference.front_end_link import FrontEndLink
from visionloop_inference.rows import Arena

log = logging.getLogger(__name__)

_READABLE = select.EPOLLIN
_WRITABLE = select.EPOLLOUT


class Work(Protocol):
    """What the jobs of the links are put to."""

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""

    def link(self, end: socket.socket, arena: Arena, name: str) -> FrontEndLink:
        """A link whose jobs are done here. Takes the socket and the arena over."""

    def step(self) -> Message | None:
        """One piece of work; what the supervisor is told of it."""

    def publish(self, link: FrontEndLink) -> None:
        """Tells a front end how things stand; called in each turn."""


class LinkLoop:
    """The loop and what it looks at."""

    def __init__(self, control: Control, work: Work | None = None) -> None:
        """Takes the channel over. Without `work` links are refused until there is some."""
        self.work = work
        self._control = control
        self._links: dict[int, FrontEndLink] = {}  # by descriptor
        self._poll = select.epoll()
        self._ending: float | None = None  # monotonic time to be gone by
        self._gone = False
        self.commands: dict[str, Callable[[Message, list[int]], None]] = {
            "link": self._link,
            "log": self._log,
            "close": self._close,
        }

    def live(self) -> None:
        """Until `close` or the end of the channel."""
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

    def say(self, message: Message) -> None:
        """Tells the supervisor; without one there is nothing left to do here."""
        try:
            self._control.send(message)
        except OSError:
            self._gone = True

    def _turn(self) -> None:
        work = self.work
        busy = work is not None and work.busy
        for fd, events in self._poll.poll(0 if busy else self._patience()):
            self._look(fd, events)
        work = self.work  # a command may have brought it
        if work is not None and work.busy:
            said = work.step()
            if said is not None:
                self.say(said)
        self._publish()
        for link in list(self._links.values()):
            if link.unsent:
                self._flush(link)
        if self._ending is not None:
            idle = not self._links and not (work is not None and work.busy)
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

    def _publish(self) -> None:
        if self.work is not None:
            for link in self._links.values():
                self.work.publish(link)

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
        self._publish()  # what it held is not before the rows of others any more

    # The control channel

    def _obey(self) -> None:
        received = self._control.receive()
        if received is None:
            self._gone = True
            return
        message, fds = received
        do = self.commands.get(str(message.get("do")))
        if do is None:
            log.error("the supervisor said %s, which is not known here", message)
            for fd in fds:
                os.close(fd)
            return
        do(message, fds)

    def _link(self, message: Message, fds: list[int]) -> None:
        if len(fds) != 2:  # the kernel drops what a process has no descriptors left for
            log.error("a link came with %d of 2 descriptors; it is closed", len(fds))
            for fd in fds:
                os.close(fd)
            return
        end = socket.socket(fileno=fds[0])
        if self.work is None:
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
        link = self.work.link(end, arena, f"front end {message.get('front_end')}")
        link.events = _READABLE
        self._links[link.fileno()] = link
        self._poll.register(link.fileno(), _READABLE)

    def _log(self, message: Message, _fds: list[int]) -> None:
        logging.getLogger().setLevel(message["level"])

    def _close(self, message: Message, _fds: list[int]) -> None:
        self._ending = monotonic() + float(message.get("seconds", 30.0))
