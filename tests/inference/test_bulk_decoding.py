"""An image of somebody who waits stands behind few of a bulk caller's."""

import asyncio

from support.bundles import encoded, preprocessing

from visionloop_inference.bulk_decoding import EACH, BulkDecoder
from visionloop_inference.decoding import Decoder


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
