"""A front end's end of a link, to a runner or to a decoder: jobs out, answers in.

A job costs the event loop one copy of its bytes into the arena and a frame of some 100 bytes;
frames of one turn of the loop leave by one send, those for a graph that costs next to nothing by
one for each busy stretch of the loop (`outbox`), and answers that arrived together are read
together. Space in the arena belongs to the other side from the moment its job is announced until
the frame for that job comes back. A caller that goes away cancels the job, and no more: the other
side may be reading it at that moment, so its space waits for the frame like any other.

The socket is the only sign of life. When it ends, for whatever reason, every job on the link fails
with UNAVAILABLE, the arena goes, and `on_lost` is told; nothing is sent twice, because a run that
killed one runner would kill the next.
"""

import asyncio
import logging
import math
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from visionloop.bundle import Signature
from visionloop.errors import InvalidInputError, OverloadedError, UnavailableError
from visionloop_inference import wire
from visionloop_inference.datatypes import Answer, Buffer, Tensor
from visionloop_inference.inbox import Inbox
from visionloop_inference.outbox import Outbox
from visionloop_inference.pace import Board
from visionloop_inference.rows import HEADER, Arena, aligned

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Waiting:
    """One job that the other side has not answered."""

    future: asyncio.Future[Answer]
    rows: int
    offset: int | None  # of its inputs in the arena; None: they are empty
    answer: tuple[int, int]  # the space for its outputs; (0, 0): none


