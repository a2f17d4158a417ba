"""Checkpoints in the store: what a run needs to go on, bit for bit, after its process was killed.

    models/<model>/checkpoints/<run>/<step>-<sha256>.safetensors   weights, optimiser, …; facts
    models/<model>/checkpoints/<run>/latest.json                   which one; written after it

`<run>` is a digest of all that decides what the run makes of its snapshot: the same command finds
its own checkpoints and no others. A checkpoint is copied to memory at once and written by a thread
while training goes on; of several that are waiting, the newest is written. The one before is kept
until the next is there: a torn or lost object costs minutes, never the run. Names hold a digest, so
that one of a step that is there already (after a retry, at the end) never overwrites the one that
`latest.json` still names. Nothing is pickled.
"""

import hashlib
import json
import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field
from safetensors.torch import load, save
from torch import Tensor

from visionloop.errors import CorruptError, NotFoundError, UnavailableError, VisionloopError
from visionloop.failpoints import failpoint
from visionloop.objectstore import ObjectStore
from visionloop.record import Record, Sha256, parse_record, record_bytes
from visionloop_training.distributed import Workers

_FACTS = "facts"
_KEPT = 2
_FORGOTTEN = timedelta(days=14)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state after `step` optimiser steps. `facts` is plain JSON."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    sha256: str = ""  # of the object that it was read from


class _Entry(Record):
    step: Annotated[int, Field(ge=0)]
    sha256: Sha256


class _Latest(Record):
    format_version: Literal[1] = 1
    kind: Literal["visionloop.checkpoint"] = "visionloop.checkpoint"
    entries: list[_Entry]  # newest first


def run_key(parts: dict[str, object]) -> str:
    """The name of a run, from all that decides its outcome (JSON)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class Checkpoints:
    """The checkpoints of one run. `every_seconds` is the time between two."""

    def __init__(self, store: ObjectStore, model: str, run: str, every_seconds: float) -> None:
        self._store = store
        self._model = model
        self._folder = f"models/{model}/checkpoints/{run}/"
        self._every = every_seconds
        self._saved = time.monotonic()
        self._entries: list[_Entry] = []
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._lock = threading.Lock()
        self._waiting: Checkpoint | None = None
        self._writing: Future[None] | None = None

    def latest(self) -> Checkpoint | None:
        """The newest one that is whole; None when there is none to go on from."""
        try:
            data = self._store.get(self._folder + "latest.json").data
        except NotFoundError:
            return None
        try:
            self._entries = parse_record(_Latest, data, "latest.json").entries
        except CorruptError as error:
            _log.warning("the run begins anew: %s", error)
            return None
        for entry in self._entries:
            try:
                return self._read(entry)
            except (CorruptError, NotFoundError) as error:
                _log.warning("checkpoint of step %d is not usable: %s", entry.step, error)
        return None

    def agreed(self, workers: Workers) -> Checkpoint | None:
        """The newest one that is whole, the same in all of several processes.

        The leading one looks: somebody else may find more, where a run that was told to stop still
        writes, or less, where the store fails. Raises UnavailableError where this process cannot
        read it any more: the same command finds the next.
        """
        found: Checkpoint | None = None

        def look() -> str:
            nonlocal found
            found = self.latest()
            if found is None:
                return ""
            return _Entry(step=found.step, sha256=found.sha256).model_dump_json()

        chosen = workers.leaders_answer(look)
        if workers.leads or not chosen:
            return found
        entry = _Entry.model_validate_json(chosen)
        try:
            return self._read(entry)
        except (NotFoundError, CorruptError) as error:
            raise UnavailableError(
                f"the checkpoint of step {entry.step} that the leading process found is gone "
                f"({error}); run the same command again"
            ) from error

    @property
    def due(self) -> bool:
        """Whether it is time for the next."""
        return time.monotonic() - self._saved >= self._every

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes it soon, in the background. The tensors must be copies that nobody changes.

        A store that fails is logged: training goes on, and the next checkpoint tries again.
        """
        self._saved = time.monotonic()
        with self._lock:
            self._waiting = checkpoint
            if self._writing is None or self._writing.done():
                self._writing = self._writer.submit(self._write_waiting)

    def flush(self) -> None:
        """Waits until what was saved is in the store."""
        with self._lock:  # the writer forgets it when it is done, at any moment
            writing = self._writing
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Finishes the writing."""
        self._writer.shutdown()

    def remove(self) -> None:
        """The run is over. Removes its checkpoints, and those of runs that nobody continued."""
        self.close()
        forgotten = datetime.now(UTC) - _FORGOTTEN
        try:
            for stat in list(self._store.list(f"models/{self._model}/checkpoints/")):
                if stat.key.startswith(self._folder) or stat.modified < forgotten:
                    self._store.delete(stat.key)
        except VisionloopError as error:
            _log.warning("checkpoints are left in the store: %s", error)

    def _write_waiting(self) -> None:
        while True:
            with self._lock:
                checkpoint, self._waiting = self._waiting, None
                if checkpoint is None:
                    self._writing = None
                    return
            try:
                self._write(checkpoint)
            except VisionloopError as error:
                _log.warning("checkpoint of step %d is not saved: %s", checkpoint.step, error)

    def _write(self, checkpoint: Checkpoint) -> None:
        began = time.monotonic()
        tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
        data = save(tensors, {_FACTS: json.dumps(checkpoint.facts)})
        entry = _Entry(step=checkpoint.step, sha256=hashlib.sha256(data).hexdigest())
        self._store.put(self._key(entry), data)
        failpoint("checkpoint.written")
        old = self._entries
        self._entries = [entry, *(one for one in old if one != entry)][:_KEPT]
        latest = record_bytes(_Latest(entries=self._entries))
        self._store.put(self._folder + "latest.json", latest)
        failpoint("checkpoint.saved")
        for one in old:
            if one not in self._entries:
                self._store.delete(self._key(one))
        _log.info(
            "checkpoint of step %d saved",
            checkpoint.step,
            extra={
                "mib": round(len(data) / 2**20, 1),
                "seconds": round(time.monotonic() - began, 2),
            },
        )

    def _read(self, entry: _Entry) -> Checkpoint:
        data = self._store.get(self._key(entry)).data
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise CorruptError(f"{self._key(entry)} does not have the digest of latest.json")
        size = int.from_bytes(data[:8], "little")
        facts = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][_FACTS])
        return Checkpoint(entry.step, load(data), facts, entry.sha256)

    def _key(self, entry: _Entry) -> str:
        return f"{self._folder}{entry.step:010d}-{entry.sha256[:16]}.safetensors"
