"""Variants of training images for a GPU, made by other processes into memory that all share.

A GPU takes more images a second than one Python process changes: threads that draw variants hold
the interpreter's lock every so often, and so keep the loop that feeds the GPU waiting. Here they
have interpreters of their own. A batch is one memory file without a name (a pod's /dev/shm may hold
64 MB): each process writes its share of the images there, and only their numbers go through pipes.
Price: a second for the processes to start, and a batch at a time.

A process that finds its pipe closed ends; so none outlives the run, however that ended.
"""

import contextlib
import mmap
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from visionloop.errors import CorruptError, UnavailableError
from visionloop_training import augment
from visionloop_training.cache import ArrayCache
from visionloop_training.recipe_config import AugmentConfig

Wanted: TypeAlias = Sequence[tuple[str, int]]  # (image digest, variant)
_Share: TypeAlias = tuple[int, int, int, Wanted]  # process, descriptor, offset in bytes, images


class PixelWorkers:
    """So many processes that read the cached pixels and vary them."""

    def __init__(self, cache: ArrayCache, augmentation: AugmentConfig, processes: int) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._file = os.memfd_create("visionloop-pixels", os.MFD_CLOEXEC)
        self._memory: mmap.mmap | None = None
        self._shape: tuple[int, ...] | None = None  # of an image
        context = get_context("spawn")
        self._ends: list[Connection] = []
        started: list[BaseProcess] = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, cache, augmentation), daemon=True, name="pixels"
            )
            process.start()
            theirs.close()
            self._ends.append(ours)
            started.append(process)
        self.processes = tuple([process.pid for process in started if process.pid])
        weakref.finalize(self, _end, self._ends, started, self._file)

    def batch(self, wanted: Wanted) -> NDArray[np.uint8]:
        """The images, (n, height, width, 3), which the next call overwrites.

        Raises CorruptError for a file of the cache that is gone or torn, and UnavailableError when
        a process ended.
        """
        with self._lock:
            array = self._room(wanted)
            each = -(-len(wanted) // len(self._ends))
            size = array[0].nbytes
            busy = []
            for end, start in zip(self._ends, range(0, len(wanted), each), strict=False):
                share = wanted[start : start + each]
                _ask(end, (os.getpid(), self._file, start * size, share))
                busy.append(end)
            problems = [problem for end in busy if (problem := _answer(end))]
            if problems:
                raise CorruptError(problems[0])
            return array

    def _room(self, wanted: Wanted) -> NDArray[np.uint8]:
        if self._shape is None:
            self._shape = self._cache.get(wanted[0][0]).shape
        shape = (len(wanted), *self._shape)
        size = int(np.prod(shape))
        if self._memory is None or len(self._memory) < size:
            os.ftruncate(self._file, size)
            self._memory = mmap.mmap(self._file, size)
        return np.ndarray(shape, np.uint8, self._memory)


def _ask(end: Connection, share: _Share) -> None:
    with _whose_end_is_told():
        end.send(share)


def _answer(end: Connection) -> str:
    """What went wrong, or nothing."""
    with _whose_end_is_told():
        return str(end.recv())


@contextlib.contextmanager
def _whose_end_is_told() -> Iterator[None]:
    """A process may be gone before it is asked, and before it answers."""
    try:
        yield
    except (EOFError, OSError) as error:
        raise UnavailableError(
            "a process that varies training images ended; was it killed for memory? Run the same "
            "command again, which goes on from the last checkpoint"
        ) from error


def _end(ends: list[Connection], started: list[BaseProcess], file: int) -> None:
    for end in ends:
        end.close()
    for process in started:
        process.join(1.0)
    os.close(file)


def _work(end: Connection, cache: ArrayCache, augmentation: AugmentConfig) -> None:
    """The life of a process: shares in, "" or a problem out."""
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            share = end.recv()
            try:
                _write(share, cache, augmentation)
            except CorruptError as error:
                end.send(str(error))
            else:
                end.send("")


def _write(share: _Share, cache: ArrayCache, augmentation: AugmentConfig) -> None:
    process, descriptor, offset, wanted = share
    file = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDWR)
    try:
        with mmap.mmap(file, 0) as memory:
            for sha256, number in wanted:
                pixels = cache.get(sha256).astype(np.uint8, copy=False)
                varied = augment.variant(pixels, augmentation, sha256, number)
                memory[offset : offset + varied.nbytes] = varied.tobytes()
                offset += varied.nbytes
    finally:
        os.close(file)
