"""Decoding in processes: the same rows and refusals as in threads, and nothing lost with one."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import encoded, preprocessing
from support.decoders import RunningDecoder, decoders, linked, links, used
from support.photographs import encode, small, variants
from support.process_tree import descriptors, resident, shared_mappings
from support.waiting import until, wait_for

from visionloop.errors import ImageError, UnavailableError
from visionloop.images import DEFAULT_LIMITS
from visionloop.preprocessing import Preprocessing, eval_preprocessing
from visionloop.telemetry import inference as metrics
from visionloop.telemetry.metrics import values
from visionloop_inference import decoder_process, wire
from visionloop_inference import decoding_frames as frames
from visionloop_inference.bulk_decoding import EACH
from visionloop_inference.decoder import FIRST_GUESS, Decoder
from visionloop_inference.decoder_link import DecoderLink
from visionloop_inference.decoder_pool import LEAST_AHEAD
from visionloop_inference.decoding import Decoded, decode
from visionloop_inference.decoding_load import DecodingLoad
from visionloop_inference.rows import Arena

ROUNDS = int(os.environ.get("KILL_ROUNDS", "1"))
PREPARE = preprocessing()
CROPPED = eval_preprocessing(48, 0.875, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DIED_AT = "decoder.decode"  # a failpoint


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario(), 60)

    asyncio.run(bounded())


@cache
def picture(number: int) -> bytes:
    return encoded(number, size=96)


@cache
def decoded_here(image: bytes, *, cropped: bool) -> Decoded:
    return decode(image, CROPPED if cropped else PREPARE, DEFAULT_LIMITS)[0]


def is_right(found: Decoded, image: bytes, prepare: Preprocessing = PREPARE) -> None:
    """As the one function has it, called here."""
    wanted = decoded_here(image, cropped=prepare is CROPPED)
    np.testing.assert_array_equal(found.row, wanted.row)
    assert (found.width, found.height) == (wanted.width, wanted.height)
    assert found.sha256 == wanted.sha256


class Gate:
    """Decoders that are threads wait here before each image."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.seen: list[bytes] = []
        self._begun = threading.Semaphore(0)
        monkeypatch.setattr(decoder_process, "decode", self._decode)

    def _decode(self, data: bytes, *rest: object) -> tuple[Decoded, float]:
        self.seen.append(data)
        self._begun.release()
        assert self.open.wait(30)
        return decode(data, *rest)

    async def begun(self) -> None:
        """Waits until one more image is being decoded."""
        assert await asyncio.to_thread(self._begun.acquire, timeout=30)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


# --- what comes back


def test_every_format_and_mode_gives_the_row_that_it_gives_here() -> None:
    sent = [variant.data for variant in variants().values()]
    sent += [encoded(number, kind="PNG") for number in range(4)]

    async def scenario() -> None:
        async with linked(running) as decoder:
            asked = [(data, prepare) for data in sent for prepare in (PREPARE, CROPPED)]
            found = await asyncio.gather(*(decoder.decode(*one) for one in asked))
            for one, (data, prepare) in zip(found, asked, strict=True):
                is_right(one, data, prepare)
            assert {link.images for link in links(decoder)} == {0}

    with decoders(2) as running:
        play(scenario)


def counted(counter: Any, label: str) -> float:
    """In this process."""
    found = values().get(counter.metric.name, {})
    return found.get((label,), [0.0])[0]


