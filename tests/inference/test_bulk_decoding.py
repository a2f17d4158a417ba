"""An image of somebody who waits stands behind few of a bulk caller's."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support.bundles import build_bundle, encoded, preprocessing
from support.open_inference import OFFER

from visionloop_inference.bulk_decoding import EACH
from visionloop_inference.decoder import Decoder
from visionloop_inference.decoding import Decoded
from visionloop_inference.levels import AFTERWARDS, BULK
from visionloop_inference.open_inference import OpenInference
from visionloop_inference.recognition import Recognition
from visionloop_inference.tensors import joined_bytes


def test_an_image_waits_for_few_of_low_priority() -> None:
    async def scenario() -> None:
        decoder = Decoder(1)
        done: list[str] = []
        image, prepare = encoded(1), preprocessing()

        async def one(name: str) -> None:
            await decoder.decode(image, prepare, low=name == "bulk")
            done.append(name)

        many = [asyncio.create_task(one("bulk")) for _ in range(20)]
        await asyncio.sleep(0)
        await one("single")
        assert done.index("single") <= EACH
        await asyncio.gather(*many)
        assert done.count("bulk") == 20
        decoder.close()

    asyncio.run(scenario())


def test_those_in_line_who_are_cancelled_leave_no_gap() -> None:
    async def scenario() -> None:
        decoder = Decoder(1)
        image, prepare = encoded(1), preprocessing()
        many = [asyncio.create_task(decoder.decode(image, prepare, low=True)) for _ in range(20)]
        await many[0]
        for task in many[1:10]:
            task.cancel()
        async with asyncio.timeout(30):
            await asyncio.gather(*many[10:])
        assert all(task.done() for task in many)
        decoder.close()

    asyncio.run(scenario())


def test_half_of_the_decoders_are_free_while_others_call(tmp_path: Path, monkeypatch) -> None:
    bundle = build_bundle(tmp_path, golden=1, before_ready=1)
    clock = [100.0]
    monkeypatch.setattr("visionloop_inference.decoder.time.monotonic", lambda: clock[0])

    async def scenario() -> None:
        decoder = Decoder(4)
        nobody: Any = None
        plan: Any = SimpleNamespace(
            priority=BULK, rows=10, inputs=[SimpleNamespace(field="images")]
        )
        open_inference = OpenInference(nobody, decoder, nobody, OFFER)
        recognition = Recognition(nobody, decoder, 16, nobody)
        image = encoded(1)
        sent = joined_bytes([image] * plan.rows)
        under_way, most = 0, 0
        real = decoder._decoded

        async def counted(*args: Any) -> tuple[Decoded, float]:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            try:
                return await real(*args)
            finally:
                under_way -= 1

        monkeypatch.setattr(decoder, "_decoded", counted)

        async def at_most() -> int:
            """Images of bulk callers of both services."""
            nonlocal most
            most = 0
            await asyncio.gather(
                recognition._decode([image] * 10, bundle, low=True),
                open_inference._decode(plan, sent, bundle),
            )
            return most

        assert await at_most() == 4 * EACH
        await decoder.decode(image, bundle.preprocessing)  # somebody else's
        assert await at_most() == 2
        clock[0] += AFTERWARDS
        assert await at_most() == 4 * EACH
        decoder.close()

    asyncio.run(scenario())
