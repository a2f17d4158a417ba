"""ModelStreamInfer: order, errors inside the stream, bounds, and what a client that goes leaves."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import runners
from support.open_inference import NO_DEADLINE, outputs, request, served

from visionloop.proto.inference import open_inference_pb2 as pb
from visionloop_inference.infer_stream import in_order
from visionloop_inference.open_inference import OpenInference


async def stream(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


def numbered(number: int, **changes: Any) -> pb.ModelInferRequest:
    made = request(x=np.full((1, 4), number, np.float32))
    made.id = f"n{number}"
    made.MergeFrom(pb.ModelInferRequest(**changes))
    return made


def test_answers_come_in_order_with_errors_in_their_place(tmp_path: Path) -> None:
    asked = [numbered(number) for number in range(40)]
    asked[3].inputs[0].shape[1] = 5
    asked[7].model_name = "dogs"
    asked[9].parameters["triton_enable_empty_final_response"].bool_param = True

    async def use(served: OpenInference) -> None:
        for items in (asked, [item.SerializeToString() for item in asked]):
            answers = [
                pb.ModelStreamInferResponse.FromString(a) if isinstance(a, bytes) else a
                async for a in served.ModelStreamInfer(stream(items), NO_DEADLINE)
            ]
            assert [a.infer_response.id for a in answers] == [f"n{n}" for n in range(40)]
            for number, answer in enumerate(answers):
                final = answer.infer_response.parameters["triton_final_response"]
                assert final.bool_param
                if number in (3, 7):
                    assert not answer.infer_response.outputs
                    continue
                assert not answer.error_message
                given = outputs(answer.infer_response)["y"]
                assert given.tolist() == [[2 * number + 1] * 4]
            assert "it must be [rows, 4]" in answers[3].error_message
            assert "model 'dogs' is not served here" in answers[7].error_message

    run(tmp_path, use)


def test_bytes_that_are_no_request_are_refused_in_the_stream(tmp_path: Path) -> None:
    async def use(served: OpenInference) -> None:
        items = [b"\xff\xff", numbered(1).SerializeToString()]
        answers = [
            pb.ModelStreamInferResponse.FromString(a)
            async for a in served.ModelStreamInfer(stream(items), NO_DEADLINE)
        ]
        assert "no ModelInferRequest" in answers[0].error_message
        assert answers[1].infer_response.id == "n1"

    run(tmp_path, use)


def run(folder: Path, use: Any) -> None:
    async def all_of_it() -> None:
        async with served(folder, runners.tiny()) as open_inference:
            await use(open_inference)

    asyncio.run(all_of_it())


class Work:
    """Answers when told to; knows how much was under way at once."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.under_way = 0
        self.most = 0
        self.cancelled = 0
        self.gates: dict[int, asyncio.Event] = {}

    async def __call__(self, number: int) -> int:
        self.started.append(number)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.gates.setdefault(number, asyncio.Event()).wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1
        return number

    def open(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.gates.setdefault(number, asyncio.Event()).set()


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_requests_run_side_by_side_and_the_order_stays() -> None:
    async def all_of_it() -> None:
        work = Work()
        answers = in_order(stream(range(10)), work, 4)
        first = asyncio.ensure_future(anext(answers))
        await turns()
        assert work.started == [0, 1, 2, 3]  # and no more are begun
        work.open([3, 2, 1])
        await turns()
        assert not first.done()
        assert work.started == [0, 1, 2, 3]  # their answers wait for the first one's
        work.open(range(10))
        assert [await first] + [number async for number in answers] == list(range(10))
        assert work.most == 4

    asyncio.run(all_of_it())


def test_a_stream_that_is_closed_cancels_what_is_under_way() -> None:
    async def all_of_it() -> None:
        work = Work()
        work.open([0])
        answers = in_order(stream(range(10)), work, 4)
        assert await anext(answers) == 0
        await turns()
        await answers.aclose()
        assert work.under_way == 0
        assert work.cancelled == len(work.started) - 1 > 0
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(all_of_it())


def test_what_ends_the_requests_ends_the_stream_after_the_answers() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 0
        yield 1
        raise ConnectionResetError

    async def all_of_it() -> None:
        work = Work()
        work.open([0, 1])
        answers = in_order(broken(), work, 4)
        assert [await anext(answers), await anext(answers)] == [0, 1]
        with pytest.raises(ConnectionResetError):
            await anext(answers)

    asyncio.run(all_of_it())


def test_an_empty_stream() -> None:
    async def all_of_it() -> None:
        assert [n async for n in in_order(stream([]), Work(), 4)] == []

    asyncio.run(all_of_it())
