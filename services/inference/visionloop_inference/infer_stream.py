"""The requests of one stream: several at a time, answered in the order they came.

A client that sends without waiting keeps the model busy over one stream. Reading stops while so
many requests wait for their answers: a client that does not read cannot fill the server's memory.
Price of the order: a slow request holds back the answers behind it, not their work.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

Request = TypeVar("Request")
Response = TypeVar("Response")


async def in_order(
    requests: AsyncIterator[Request],
    answer: Callable[[Request], Awaitable[Response]],
    limit: int,
    ready: Callable[[Request], Awaitable[None]] | None = None,
) -> AsyncIterator[Response]:
    """The answer to each request, at most `limit` of them under way.

    No further request is read until `ready` is back with the one before, and only then it is begun.
    An error of `answer` or of `requests` ends the stream, and so does closing it; what is under way
    is cancelled then.
    """
    under_way: asyncio.Queue[asyncio.Future[Response] | None] = asyncio.Queue()
    room = asyncio.Semaphore(limit)
    tasks: set[asyncio.Future[Response]] = set()

    async def read() -> None:
        try:
            async for request in requests:
                await room.acquire()
                if ready is not None:
                    await ready(request)
                task = asyncio.ensure_future(answer(request))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                under_way.put_nowait(task)
        finally:
            under_way.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        while (task := await under_way.get()) is not None:
            yield await task
            room.release()
        await reader
    finally:
        reader.cancel()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(reader, *tasks, return_exceptions=True)
