"""The service's end of the processes that decode: it starts them, asks them and ends them.

`inspector` holds the other end and describes what goes over the sockets. A worker is used by one
thread at a time; commands to the nursery go one after the other, each a millisecond or two, but the
first, which waits until Pillow and numpy are loaded.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Final, TypeAlias

from visionloop.errors import UnavailableError
from visionloop.images import Limits
from visionloop.telemetry import labeling as metrics
from visionloop_labeling.inspector import MESSAGE_BYTES, REPLY, REQUEST
from visionloop_labeling.renditions import MAX_BYTES

_START_SECONDS: Final = 30.0
_MAX_WORDS: Final = 64 * 2**10  # bytes of JSON in an answer
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "TMPDIR")
_RECEIVED_BYTES: Final = 256 * 2**10  # at once, at most
_log = logging.getLogger(__name__)

Answer: TypeAlias = tuple[int, bytes, bytes]  # status, JSON, bytes


class Worker:
    """The service's end of one worker. Used by one thread at a time."""

    def __init__(self, ours: socket.socket, number: int, nursery: int) -> None:
        self.number = number
        self.nursery = nursery  # the number of its parent
        self.asked = 0
        self._socket = ours
        self._received = bytearray()

    def ask(self, kind: int, recipe: int, image: bytes, seconds: float) -> Answer:
        """Status, JSON and bytes. Raises OSError when it died, TimeoutError when it overran."""
        return self.ask_all(kind, recipe, [image], seconds)[0]

    def ask_all(
        self, kind: int, recipe: int, images: Sequence[bytes], seconds: float
    ) -> list[Answer]:
        """The same for several images, which wait in the socket while it looks at one of them.

        `seconds` are for all. Their answers come together after the last: where it died of one,
        those before it are lost, too.
        """
        self.asked += len(images)
        if self._received:
            raise ConnectionAbortedError("an inspector answered what nobody asked")
        self._socket.settimeout(seconds)
        last = len(images) - 1
        heads = [REQUEST.pack(kind, recipe, n < last, len(one)) for n, one in enumerate(images)]
        self._socket.sendall(b"".join(p for pair in zip(heads, images, strict=True) for p in pair))
        deadline = time.monotonic() + seconds
        return [self._answer(deadline) for _ in images]

    def _answer(self, deadline: float) -> Answer:
        status, words, rest = REPLY.unpack(self._receive(REPLY.size, deadline))
        if words > _MAX_WORDS or rest > MAX_BYTES:
            raise ConnectionAbortedError("an inspector's answer is too long")
        answer = self._receive(words + rest, deadline)
        return status, answer[:words], answer[words:]

    def close(self) -> None:
        self._socket.close()

    def _receive(self, size: int, deadline: float) -> bytes:
        while len(self._received) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            data = self._socket.recv(_RECEIVED_BYTES)
            if not data:
                raise ConnectionResetError("an inspector ended")
            self._received += data
        taken = bytes(memoryview(self._received)[:size])
        del self._received[:size]
        return taken


class Nursery:
    """The process that forks workers; started when the first is wanted, and anew when it dies."""

    def __init__(self, limits: Limits, cpu_seconds: int) -> None:
        self._arguments = [
            str(limits.max_bytes), str(limits.max_pixels), str(limits.max_aspect_ratio),
            str(cpu_seconds),
        ]  # fmt: skip
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._alive = 0

    def start(self) -> Worker:
        """A new worker. Raises UnavailableError when none can be had."""
        ours, theirs = socket.socketpair()
        with self._lock, theirs:
            answer = self._started(theirs)
            if not answer.isdigit():
                ours.close()
                raise UnavailableError(
                    f"no process for decoding can be started ({answer.decode()}); try again"
                )
            self._count(+1)
            return Worker(ours, int(answer), self._number())

    def end(self, worker: Worker) -> int:
        """Ends a worker; how it ended, as `os.waitpid` says it (SIGKILL when nobody knows)."""
        worker.close()
        with self._lock:
            if worker.nursery != self._number():
                return signal.SIGKILL  # it died with its nursery
            self._count(-1)
            try:
                return int(self._command(b"end %d" % worker.number))
            except OSError:
                return signal.SIGKILL

    def close(self) -> None:
        """Ends it, and with it all workers."""
        with self._lock:
            self._end()

    def _started(self, handed: socket.socket) -> bytes:
        if self._process is not None:
            try:
                return self._command(b"start", handed)
            except OSError:
                # It died; so did its workers, whose users find out by themselves.
                _log.error("the inspectors' nursery died and is started anew")
        self._end()
        self._begin()
        try:
            return self._command(b"start", handed)
        except OSError as error:
            return f"failed {error.strerror or type(error).__name__}".encode()

    def _command(self, message: bytes, *handed: socket.socket) -> bytes:
        if self._socket is None:
            raise ConnectionResetError("there is no nursery")
        if handed:
            socket.send_fds(self._socket, [message], [one.fileno() for one in handed])
        else:
            self._socket.send(message)
        answer = self._socket.recv(MESSAGE_BYTES)
        if not answer:
            raise ConnectionResetError("the nursery ended")
        return answer

    def _begin(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_START_SECONDS)
        # -P: what lies in the folder we were started in is not ours to import.
        command = [sys.executable, "-P", "-m", "visionloop_labeling.inspector", *self._arguments]
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=environment(),
                start_new_session=True,  # a terminal's Ctrl-C is not for it
            )
        self._socket = ours

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._count(-self._alive)

    def _number(self) -> int:
        return 0 if self._process is None else self._process.pid

    def _count(self, change: int) -> None:
        self._alive += change
        metrics.INSPECTORS.set(self._alive)


def environment() -> dict[str, str]:
    """No credentials, and no threads in numpy: the nursery forks.

    Freed memory is kept for the next image (up to 64 MB a worker): to hand a photograph's pixels
    back to the kernel and fetch them anew, zeroed, costs a third of the whole inspection.
    """
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return {
        **kept,
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
        "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
    }
