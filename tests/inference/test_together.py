"""The parts of a request end together."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.bundles import build_bundle

from visionloop.errors import UnavailableError
from visionloop_inference.recognition import Recognition
from visionloop_inference.together import together


def test_what_the_parts_give_comes_in_their_order() -> None:
    async def late(number: int) -> int:
        for _ in range(3 - number):
            await asyncio.sleep(0)
        return number

    async def scenario() -> None:
        assert await together([late(number) for number in range(3)]) == [0, 1, 2]
        assert await together([late(2)]) == [2]
        assert await together([]) == []

    asyncio.run(scenario())


class LosesItsFirst:
    """A decoder whose process dies of the first image; the others would take for ever."""

    def __init__(self) -> None:
        self.ended: list[bytes] = []

    async def decode(self, data: bytes, _preprocessing: object, *, low: bool = False) -> Any:
        if data == b"first":
            raise UnavailableError("the decoder died")
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append(data)


def test_a_request_that_fails_decodes_no_further(tmp_path: Path) -> None:
    """Its room is given back, so others come in: together they would hold more than there is."""
    bundle = build_bundle(tmp_path, golden=1, before_ready=1)
    decoder: Any = LosesItsFirst()
    nobody: Any = None

    async def scenario() -> None:
        recognition = Recognition(nobody, decoder, 16, nobody)
        with pytest.raises(UnavailableError):
            await recognition._decode([b"first", b"second", b"third"], bundle, low=False)
        for _ in range(3):
            await asyncio.sleep(0)  # a cancellation takes a turn of the loop
        assert decoder.ended == [b"second", b"third"]

    asyncio.run(scenario())
