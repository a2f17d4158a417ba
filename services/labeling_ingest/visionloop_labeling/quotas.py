"""How many images an account may send on a day (UTC), and how many it has sent.

Counts are kept in memory and added to the table `usage` within a second, for all accounts in one
transaction, because a stream of a thousand images a second cannot write each. The price: a quota
may be passed by what one second brings on each replica, and a kill forgets that second.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, TypeVar

from sqlalchemy import update

from visionloop.errors import OverloadedError, VisionloopError
from visionloop_labeling.accounts import Caller
from visionloop_labeling.database import Database, insert_missing
from visionloop_labeling.schema import Usage

_Row = TypeVar("_Row")

WRITTEN_EVERY: Final = 1.0  # seconds
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Today:
    """What the table said when it was last read, and what came since."""

    day: date
    images: int
    bytes: int
    new_images: int = 0
    new_bytes: int = 0


class Quotas:
    """Made and used on one event loop. 0 is no limit; what was sent is counted all the same."""

    def __init__(self, database: Database, *, images: int = 0, size: int = 0) -> None:
        """`images` and `size` (bytes) are what an account may send on a day."""
        self._database = database
        self._images = images
        self._bytes = size
        self._accounts: dict[int, _Today] = {}
        self._writing: asyncio.Task[None] | None = None

    async def take(self, caller: Caller, size: int) -> None:
        """Counts one image of `size` bytes. Raises OverloadedError beyond the quota."""
        if caller.account is None:
            return
        today = await self._today(caller.account)
        if self._images and today.images + today.new_images >= self._images:
            raise self._spent(caller, f"{self._images} images (--daily-images)")
        if self._bytes and today.bytes + today.new_bytes + size > self._bytes:
            raise self._spent(caller, f"{self._bytes} bytes (--daily-bytes)")
        today.new_images += 1
        today.new_bytes += size
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_soon(), name="write down usage")

    async def metered(
        self, caller: Caller, rows: AsyncIterator[_Row], size_of: Callable[[_Row], int]
    ) -> AsyncIterator[_Row]:
        """The rows, each counted before it is handed on; ends with the quota's error."""
        async for row in rows:
            await self.take(caller, size_of(row))
            yield row

    async def close(self) -> None:
        """Writes down what is only in memory."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        await self._write()

    async def _today(self, account: int) -> _Today:
        day = datetime.now(UTC).date()
        known = self._accounts.get(account)
        if known is None or known.day != day:
            if known is not None and known.new_images:
                await self._write()
            stored = await asyncio.to_thread(self._read, account, day)
            known = self._accounts.setdefault(account, stored)  # another request may be first
            if known.day != day:
                known = self._accounts[account] = stored
        return known

    def _read(self, account: int, day: date) -> _Today:
        with self._database.read() as session:
            row = session.get(Usage, (account, day))
            return _Today(day, row.images if row else 0, row.bytes if row else 0)

    async def _write_soon(self) -> None:
        await asyncio.sleep(WRITTEN_EVERY)
        try:
            await self._write()
        except VisionloopError as error:
            _log.warning("usage was not written down, it is tried again: %s", error)

    async def _write(self) -> None:
        """Moves what is new into the table; what the table then says comes back."""
        news = [(a, today) for a, today in sorted(self._accounts.items()) if today.new_images]
        taken = [(a, today.day, today.new_images, today.new_bytes) for a, today in news]
        for _, today in news:  # what comes meanwhile is counted anew
            today.images += today.new_images
            today.bytes += today.new_bytes
            today.new_images = today.new_bytes = 0
        try:
            totals = await asyncio.to_thread(self._add, taken) if taken else []
        except VisionloopError:
            for (_, today), (_, _, images, size) in zip(news, taken, strict=True):
                today.images -= images
                today.bytes -= size
                today.new_images += images
                today.new_bytes += size
            raise
        for (_, today), (images, size) in zip(news, totals, strict=True):
            today.images, today.bytes = images, size

    def _add(self, taken: Sequence[tuple[int, date, int, int]]) -> list[tuple[int, int]]:
        totals = []
        with self._database.write() as session:
            for account, day, images, size in taken:  # in one order everywhere: no deadlock
                key = {"account_id": account, "day": day}
                insert_missing(session, Usage, [{**key, "images": 0, "bytes": 0}])
                session.execute(
                    update(Usage)
                    .where(Usage.account_id == account, Usage.day == day)
                    .values(images=Usage.images + images, bytes=Usage.bytes + size)
                )
                row = session.get_one(Usage, (account, day), populate_existing=True)
                totals.append((row.images, row.bytes))
        return totals

    def _spent(self, caller: Caller, limit: str) -> OverloadedError:
        now = datetime.now(UTC)
        midnight = datetime.combine(now.date(), datetime.min.time(), UTC) + timedelta(days=1)
        return OverloadedError(
            f"{caller.name} has sent its {limit} of today; the next day begins at midnight UTC",
            retry_after_seconds=(midnight - now).total_seconds(),
        )
