"""A child of the supervisor: a process at the other end of a control channel, or a stand-in.

With `--front-ends 0` nothing is spawned: a runner is then a thread and the front end a task of this
process, speaking over the same channel. Either way a child ends when its channel ends, so a killed
supervisor leaves nothing behind.
"""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from visionloop.errors import UnavailableError
from visionloop.telemetry import metrics
from visionloop.telemetry.pages import Page, shared_memory
from visionloop_inference.control import Control, Message

log = logging.getLogger(__name__)

MOST_UNSENT = 10_000  # messages; one more and the child counts as hung


class Child:
    """`on_message` gets what it says; `ended` becomes how it ended, in words, after its last."""

    def __init__(self, name: str, on_message: Callable[[Message], None]) -> None:
        self.name = name
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._control, self._theirs = Control.pair()
        self._control.setblocking(False)
        self._process: subprocess.Popen[bytes] | None = None
        self._page: Page | None = None
        self._pidfd = -1
        self._unsent: deque[tuple[Message, list[int]]] = deque()

    @property
    def pid(self) -> int:
        """The child's process id; our own for a stand-in."""
        return self._process.pid if self._process is not None else os.getpid()

    def spawn(self, module: str, environment: Mapping[str, str]) -> None:
        """Starts `python -m module CONTROL_FD PAGE_FD`."""
        page = shared_memory()
        try:
            counts = Page.shared(page)
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(self._theirs.fileno()), str(page)],
                pass_fds=[self._theirs.fileno(), page],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
            )
        finally:
            os.close(page)
            self._theirs.close()
        try:
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError:  # no descriptor left: nobody would see its end
            self._process.kill()
            self._process.wait()
            raise
        self._page = counts
        metrics.adopt(counts)
        self._loop.add_reader(self._pidfd, self._reap)
        self._loop.add_reader(self._control.fileno(), self._read)

    def start_thread(self, serve: Callable[[Control], None]) -> None:
        """Runs `serve` in a thread of this process instead."""

        def live() -> None:
            how = "returned"
            try:
                serve(self._theirs)
            except BaseException as error:
                log.exception("%s failed", self.name)
                how = f"failed: {error}"
            finally:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks any more
                    self._loop.call_soon_threadsafe(self._end, how)

        threading.Thread(target=live, name=self.name, daemon=True).start()
        self._loop.add_reader(self._control.fileno(), self._read)

    def start_task(self, serve: Callable[[Control], Coroutine[Any, Any, None]]) -> None:
        """Runs `serve` as a task of this event loop instead."""
        task = asyncio.create_task(serve(self._theirs), name=self.name)

        def done(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None:
                log.error("%s failed", self.name, exc_info=error)
            self._end(f"failed: {error}" if error else "returned")

        task.add_done_callback(done)
        self._loop.add_reader(self._control.fileno(), self._read)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Sends now, or, when the channel is full, as soon as the child has read; in order.

        Raises UnavailableError when the child is gone, or has not read for so long that MOST_UNSENT
        messages wait.
        """
        if self._unsent:
            self._keep(message, fds)
            return
        try:
            self._control.send(message, fds)
        except BlockingIOError:
            self._keep(message, fds)
            self._loop.add_writer(self._control.fileno(), self._send_rest)
        except OSError as error:
            raise UnavailableError(f"{self.name} does not listen: {error}") from error

    def _keep(self, message: Message, fds: Sequence[int]) -> None:
        if len(self._unsent) >= MOST_UNSENT:
            raise UnavailableError(f"{self.name} leaves {MOST_UNSENT} messages unread")
        # The caller closes its descriptors when `send` is back.
        self._unsent.append((message, [os.dup(fd) for fd in fds]))

    def _send_rest(self) -> None:
        while self._unsent:
            message, fds = self._unsent[0]
            try:
                self._control.send(message, fds)
            except BlockingIOError:
                return
            except OSError:
                break  # it is gone; its end is seen elsewhere
            self._unsent.popleft()
            for fd in fds:
                os.close(fd)
        self._loop.remove_writer(self._control.fileno())
        self._forget_unsent()

    def _forget_unsent(self) -> None:
        for _, fds in self._unsent:
            for fd in fds:
                os.close(fd)
        self._unsent.clear()

    def kill(self) -> None:
        """Ends it at once. A stand-in cannot be killed; it sees the end of its channel."""
        if self._process is not None and not self.ended.done():
            self._process.kill()
        else:
            self._hang_up()

    async def stop(self, patience: float) -> None:
        """Waits for its end for so long, then kills it."""
        try:
            await asyncio.wait_for(asyncio.shield(self.ended), patience)
        except TimeoutError:
            log.warning("%s does not end by itself and is killed", self.name)
            self.kill()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.ended), patience)

    def _read(self) -> None:
        while self._control.fileno() >= 0:
            try:
                received = self._control.receive()
            except BlockingIOError:
                return
            except OSError:
                received = None
            if received is None:
                self._loop.remove_reader(self._control.fileno())
                return
            message, fds = received
            for fd in fds:  # children send none
                os.close(fd)
            try:
                self._on_message(message)
            except Exception:
                log.exception("%s said %s, which failed", self.name, message)

    def _reap(self) -> None:
        assert self._process is not None  # noqa: S101 — there is a pidfd
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._end(ended_how(self._process.wait()))

    def _end(self, how: str) -> None:
        if self.ended.done():
            return
        self._read()  # its last words
        self._hang_up()
        try:
            if self._page is not None:
                metrics.fold(self._page)
        finally:
            self.ended.set_result(how)

    def _hang_up(self) -> None:
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())
            self._loop.remove_writer(self._control.fileno())
            self._control.close()
        self._forget_unsent()


def ended_how(code: int) -> str:
    """An exit status in words."""
    if code >= 0:
        return f"exited with code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"
