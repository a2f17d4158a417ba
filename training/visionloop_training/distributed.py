"""Several processes that train one network, started by `launch` or torchrun; else, one process.

    visionloop-train --processes-per-node 2 --set fit.slices=2 …

A batch is cut into `fit.slices` equal parts, whatever the number of processes. Each process
computes the gradients of its slices, and they are added up along one binary tree: within a process
first, then between processes, in pairs. Every sum has the same two terms on every machine, so the
weights after a step are the same, bit for bit, for 1, 2, 4 … processes; and a run may go on from a
checkpoint with another number of them. Batch norms learn their statistics from the first slice.

The price: log2(processes) exchanges of all gradients a step, after the backward pass and not beside
it, where DDP overlaps one. That is little for a head and a few stages, and much for a large network
on slow links. Evaluation is exact: each image once, no padding.

Beside the exchanges there is a small store of words that the leading process keeps (torch's TCP
store): what all must decide alike (which snapshot, which lane), that somebody was told to stop, and
at the end the exit code. The others stay until they have that: a Job whose helpers were done before
the leader could not run it again when it is preempted while it publishes.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import pairwise

import torch
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from visionloop.errors import ConfigurationError, UnavailableError
from visionloop_training.launched import AS_TORCHRUN, Launched
from visionloop_training.stop import PreemptedError, Stop

_PATIENCE = timedelta(minutes=30)  # with a process that is slower than the others
_JOINING = timedelta(minutes=15)  # images are pulled meanwhile
_FAREWELL = timedelta(seconds=10)
_POLL_SECONDS = 0.5
_FAILED, _ANSWER = "failed", "answer "
_STOP, _CODE, _SEEN, _SAID = (f"visionloop/{name}" for name in ("stop", "code", "seen", "said"))


class LeaderEndsError(Exception):
    """The leading process ends with an error, and the others have nothing left to do."""


class Workers:
    """The processes of this run. `rank` 0 writes, speaks and publishes."""

    def __init__(self, rank: int = 0, count: int = 1, local_rank: int = 0, local: int = 1) -> None:
        self.rank = rank
        self.count = count
        self.local_rank = local_rank
        self.local = local
        self._pairs: list[distributed.ProcessGroup] = []
        self._words: Store | None = None
        self._said = 0

    @classmethod
    def joined(cls) -> "Workers":
        """The processes that `launch` or torchrun started, as the environment says; waits for all.

        Raises UnavailableError where some do not come, ConfigurationError where it says too little.
        """
        place = Launched.here()
        rank, count = place.rank, place.count
        if count == 1:
            return cls()
        if torch.cuda.is_available():
            torch.cuda.set_device(place.local_rank)
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        workers = cls(rank, count, place.local_rank, place.local)
        try:
            words, _, _ = next(rendezvous("env://", timeout=_JOINING))
            distributed.init_process_group(
                backend, store=words, rank=rank, world_size=count, timeout=_PATIENCE
            )
        except ValueError as error:  # no address, or none that is one
            raise ConfigurationError(
                f"process {rank} of {count} does not know where the others meet: "
                f"{_first_line(error)}; {AS_TORCHRUN}",
                field="master_addr",
            ) from error
        except RuntimeError as error:
            raise UnavailableError(
                f"process {rank} of {count} could not join the others at "
                f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}: "
                f"{_first_line(error)}; all must be started within {_JOINING.seconds // 60} minutes"
            ) from error
        workers._words = words
        workers._pairs = workers._make_pairs()
        return workers

    def close(self) -> None:
        """Leaves the group of processes."""
        if self.count > 1 and distributed.is_initialized():
            with suppress(RuntimeError):  # they may be gone
                distributed.destroy_process_group()

    def leaders_answer(self, ask: Callable[[], str]) -> str:
        """What `ask` gives in the leading process, the only one that calls it; the same in all.

        Where it raises, the others raise LeaderEndsError: they can only wait for the end.
        """
        if self._words is None:
            return ask()
        key, self._said = f"{_SAID}/{self._said}", self._said + 1
        if self.leads:
            try:
                said = ask()
            except BaseException:
                self._words.set(key, _FAILED)
                raise
            self._words.set(key, f"{_ANSWER}{said}")
            return said
        with self._partners():
            self._words.wait([key], _PATIENCE)
            heard: str = self._words.get(key).decode()
        if heard == _FAILED:
            raise LeaderEndsError
        return heard.removeprefix(_ANSWER)

    def tell_stopping(self) -> None:
        """Lets the others know that this process was told to stop."""
        if self._words is not None:
            with suppress(RuntimeError):
                self._words.set(_STOP, "1")

    @property
    def stopping(self) -> bool:
        """Whether one of the others was told to stop."""
        if self._words is None:
            return False
        try:
            told: bool = self._words.check([_STOP])
        except RuntimeError:  # the leading process is gone
            return False
        return told

    def finish(self, code: int) -> None:
        """The leading process's last word; waits a moment until the others have read it."""
        if self._words is not None and self.leads:
            with suppress(RuntimeError):
                self._words.set(_CODE, str(code))
                self._words.wait([f"{_SEEN}/{rank}" for rank in range(1, self.count)], _FAREWELL)

    def await_leader(self, stop: Stop) -> int:
        """The exit code of the leading process, in one that has nothing left to do.

        Raises PreemptedError when told to stop, and UnavailableError when the leader is gone.
        """
        if self._words is None:
            return 0
        with self._partners():
            while not self._words.check([_CODE]):
                stop.wait(_POLL_SECONDS)
                stop.check("while the leading process went on")
            code = int(self._words.get(_CODE))
            self._words.set(f"{_SEEN}/{self.rank}", "1")
        return code

    @contextmanager
    def _partners(self) -> Iterator[None]:
        """Tells a lost process from one that was stopped: the libraries' errors have no type."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise  # our own want of memory is no loss of a partner
        except RuntimeError as error:
            if self.stopping:
                raise PreemptedError(
                    "another process of this run was told to stop; run the same command again to "
                    "go on from the last checkpoint"
                ) from error
            raise UnavailableError(
                f"another process of this run is gone ({_first_line(error)}); run the same "
                "command again to go on from the last checkpoint"
            ) from error

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def check_slices(self, slices: int) -> None:
        """Raises ConfigurationError where a batch cannot be shared out."""
        if slices % self.count:
            raise ConfigurationError(
                f"fit.slices is {slices}, and {self.count} processes were started; make it a "
                "multiple of their number",
                field="fit.slices",
            )

    def own(self, slices: int) -> range:
        """The slices that this process computes: neighbours, a whole branch of the tree."""
        each = slices // self.count
        return range(self.rank * each, (self.rank + 1) * each)

    def on_this_node(self, number: int) -> bool:
        """Whether piece `number` of work on this machine's disk is ours."""
        return number % self.local == self.local_rank

    def any(self, told: bool) -> bool:
        """Whether `told` is true in any of the processes; all get the same answer."""
        if self.count == 1:
            return told
        flag = torch.tensor([float(told)], device=self._device)
        with self._partners():
            distributed.all_reduce(flag, distributed.ReduceOp.MAX)
        return bool(flag.item())

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Adds each tensor up over all processes, in place, in pairs."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with self._partners():
            for pair in self._pairs:
                distributed.all_reduce(flat, group=pair)
        at = 0
        for tensor in tensors:
            tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor))
            at += tensor.numel()

    def leaders_numbers(self, numbers: Sequence[float]) -> list[float]:
        """What the leading process has counted, in all. On another kind of machine the last digits
        of the same sum are others, and what is decided by them must not be."""
        told = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        if self.count > 1:
            with self._partners():
                distributed.broadcast(told, 0)
        found: list[float] = told.tolist()
        return found

    @torch.no_grad()
    def copy_leader(self, network: nn.Module) -> None:
        """Gives this network the weights and statistics that the leading process's has."""
        if self.count > 1:
            for tensor in network.state_dict().values():
                shared = tensor.contiguous()
                with self._partners():
                    distributed.broadcast(shared, 0)
                tensor.copy_(shared)

    def gather(self, parts: int, compute: Callable[[int], Tensor]) -> Iterator[Tensor]:
        """`compute(part)` for each part, shared out, in order; all get all. First sizes differ.

        All processes must go through all of them.
        """
        if self.count == 1:
            yield from map(compute, range(parts))
            return
        mine = torch.empty(0)
        for part in range(parts):
            source = part % self.count
            if source == 0 and part + self.rank < parts:
                # Now, and not all at first: nobody falls far behind.
                mine = compute(part + self.rank)
            header = torch.zeros(8, dtype=torch.int64, device=self._device)
            if source == self.rank:
                size = mine.shape
                header[: len(size) + 1] = torch.tensor([len(size), *size])
            with self._partners():
                distributed.broadcast(header, source)
            shape = header[1 : 1 + int(header[0])].tolist()
            found = (
                mine.contiguous()
                if source == self.rank
                else torch.empty(shape, device=self._device)
            )
            with self._partners():
                distributed.broadcast(found, source)
            yield found

    @property
    def _device(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"

    def _make_pairs(self) -> list[distributed.ProcessGroup]:
        """This process's partner on each level of the tree. All must make all groups, in order."""
        own: list[distributed.ProcessGroup] = []
        distance = 1
        while distance < self.count:
            for rank in range(self.count):
                if rank & distance:
                    continue
                group = distributed.new_group([rank, rank | distance], timeout=_PATIENCE)
                if isinstance(group, distributed.ProcessGroup) and self.rank in (
                    rank,
                    rank | distance,
                ):
                    own.append(group)
            distance *= 2
        return own


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:200]


def tree_sum(terms: Sequence[list[Tensor]]) -> list[Tensor]:
    """Adds up lists of tensors, element by element, along a binary tree."""
    level = list(terms)
    while len(level) > 1:
        paired = [
            [a + b for a, b in zip(first, second, strict=True)] for first, second in pairwise(level)
        ][::2]
        level = paired + level[2 * len(paired) :]
    return level[0]
