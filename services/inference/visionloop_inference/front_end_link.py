"""A runner's end of a link to a front end (or a decoder's): frames in, jobs onto the queue, answers
out.

A front end that stops reading must not stop the runner, which serves others: answers that the
socket does not take wait in a buffer of their own. Where it has grown past a bound, and the front
end has read nothing of it for some seconds, the link is closed, as it is for a malformed frame: one
that reads may be behind by any number of large answers. Closing a link costs the jobs of that front
end and nothing else.
"""

import logging
import math
import socket
from time import monotonic

import numpy as np

from visionloop.errors import InvalidInputError
from visionloop.telemetry import inference as metrics
from visionloop_inference import wire
from visionloop_inference.batching import CANCELLED, BatchQueue, Held, Job
from visionloop_inference.datatypes import Arrays
from visionloop_inference.inbox import Inbox
from visionloop_inference.pace import Board, Pace
from visionloop_inference.rows import Arena, aligned
from visionloop_inference.strings import read_strings, write_strings

log = logging.getLogger(__name__)

MOST_UNSENT = 64 * 2**20  # bytes of answers that may wait for a front end that reads nothing
STALLED = 5.0  # seconds after which one that read nothing counts as such


class FrontEndLink:
    """One link. Its jobs are on the runner's queue until they are answered or the link closes."""

    def __init__(
        self,
        sock: socket.socket,
        arena: Arena,
        layout: wire.Layout,
        queue: BatchQueue,
        name: str,
        *,
        counted: bool = True,
    ) -> None:
        """Takes the socket and the arena over. `counted`: its jobs are requests, so that cancelled
        ones count as rejected."""
        sock.setblocking(False)
        self.arena = arena
        self.name = name
        self.unsent = bytearray()
        self.events = 0  # what the runner's loop watches it for
        self.board = Board(arena.header)
        self._held = Held()
        self._read = monotonic()  # when the front end last took something of `unsent`
        self._socket = sock
        self._layout = layout
        self._queue = queue
        self._inbox = Inbox(sock, layout.longest_to_runner)
        self._jobs: dict[int, Job] = {}
        self._cancelled = metrics.REJECTED.labels(reason="cancelled") if counted else None
        self._strings = [
            (index, spec.name) for index, spec in enumerate(layout.inputs) if spec.variable
        ]

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> bool:
        """Takes the frames that are there; False when the link is of no more use."""
        try:
            if not self._inbox.receive():
                return False
            for kind, start, end in self._inbox.frames():
                if kind == wire.JOB:
                    self._take_job(start, end)
                elif kind == wire.CANCEL:
                    self._cancel(wire.read_cancel(self._inbox.buffer, start, end))
                else:
                    raise wire.MalformedFrameError(f"a frame of kind {kind} from a front end")
        except BlockingIOError:
            pass
        except wire.MalformedFrameError as error:
            log.error("%s sent %s; its link is closed", self.name, error)
            return False
        return True

    def _take_job(self, start: int, end: int) -> None:
        frame = self._layout.read_job(self._inbox.buffer, start, end, self.arena.size)
        if frame.id in self._jobs:
            raise wire.MalformedFrameError(f"a second job {frame.id}")
        job = Job(self, frame, {})
        self._jobs[frame.id] = job
        self._held.add(job)
        self._queue.unanswered.add(job)
        try:
            for index, name in self._strings:
                job.strings[index] = self._read_strings(name, frame, index)
        except InvalidInputError as error:
            self.refuse(job, wire.Reason.INVALID, str(error))
            return
        self._queue.put(job)

    def _read_strings(self, name: str, frame: wire.JobFrame, index: int) -> list[str]:
        offset, size, dimensions = frame.inputs[index]
        found = read_strings(name, self.arena.memory[offset : offset + size])
        wanted = frame.rows * math.prod(dimensions)
        if len(found) != wanted:
            raise InvalidInputError(
                f"input {name!r} holds {len(found)} elements; its shape says {wanted}", field=name
            )
        return found

    def _cancel(self, job_id: int) -> None:
        """The job's space is free at once, unless its rows are just being run: then afterwards."""
        job = self._jobs.get(job_id)
        if job is not None:
            self._queue.drop(job)
            if self._cancelled is not None:
                self._cancelled.inc()
            if not job.under_way:
                self.refuse(job, wire.Reason.CANCELLED, CANCELLED)

    def answer(self, job: Job, outputs: Arrays) -> None:
        """The job is done: its outputs, (rows, *dimensions) each, and `job.failures`."""
        if job.frame.id not in self._jobs:  # the link closed meanwhile
            return
        offset, space = job.frame.answer
        in_arena = 0 < sum([aligned(array.nbytes) for array in outputs]) <= space
        memory = self.arena.memory
        places: list[int] = []
        data: list[bytes] = []
        first = 1 if self._layout.batched else 0
        for spec, array in zip(self._layout.outputs, outputs, strict=True):
            if in_arena:
                np.ndarray(array.shape, array.dtype, memory, offset)[...] = array
                places += (array.nbytes, *array.shape[first:])
                offset += aligned(array.nbytes)
                continue
            part = write_strings(array) if spec.variable else array.tobytes()
            places += (len(part), *array.shape[first:])
            data.append(part)
        self._layout.answer(
            self.unsent, job.frame.id, places, data, job.failures, in_arena=in_arena
        )
        self._forget(job)

    def refuse(
        self, job: Job, reason: wire.Reason, text: str, retry_after: float = math.nan
    ) -> None:
        """The job gets no answer, unless it had one."""
        if job.frame.id in self._jobs:
            self.unsent += wire.refused(job.frame.id, reason, text, retry_after)
            self._forget(job)

    def _forget(self, job: Job) -> None:
        del self._jobs[job.frame.id]
        self._held.remove(job)
        self._queue.unanswered.remove(job)

    def flush(self) -> bool:
        """Sends what the socket takes; False when the link is of no more use."""
        try:
            sent = self._socket.send(self.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False
        if sent:
            del self.unsent[:sent]
            self._read = monotonic()
        elif len(self.unsent) > MOST_UNSENT and monotonic() - self._read > STALLED:
            log.error("%s leaves %d bytes of answers unread", self.name, len(self.unsent))
            return False
        return True

    def publish(self, pace: Pace) -> None:
        """Tells the front end what rows cost now, and how many of others wait here."""
        waiting, ours = self._queue.unanswered, self._held
        self.board.update(pace, waiting.rows - ours.rows, waiting.low - ours.low)

    def close(self) -> None:
        """Its jobs will not run; the front end sees the end of the link."""
        for job in self._jobs.values():
            self._queue.drop(job)
            self._queue.unanswered.remove(job)
        self._jobs.clear()
        self._socket.close()
        self.board.close()
        self.arena.close()
