"""An image of somebody who waits stands behind few of a bulk caller's."""

import asyncio

from support.bundles import encoded, preprocessing

from visionloop_inference.bulk_decoding import EACH, BulkDecoder
from visionloop_inference.decoder import Decoder


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
