"""Several transfers at a time: latency is the price of an object store, threads hide it."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = 8


class Transfers(ThreadPoolExecutor):
    """A pool for one job. When a transfer fails, those that wait are dropped, not tried."""

    def __init__(self) -> None:
        super().__init__(THREADS, thread_name_prefix="transfer")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.shutdown(wait=True, cancel_futures=kind is not None)


def in_parallel(call: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """The results in the order of `items`; raises the first error among them."""
    with Transfers() as transfers:
        return list(transfers.map(call, items))
