"""A background load as production apps make it: open loop, a deadline, no retries.

Open loop means that requests leave on schedule whether or not the earlier ones were answered, so a
stall shows as late answers instead of as fewer requests (no coordinated omission). It runs in a
process of its own, so that the demo's other work cannot delay its clock, and writes one line of
JSON per request.
"""

import argparse
import asyncio
import json
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from visionloop.client import AsyncClient
from visionloop.errors import VisionloopError


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it was due to be sent and when it was answered, in seconds since the epoch;
    `version` 0 and an `error` when it failed."""

    sent: float
    answered: float
    version: int
    error: str = ""

    @property
    def milliseconds(self) -> float:
        """Scheduled send to answer."""
        return (self.answered - self.sent) * 1e3


async def send_until_stopped(
    target: str, images: Sequence[bytes], rate: float, deadline: float, out: TextIO
) -> None:
    """Sends `rate` one-image requests per second until SIGTERM; then awaits the last ones."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    pending: set[asyncio.Task[None]] = set()
    async with AsyncClient(target, timeout=deadline) as client:
        start, number = time.monotonic(), 0
        epoch = time.time() - start
        while not stopping.is_set():
            due = start + number / rate
            try:
                await asyncio.wait_for(stopping.wait(), max(0.0, due - time.monotonic()))
            except TimeoutError:
                image = images[number % len(images)]
                task = asyncio.create_task(_send(client, image, epoch + due, out))
                pending.add(task)
                task.add_done_callback(pending.discard)
                number += 1
        await asyncio.gather(*pending)


async def _send(client: AsyncClient, image: bytes, due: float, out: TextIO) -> None:
    try:
        result = (await client.recognize([image]))[0]
        version, error = result.version, str(result.error or "")
    except VisionloopError as failure:
        version, error = 0, f"{failure.reason}: {failure}"
    out.write(json.dumps(asdict(Request(due, time.time(), version, error))) + "\n")
    out.flush()


def read(path: Path) -> list[Request]:
    """All requests of a run, in the order of their answers."""
    return [Request(**json.loads(line)) for line in path.read_text().splitlines()]


def main() -> None:
    """`python -m visionloop.demo.load TARGET RATE DEADLINE OUTPUT IMAGE…`"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("rate", type=float)
    parser.add_argument("deadline", type=float)
    parser.add_argument("output", type=Path)
    parser.add_argument("images", nargs="+", type=Path)
    options = parser.parse_args()
    images = [path.read_bytes() for path in options.images]
    with options.output.open("w") as out:
        asyncio.run(send_until_stopped(options.target, images, options.rate, options.deadline, out))


if __name__ == "__main__":
    main()
