"""What was sent and not yet acknowledged, so that a broken stream can be taken up again.

A thread reads the source into a window of bounded size; streams read the window, each from its
oldest item; an acknowledgement takes that item out. So a receipt is handed on the moment it comes,
even while the source makes its caller wait, and a new stream sends exactly what lacks a receipt.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Window(Generic[Item]):
    """Items of `source` in order, at most `max_items` and `max_bytes` of them at a time.

    A single item larger than `max_bytes` is let in alone. Use it with one receiver of
    acknowledgements; any number of streams may read it, of which the older ones were stopped.
    """

    def __init__(
        self,
        source: Iterator[Item],
        *,
        size_of: Callable[[Item], int],
        max_items: int = 64,
        max_bytes: int = 32 * 2**20,
    ) -> None:
        self._source = source
        self._size_of = size_of
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._acknowledged = 0
        self._ended = self._closed = False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="submit-images", daemon=True)
        self._reader.start()

    @property
    def acknowledged(self) -> int:
        """How many items were acknowledged."""
        return self._acknowledged

    def first(self) -> Item | None:
        """The oldest item not acknowledged; waits for one. None when the source has ended.

        Raises what the source raised, once the items before it are acknowledged.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended)
            if self._items:
                return self._items[0]
            if self._failure is not None:
                raise self._failure
            return None

    def acknowledge(self) -> None:
        """The oldest item arrived."""
        with self._changed:
            self._bytes -= self._size_of(self._items.popleft())
            self._acknowledged += 1
            self._changed.notify_all()

    def stream(self) -> "Stream[Item]":
        """All items from the oldest one on, those not read yet included."""
        return Stream(self)

    def close(self) -> None:
        """Ends all streams and the reading of the source."""
        with self._changed:
            self._closed = self._ended = True
            self._items.clear()
            self._changed.notify_all()

    def _read(self) -> None:
        try:
            for item in self._source:
                if not self._put(item):
                    break
        except BaseException as error:  # noqa: BLE001 - raised where the receipts are read
            self._failure = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, item: Item) -> bool:
        size = self._size_of(item)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(size))
            if self._closed:
                return False
            self._items.append(item)
            self._bytes += size
            self._changed.notify_all()
            return True

    def _has_room(self, size: int) -> bool:
        if not self._items:
            return True
        return len(self._items) < self._max_items and self._bytes + size <= self._max_bytes


class Stream(Generic[Item]):
    """One pass over a window. Iterating waits for items; it ends with the source or by `stop`."""

    def __init__(self, window: Window[Item]) -> None:
        self._window = window
        self._next = window.acknowledged
        self._stopped = False

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        window = self._window
        with window._changed:
            window._changed.wait_for(
                lambda: (
                    self._stopped
                    or window._ended
                    or self._next - window._acknowledged < len(window._items)
                )
            )
            place = self._next - window._acknowledged
            if self._stopped or place >= len(window._items):
                raise StopIteration
            self._next += 1
            return window._items[place]

    def stop(self) -> None:
        """Ends the pass, a waiting one at once."""
        with self._window._changed:
            self._stopped = True
            self._window._changed.notify_all()
