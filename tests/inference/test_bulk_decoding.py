"""An image of somebody who waits stands behind few of a bulk caller's."""

import asyncio
from typing import Any

from support.bundles import encoded, preprocessing

from visionloop_inference.bulk_decoding import EACH, BulkDecoder
from visionloop_inference.decoder import Decoder
from visionloop_inference.decoding import Decoded
from visionloop_inference.levels import AFTERWARDS


def test_an_image_waits_for_few_of_low_priority() -> None:
    async def scenario() -> None:
        decoder = Decoder(1)
        bulk, done = BulkDecoder(decoder), []
        image, prepare = encoded(1), preprocessing()

        async def one(name: str, through: Decoder | BulkDecoder) -> None:
            await through.decode(image, prepare)
            done.append(name)

        many = [asyncio.create_task(one("bulk", bulk)) for _ in range(20)]
        await asyncio.sleep(0)
        await one("single", decoder)
        assert done.index("single") <= EACH
        await asyncio.gather(*many)
        assert done.count("bulk") == 20
        decoder.close()

    asyncio.run(scenario())


def test_those_in_line_who_are_cancelled_leave_no_gap() -> None:
    async def scenario() -> None:
        decoder = Decoder(1)
        bulk = BulkDecoder(decoder)
        image, prepare = encoded(1), preprocessing()
        many = [asyncio.create_task(bulk.decode(image, prepare)) for _ in range(20)]
        await many[0]
        for task in many[1:10]:
            task.cancel()
        async with asyncio.timeout(30):
            await asyncio.gather(*many[10:])
        assert all(task.done() for task in many)
        decoder.close()

    asyncio.run(scenario())


def test_half_of_the_decoders_are_free_while_others_call(monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("visionloop_inference.decoder.time.monotonic", lambda: clock[0])

    async def scenario() -> None:
        decoder = Decoder(4)
        bulk = BulkDecoder(decoder)
        image, prepare = encoded(1), preprocessing()
        under_way, most = 0, 0
        real = decoder.decode

        async def counted(*args: Any, **options: Any) -> Decoded:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            try:
                return await real(*args, **options)
            finally:
                under_way -= 1

        monkeypatch.setattr(decoder, "decode", counted)

        async def at_most() -> int:
            nonlocal most
            most = 0
            await asyncio.gather(*[bulk.decode(image, prepare) for _ in range(20)])
            return most

        assert await at_most() == 4 * EACH
        await real(image, prepare)  # somebody else's
        assert await at_most() == 2
        clock[0] += AFTERWARDS
        assert await at_most() == 4 * EACH
        decoder.close()

    asyncio.run(scenario())
