"""Several processes that train one network, started by torchrun; without it, one process.

    torchrun --nproc-per-node=2 -m visionloop_training --set fit.slices=2 …

A batch is cut into `fit.slices` equal parts, whatever the number of processes. Each process
computes the gradients of its slices, and they are added up along one binary tree: within a process
first, then between processes, in pairs. Every sum has the same two terms on every machine, so the
weights after a step are the same, bit for bit, for 1, 2, 4 … processes; and a run may go on from a
checkpoint with another number of them. Batch norms learn their statistics from the first slice.

The price: log2(processes) exchanges of all gradients a step, after the backward pass and not beside
it, where DDP overlaps one. That is little for a head and a few stages, and much for a large network
on slow links. Evaluation is exact: each image once, no padding.
"""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import pairwise

import torch
from torch import Tensor, distributed, nn

from visionloop.errors import ConfigurationError

_PATIENCE = timedelta(minutes=30)  # one process may compute features while the others wait


class Workers:
    """The processes of this run. `rank` 0 writes, speaks and publishes."""

    def __init__(self, rank: int = 0, count: int = 1, local_rank: int = 0, local: int = 1) -> None:
        self.rank = rank
        self.count = count
        self.local_rank = local_rank
        self.local = local
        self._pairs: list[distributed.ProcessGroup] = []

    @classmethod
    def joined(cls) -> "Workers":
        """As torchrun's environment says; waits until all are there."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        if count & (count - 1):
            raise ConfigurationError(
                f"torchrun started {count} processes; their number must be a power of two",
                field="nproc-per-node",
            )
        local_rank = int(os.environ["LOCAL_RANK"])
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank)
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=_PATIENCE)
        rank = int(os.environ["RANK"])
        workers = cls(rank, count, local_rank, int(os.environ["LOCAL_WORLD_SIZE"]))
        workers._pairs = workers._make_pairs()
        return workers

    def close(self) -> None:
        """Lets go of the others."""
        if self.count > 1:
            distributed.destroy_process_group()

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

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            distributed.barrier()

    def any(self, told: bool) -> bool:
        """Whether it is so for any of them; all get the same answer."""
        if self.count == 1:
            return told
        flag = torch.tensor([float(told)], device=self._device)
        distributed.all_reduce(flag, distributed.ReduceOp.MAX)
        return bool(flag.item())

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Adds each tensor up over all processes, in place, in pairs."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        for pair in self._pairs:
            distributed.all_reduce(flat, group=pair)
        at = 0
        for tensor in tensors:
            tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor))
            at += tensor.numel()

    @torch.no_grad()
    def agree(self, network: nn.Module) -> None:
        """Takes over the leader's weights and statistics."""
        if self.count > 1:
            for tensor in network.state_dict().values():
                shared = tensor.contiguous()
                distributed.broadcast(shared, 0)
                tensor.copy_(shared)

    def gather(self, parts: int, compute: Callable[[int], Tensor]) -> list[Tensor]:
        """`compute(part)` for each part, shared out, in order; all get all. First sizes differ."""
        if self.count == 1:
            return [compute(part) for part in range(parts)]
        mine = {part: compute(part) for part in range(self.rank, parts, self.count)}
        gathered = []
        for part in range(parts):
            source = part % self.count
            header = torch.zeros(8, dtype=torch.int64, device=self._device)
            if source == self.rank:
                size = mine[part].shape
                header[: len(size) + 1] = torch.tensor([len(size), *size])
            distributed.broadcast(header, source)
            shape = header[1 : 1 + int(header[0])].tolist()
            found = (
                mine[part].contiguous()
                if source == self.rank
                else torch.empty(shape, device=self._device)
            )
            distributed.broadcast(found, source)
            gathered.append(found)
        return gathered

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
                group = distributed.new_group([rank, rank | distance])
                if isinstance(group, distributed.ProcessGroup) and self.rank in (
                    rank,
                    rank | distance,
                ):
                    own.append(group)
            distance *= 2
        return own


def tree_sum(terms: Sequence[list[Tensor]]) -> list[Tensor]:
    """Adds up lists of tensors, element by element, along a binary tree."""
    level = list(terms)
    while len(level) > 1:
        paired = [
            [a + b for a, b in zip(first, second, strict=True)] for first, second in pairwise(level)
        ][::2]
        level = paired + level[2 * len(paired) :]
    return level[0]