def test_bad_images_among_good_ones_are_refused_in_the_words_of_threads() -> None:
    good = picture(1)
    bad = [b"", b"no image", good[: len(good) // 2], b"<html>" * 9, bytes(21 * 2**20)]

    async def refusal(decoder: Decoder, data: bytes) -> tuple[str, str, str]:
        with pytest.raises(ImageError) as told:
            await decoder.decode(data, PREPARE)
        return str(told.value), told.value.reason, told.value.field

    async def scenario() -> None:
        threads = Decoder(1)
        async with linked(running) as decoder:
            for data in bad:
                wanted = await refusal(threads, data)
                before = counted(metrics.IMAGE_ERRORS, wanted[1])
                first = asyncio.create_task(decoder.decode(good, PREPARE))
                assert await refusal(decoder, data) == wanted
                is_right(await first, good)
                assert counted(metrics.IMAGE_ERRORS, wanted[1]) == before + 1
        threads.close()

    with decoders(1) as running:
        play(scenario)


def test_a_fault_of_ours_fails_its_image_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(data: bytes, *rest: object) -> tuple[Decoded, float]:
        if data == b"fault":
            raise ZeroDivisionError
        return decode(data, *rest)

    monkeypatch.setattr(decoder_process, "decode", work)

    async def scenario() -> None:
        async with linked(running) as decoder:
            with pytest.raises(Exception, match="a fault of the server while the image"):
                await decoder.decode(b"fault", PREPARE)
            is_right(await decoder.decode(picture(1), PREPARE), picture(1))

    with decoders(1, "thread") as running:
        play(scenario)


def test_an_image_that_no_arena_holds_is_decoded_in_a_thread(gate: Gate) -> None:
    large = encode(small(400, 300), "BMP")

    async def scenario() -> None:
        async with linked(running, arena=64 * 1024) as decoder:
            is_right(await decoder.decode(large, PREPARE), large)
            assert gate.seen == []

    with decoders(1, "thread") as running:
        play(scenario)


# --- who goes where, and what is predicted


def test_a_decoder_gets_little_ahead_and_the_rest_waits(gate: Gate) -> None:
    async def scenario() -> None:
        async with linked(running) as decoder:
            tasks = [asyncio.create_task(decoder.decode(picture(n), PREPARE)) for n in range(9)]
            await gate.begun()
            assert [link.images for link in links(decoder)] == [LEAST_AHEAD, LEAST_AHEAD]
            gate.open.set()
            for number, one in enumerate(await asyncio.gather(*tasks)):
                is_right(one, picture(number))

    with decoders(2, "thread") as running:
        play(scenario)


def test_the_prediction_counts_the_images_of_all_front_ends_and_the_decoders(gate: Gate) -> None:
    page = DecodingLoad.create()
    one_load, other_load = (DecodingLoad(os.dup(page.fd), index) for index in (3, 5))

    async def scenario() -> None:
        async with linked(running, load=one_load) as one, linked(running, load=other_load) as other:
            ours = [asyncio.create_task(one.decode(picture(n), PREPARE)) for n in range(3)]
            theirs = [asyncio.create_task(other.decode(picture(n), PREPARE)) for n in range(5)]
            await gate.begun()
            assert one.seconds(0) == 0
            assert one.seconds(2) == pytest.approx((3 + 5 + 2) * FIRST_GUESS / 2)
            assert other.seconds(1) == pytest.approx((3 + 5 + 1) * FIRST_GUESS / 2)
            page.clear(5)  # as when the other one died
            assert one.seconds(2) == pytest.approx((3 + 2) * FIRST_GUESS / 2)
            gate.open.set()
            await asyncio.gather(*ours, *theirs)
            assert (one_load.others, other_load.others) == (0, 0)
            # What was measured counts from then on.
            assert one._seconds != FIRST_GUESS
            assert one.seconds(1) == pytest.approx(one._seconds / 2)

    with decoders(2, "thread") as running:
        play(scenario)
    page.close()


def test_front_ends_that_share_decoders_share_what_bulk_work_has_of_them(gate: Gate) -> None:
    page = DecodingLoad.create()
    loads = [DecodingLoad(os.dup(page.fd), index) for index in (3, 5)]

    async def scenario() -> None:
        async with linked(running, load=loads[0]) as one, linked(running, load=loads[1]) as other:

            def bulk() -> list[asyncio.Task[Decoded]]:
                return [
                    asyncio.create_task(front_end.decode(picture(n), PREPARE, low=True))
                    for n in range(12)
                    for front_end in (one, other)
                ]

            many = bulk()
            await gate.begun()
            assert [one._pending, other._pending] == [EACH * 4 // 2] * 2
            for task in many:
                task.cancel()
            await asyncio.gather(*many, return_exceptions=True)
            assert page.with_bulk == 0
            # A caller of one front end; bulk work at both makes room for him.
            single = asyncio.create_task(one.decode(picture(0), PREPARE))
            await asyncio.sleep(0)
            many = bulk()
            await asyncio.sleep(0)
            assert [one._pending, other._pending] == [1 + 1, 1]
            gate.open.set()
            await asyncio.gather(single, *many)
            assert (page.with_bulk, page.others) == (0, 0)
            # As when one of them died while it had some.
            loads[1].tell_bulk(3)
            assert page.with_bulk == 1
            page.clear(5)
            assert page.with_bulk == 0

    with decoders(4, "thread") as running:
        play(scenario)
    page.close()


# --- callers who go away


def test_cancelled_images_are_not_decoded_and_their_space_is_the_decoders_until_it_says_so(
    gate: Gate,
) -> None:
    async def scenario() -> None:
        async with linked(running) as decoder:
            [link] = links(decoder)
            tasks = [asyncio.create_task(decoder.decode(picture(n), PREPARE)) for n in range(4)]
            await gate.begun()
            held, rejected = used(link), counted(metrics.REJECTED, "cancelled")
            # Being decoded, handed over, and waiting here twice.
            for task in tasks[:3]:
                task.cancel()
            await asyncio.sleep(0)
            while link._outbox._frames:  # noqa: ASYNC110 — a turn of the loop at a time
                await asyncio.sleep(0)
            assert used(link) == held
            assert link.images == LEAST_AHEAD
            gate.open.set()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(one) for one in done[:3]] == [asyncio.CancelledError] * 3
            is_right(done[3], picture(3))
            assert gate.seen == [picture(0), picture(3)]
            assert counted(metrics.REJECTED, "cancelled") == rejected  # images are no requests

    with decoders(1, "thread") as running:
        play(scenario)


def test_a_storm_of_cancels_never_mixes_rows_up() -> None:
    async def scenario() -> None:
        async with linked(running) as decoder:
            random = np.random.default_rng(5)

            async def client(number: int) -> None:
                for turn in range(25):
                    image = picture((number + turn) % 20)
                    task = asyncio.create_task(decoder.decode(image, PREPARE))
                    if random.random() < 0.5:
                        for _ in range(int(random.integers(0, 6))):
                            await asyncio.sleep(0)
                        task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        is_right(await task, image)

            await asyncio.gather(*(client(number) for number in range(8)))

    with decoders(2) as running:
        play(scenario)


# --- decoders that die


def test_only_the_image_that_a_decoder_was_at_fails_with_it() -> None:
    async def scenario() -> None:
        async with linked(running) as decoder:
            tasks = [asyncio.create_task(decoder.decode(picture(n), PREPARE)) for n in range(8)]
            done = await asyncio.gather(*tasks, return_exceptions=True)
            failed = [one for one in done if isinstance(one, BaseException)]
            [error] = failed
            assert isinstance(error, UnavailableError)
            assert "the decoder died before it answered; try again" in str(error)
            assert error.retry_after_seconds == DecoderLink.retry_seconds
            for number, one in enumerate(done):
                if one is not error:
                    is_right(one, picture(number))
            assert decoder.processes.count == 1

    with decoders(2, VISIONLOOP_FAILPOINT=DIED_AT) as running:
        play(scenario)


def test_images_that_a_dead_decoder_had_not_begun_go_to_another() -> None:
    async def scenario() -> None:
        async with linked(running) as decoder:
            tasks = [asyncio.create_task(decoder.decode(picture(n), PREPARE)) for n in range(12)]
            await until(lambda: sum(not task.done() for task in tasks) <= LEAST_AHEAD)
            running[0].process.kill()
            for number, one in enumerate(await asyncio.gather(*tasks)):
                is_right(one, picture(number))

    with decoders(2) as running:
        os.kill(running[0].pid, signal.SIGSTOP)
        play(scenario)


def test_without_a_decoder_threads_go_on() -> None:
    told: list[None] = []

    async def scenario() -> None:
        async with linked(running, lost=lambda: told.append(None)) as decoder:
            tasks = [asyncio.create_task(decoder.decode(picture(n), PREPARE)) for n in range(6)]
            await asyncio.sleep(0)
            running[0].process.kill()
            for number, one in enumerate(await asyncio.gather(*tasks)):
                is_right(one, picture(number))
            assert decoder.processes.count == 0
            assert told == [None]
            is_right(await decoder.decode(picture(9), PREPARE), picture(9))
            assert decoder.seconds(3) > 0

    with decoders(1) as running:
        os.kill(running[0].pid, signal.SIGSTOP)
        play(scenario)


@pytest.mark.kill
@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_kill_under_load_costs_one_image_at_most(number: int) -> None:
    failures: list[UnavailableError] = []
    answered = 0
    random = np.random.default_rng(number)

    async def client(decoder: Decoder, first: int, stop: asyncio.Event) -> None:
        nonlocal answered
        turn = first
        while not stop.is_set():
            image = picture(turn % 30)
            try:
                is_right(await decoder.decode(image, PREPARE), image)
                answered += 1
            except UnavailableError as error:
                failures.append(error)
            turn += 1

    async def scenario() -> None:
        async with linked(running) as decoder:
            stop = asyncio.Event()
            clients = [asyncio.create_task(client(decoder, n, stop)) for n in range(12)]
            await asyncio.sleep(0.05 + 0.05 * float(random.random()))
            running[0].process.kill()
            await until(lambda: decoder.processes.count < 2)
            aim = answered + 30
            await until(lambda: answered >= aim)
            stop.set()
            await asyncio.gather(*clients)

    with decoders(2) as running:
        before = descriptors(os.getpid())
        play(scenario)
        assert descriptors(os.getpid()) <= before
    assert len(failures) <= 1


def test_a_decoder_that_talks_nonsense_loses_its_link_and_its_images_go_on() -> None:
    layout = wire.Layout(frames.SIGNATURE)
    row = bytes(3 * 64 * 64)

    def answer(shape: tuple[int, int]) -> bytes:
        """An answer in the arena whose row is of this size."""
        out = bytearray()
        places = [3 * shape[0] * shape[1], *shape, 3, 16, 2, 32, 32, 8, 1]
        layout.answer(out, 1, places, [], {}, in_arena=True)
        return bytes(out)

    sent = [
        answer((64, 64)),  # larger than its space
        wire.refused(99, wire.Reason.IMAGE, "corrupt\nx"),  # a job it does not have
        row[:9],
    ]

    async def each(frame: bytes) -> None:
        ours, theirs = socket.socketpair()
        arena = Arena.create(2**20)
        decoder = Decoder(1)
        lost: list[None] = []
        decoder.processes.link([ours.detach(), os.dup(arena.fd)], lambda: lost.append(None))
        task = asyncio.create_task(decoder.decode(picture(1), PREPARE))
        await asyncio.sleep(0.01)
        theirs.sendall(frame)
        is_right(await task, picture(1))
        assert lost == [None]
        decoder.close()
        arena.close()
        theirs.close()

    for frame in sent:
        play(lambda frame=frame: each(frame))


def test_a_link_without_its_descriptors_is_an_error_and_closes_what_came() -> None:
    async def scenario() -> None:
        decoder = Decoder(1)
        ours, theirs = socket.socketpair()
        with pytest.raises(ValueError, match="1 of 2"):
            decoder.processes.link([ours.detach()], lambda: None)
        assert theirs.recv(1) == b""
        theirs.close()
        decoder.close()

    play(scenario)


# --- front ends that die

FRONT_END = """
import asyncio, sys
from pathlib import Path
from visionloop.preprocessing import Preprocessing
from visionloop_inference.decoder import Decoder

async def main():
    decoder = Decoder(1)
    decoder.processes.link([int(sys.argv[1]), int(sys.argv[2])], lambda: None)
    image, steps = Path(sys.argv[3]).read_bytes(), Preprocessing.model_validate_json(sys.argv[4])
    async def client():
        while True:
            await decoder.decode(image, steps)
            print("answered", flush=True)
    await asyncio.gather(*(client() for _ in range(20)))

asyncio.run(main())
"""


def front_end_dies(decoder: RunningDecoder, file: Path) -> None:
    """One that asks as fast as it can is killed after its first answer."""
    fds = decoder.ends()
    process = subprocess.Popen(
        [sys.executable, "-c", FRONT_END, *map(str, fds), str(file), PREPARE.model_dump_json()],
        pass_fds=fds,
        stdout=subprocess.PIPE,
    )
    for fd in fds:
        os.close(fd)
    assert process.stdout is not None
    assert process.stdout.readline() == b"answered\n"
    process.kill()
    process.communicate()


@pytest.mark.long
@pytest.mark.kill
def test_a_killed_front_end_leaves_nothing_in_a_decoder(tmp_path: Path) -> None:
    file = tmp_path / "picture.jpg"
    file.write_bytes(picture(1))

    async def answers() -> None:
        async with linked(running) as decoder:
            is_right(await decoder.decode(picture(2), PREPARE), picture(2))

    with decoders(1) as running:
        play(answers)

        def held() -> tuple[int, int]:
            return descriptors(running[0].pid), shared_mappings(running[0].pid)

        wait_for(lambda: held()[1] == 0, hint="the end of the first link")
        before = held()
        for _ in range(2):
            front_end_dies(running[0], file)
            play(answers)
        wait_for(lambda: held() == before, hint=f"what was held before: {before}, now {held()}")


def test_a_decoder_is_small_and_has_neither_grpc_nor_onnxruntime() -> None:
    async def scenario() -> None:
        async with linked(running) as decoder:
            await asyncio.gather(*(decoder.decode(picture(n), PREPARE) for n in range(20)))

    with decoders(1) as running:
        play(scenario)
        mapped = Path(f"/proc/{running[0].pid}/maps").read_text()
        assert "_imaging" in mapped  # what it is for
        for heavy in ("grpc", "onnxruntime", "libtorch"):
            assert heavy not in mapped
        assert resident(running[0].pid) < 64 * 2**20


def test_large_images_give_their_pages_back_while_others_are_under_way(gate: Gate) -> None:
    large = encode(small(1000, 700), "BMP")  # 2.1 MB

    async def scenario() -> None:
        async with linked(running) as decoder:
            [link] = links(decoder)
            first = asyncio.create_task(decoder.decode(large, PREPARE))
            await gate.begun()
            await asyncio.sleep(0)
            pages = os.fstat(link._arena.fd).st_blocks
            assert pages * 512 >= len(large)
            second = asyncio.create_task(decoder.decode(picture(1), PREPARE))
            await asyncio.sleep(0.01)
            gate.open.set()
            is_right(await first, large)
            assert os.fstat(link._arena.fd).st_blocks * 512 < len(large) // 2
            is_right(await second, picture(1))

    with decoders(1, "thread") as running:
        play(scenario)


def test_what_is_not_decoded_at_the_end_of_a_front_end_is_told_so(gate: Gate) -> None:
    async def scenario() -> None:
        async with linked(running) as decoder:
            tasks = [asyncio.create_task(decoder.decode(picture(n), PREPARE)) for n in range(4)]
            await gate.begun()
            decoder.processes.close()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(one) for one in done] == [UnavailableError] * 4
            gate.open.set()

    with decoders(1, "thread") as running:
        play(scenario)