class Link:
    """Used from one event loop only, the one it is made in."""

    other: ClassVar[str]  # who is at the other end
    retry_seconds: ClassVar[float]  # until somebody is likely to be there again

    def __init__(
        self,
        sock: socket.socket,
        arena: Arena,
        signature: Signature,
        on_lost: Callable[[Self], None],
    ) -> None:
        """Takes the socket and the arena over. `on_lost` is called once, unless `close` was."""
        sock.setblocking(False)
        self._rows = 0  # not answered yet
        self._socket = sock
        self._arena = arena
        self._layout = wire.Layout(signature)
        self._board = Board(arena.header)
        self._on_lost: Callable[[Any], None] = on_lost
        self._inbox = Inbox(sock)
        self._outbox = Outbox(sock, self._patience, self._break)
        self._open = True
        self._jobs: dict[int, Waiting] = {}
        self._next = 1
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._read)

    @property
    def rows_waiting(self) -> int:
        """Rows that are not answered: of this link, and of other front ends as was last said."""
        return self._rows + (self._board.others if self._open else 0)

    def seconds(self, rows: int) -> float:
        """Predicted seconds to run so many rows; waiting ones are not counted.

        0 until the other side said what rows cost: a runner before it answers any, a decoder never.
        """
        return self._board.seconds(rows) if self._open else 0.0

    def close(self) -> None:
        """Ends the link, as the other side sees. What is not answered fails with UNAVAILABLE."""
        self._end(f"the link to {self.other} was closed")

    # Jobs out

    def _submit(
        self,
        inputs: Sequence[Tensor],
        rows: int,
        deadline: float | None,
        priority: int,
        future: asyncio.Future[Answer],
        room: int = 0,
    ) -> int:
        """The id of a new job, whose answer goes to `future`. `room`: bytes for outputs whose size
        the signature leaves open."""
        if not self._open:
            raise UnavailableError(f"{self.other} is gone", retry_after_seconds=self.retry_seconds)
        views, places, total = self._places(inputs, rows)
        offset, answer = self._reserve(total, rows, room)
        memory = self._arena.memory
        at = offset or HEADER
        place = 0
        for view, spec in zip(views, self._layout.inputs, strict=True):
            size = len(view)
            places[place] = at
            memory[at : at + size] = view
            at += aligned(size)
            place += 2 + spec.rank
        job = self._next
        self._next = job + 1
        self._jobs[job] = Waiting(future, rows, offset, answer)
        self._rows += rows
        until = math.inf if deadline is None else deadline
        level = max(0, min(priority, 255))
        self._outbox.put(self._layout.job(job, rows, level, until, answer, places))
        return job

    def _cancel(self, job: int) -> None:
        if job in self._jobs:
            self._outbox.put(wire.cancel(job))

    def _places(self, inputs: Sequence[Tensor], rows: int) -> tuple[list[Buffer], list[int], int]:
        """The inputs' bytes, their numbers in a job frame (offsets still 0), and their room."""
        layout = self._layout
        first = 1 if layout.batched else 0
        if len(inputs) != len(layout.inputs) or not 1 <= rows <= wire.MOST_ROWS:
            raise InvalidInputError(
                f"{len(inputs)} inputs of {rows} rows; the model takes {len(layout.inputs)} inputs "
                f"of 1 to {wire.MOST_ROWS} rows"
            )
        views: list[Buffer] = []
        places: list[int] = []
        total = 0
        for tensor, spec in zip(inputs, layout.inputs, strict=True):
            view = tensor.data
            if isinstance(view, memoryview) and (view.format != "B" or view.ndim != 1):
                view = view.cast("B")
            size = len(view)
            dimensions = tensor.shape[first:]
            known = first == 0 or tensor.shape[:1] == (rows,)
            if not (known and len(dimensions) == spec.rank and spec.fits(dimensions, rows, size)):
                raise InvalidInputError(
                    f"input {spec.name!r} has the shape {list(tensor.shape)} and {size} bytes; "
                    f"the model takes {list(spec.dimensions)} for each of {rows} rows",
                    field=spec.name,
                )
            views.append(view)
            places += (0, size, *dimensions)
            total += aligned(size)
        return views, places, total

    def _reserve(self, total: int, rows: int, room: int) -> tuple[int | None, tuple[int, int]]:
        """Space for the inputs and, where they do not come in the frame, for the outputs."""
        arena = self._arena
        offset = arena.allocate(total) if total else None
        space = self._layout.answer_space(rows) or room
        if (offset is not None or not total) and not space:
            return offset, (0, 0)
        answer = arena.allocate(space) if offset is not None or not total else None
        if answer is not None:
            return offset, (answer, space)
        if offset is not None:
            arena.free(offset)
        if total + space > arena.size - HEADER:
            raise InvalidInputError(
                f"the request needs {total + space} bytes of shared memory; there are "
                f"{arena.size - HEADER}: send fewer rows at once"
            )
        raise OverloadedError(
            f"no shared memory for {total + space} bytes: {arena.used} of "
            f"{arena.size - HEADER} bytes are in use",
            retry_after_seconds=self.seconds(self.rows_waiting),
        )

    def _patience(self) -> float:
        """Seconds of other work that a frame may wait for."""
        return 0.0

    # Answers in

    def _read(self) -> None:
        try:
            if not self._inbox.receive():
                self._lose(f"{self.other} died")
                return
            for kind, start, end in self._inbox.frames():
                if kind == wire.ANSWER:
                    self._take_answer(start, end)
                elif kind == wire.REFUSED:
                    self._take_refusal(start, end)
                else:
                    raise wire.MalformedFrameError(f"a frame of kind {kind} from {self.other}")
        except BlockingIOError:
            return
        except wire.MalformedFrameError as error:
            self._lose(f"{self.other} sent {error}")

    def _take_answer(self, start: int, end: int) -> None:
        frame = self._layout.read_answer(self._inbox.buffer, start, end)
        waiting = self._waiting(frame.id)
        rows, batched = waiting.rows, self._layout.batched
        memory, (at, space) = self._arena.memory, waiting.answer
        stop = at + space
        if frame.in_arena and not space:
            raise wire.MalformedFrameError("an answer in the arena, where it has no space")
        outputs = {}
        for spec, (size, dimensions, data) in zip(self._layout.outputs, frame.outputs, strict=True):
            if not spec.fits(dimensions, rows, size):
                raise wire.MalformedFrameError(
                    f"{size} bytes of {rows} rows of {list(dimensions)} for output {spec.name!r}"
                )
            if frame.in_arena:
                if at + size > stop:
                    raise wire.MalformedFrameError("an answer that is larger than its space")
                data = bytes(memory[at : at + size])
                at += aligned(size)
            shape = (rows, *dimensions) if batched else dimensions
            outputs[spec.name] = Tensor(spec.datatype, shape, data)
        self._finish(frame.id, waiting)
        if not waiting.future.done():
            waiting.future.set_result(Answer(outputs, frame.failures))

    def _take_refusal(self, start: int, end: int) -> None:
        job, _, error = wire.read_refused(self._inbox.buffer, start, end)
        waiting = self._waiting(job)
        self._finish(job, waiting)
        if not waiting.future.done():
            waiting.future.set_exception(error)

    def _waiting(self, job: int) -> Waiting:
        waiting = self._jobs.get(job)
        if waiting is None:
            raise wire.MalformedFrameError(f"an answer to job {job}, which it does not have")
        return waiting

    def _finish(self, job: int, waiting: Waiting) -> None:
        """The other side is done with the job: its space may be used again."""
        del self._jobs[job]
        self._rows -= waiting.rows
        self._free(waiting)

    def _free(self, waiting: Waiting) -> None:
        if waiting.offset is not None:
            self._arena.free(waiting.offset)
        if waiting.answer[1]:
            self._arena.free(waiting.answer[0])

    # The end

    def _lose(self, why: str) -> None:
        log.warning("%s, with %d jobs unanswered", why, len(self._jobs))
        if self._open:
            self._end(why)
            self._on_lost(self)

    def _break(self, why: str) -> None:
        self._lose(f"the link to {self.other} broke: {why}")

    def _end(self, why: str) -> None:
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket)
        self._outbox.close()
        self._socket.close()
        jobs = list(self._jobs.items())
        self._jobs.clear()
        self._rows = 0
        for job, waiting in jobs:
            if not waiting.future.done():
                self._fail(job, waiting, why)
        self._board.close()
        self._arena.close()

    def _fail(self, job: int, waiting: Waiting, why: str) -> None:  # noqa: ARG002 — decoders' use it
        """The job will not be answered; called while the arena is still there."""
        error = UnavailableError(
            f"{why} before it answered; try again", retry_after_seconds=self.retry_seconds
        )
        waiting.future.set_exception(error)
