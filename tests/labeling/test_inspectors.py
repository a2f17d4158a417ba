"""The processes that decode untrusted images: limited, replaced, not believed, gone with us."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from support.hostile_images import bombs
from support.mutated_images import mutated
from support.photographs import encode, photograph, small, variants
from support.pictures import noise
from support.waiting import PATIENCE, wait_for

from visionloop.errors import ImageError
from visionloop.images import Limits, Refusal
from visionloop_labeling import inspectors
from visionloop_labeling import nursery as nurseries
from visionloop_labeling.inspection import Inspection, inspect
from visionloop_labeling.inspectors import Inspected, UndecodableError, WorkerPool
from visionloop_labeling.renditions import RECIPES, render

MUTATED = int(os.environ.get("FUZZ_CASES", "5000"))


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    made = WorkerPool(Limits(), 2)
    yield made
    made.close()


def children(pid: int) -> list[int]:
    """Of a process with one thread."""
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def nursery(pool: WorkerPool) -> int:
    return pool._nursery._number()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_says_what_this_process_would(pool: WorkerPool) -> None:
    for name, variant in variants().items():
        there, here = pool.inspect(variant.data), inspect(variant.data, Limits())
        assert there.pixel_sha256 == here.pixel_sha256, name
        assert (there.width, there.height) == (here.width, here.height)
        assert (there.media_type, there.quality) == (here.media_type, here.quality)
        assert there.fingerprint is not None
        assert here.fingerprint is not None
        assert (there.fingerprint.hashes == here.fingerprint.hashes).all()
        assert (there.fingerprint.thumbnail == here.fingerprint.thumbnail).all()
    assert pool.preview(photograph("china"), RECIPES[0]) == render(
        photograph("china"), RECIPES[0], Limits()
    )


def test_a_worker_has_no_more_than_it_needs(pool: WorkerPool, monkeypatch) -> None:
    pool.inspect(noise(1))
    worker = children(nursery(pool))[0]
    lines = Path(f"/proc/{worker}/limits").read_text().splitlines()
    limits = {line[:26].strip(): line[26:].split()[0] for line in lines[1:]}
    assert limits["Max file size"] == limits["Max core file size"] == "0"
    most = 24 * Limits().max_pixels + Limits().max_bytes + 2**30
    assert int(limits["Max address space"]) < most
    assert int(limits["Max cpu time"]) < 60
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    environment = nurseries.environment()
    assert not [name for name in environment if name.startswith(("AWS", "VISIONLOOP"))]


@pytest.mark.parametrize("times", [1, 2])
def test_an_image_is_blamed_only_when_two_workers_died_of_it(pool: WorkerPool, times: int) -> None:
    slow = encode(small(4000, 4000), "PNG", compress_level=1)  # takes a good part of a second
    pool.inspect(noise(1))
    killed: list[int] = []
    asked = threading.Event()

    def kill() -> None:
        asked.wait(PATIENCE)
        while len(killed) < times:
            for worker in children(nursery(pool)):
                if worker not in killed and working(worker):
                    os.kill(worker, signal.SIGKILL)
                    killed.append(worker)

    def working(worker: int) -> bool:
        # It sleeps while it waits for a question.
        return Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] == "R"

    killer = threading.Thread(target=kill)
    killer.start()
    asked.set()
    if times == 1:
        assert pool.inspect(slow).width == 4000
    else:
        with pytest.raises(UndecodableError) as error:
            pool.inspect(slow)
        assert error.value.reason == "decoder_crashed"
    killer.join()
    assert len(killed) == times
    assert pool.inspect(noise(2)).width == 40


def test_images_handed_over_together_are_answered_each_for_itself(pool: WorkerPool) -> None:
    """What kills its worker, or is refused, harms neither those before nor those behind it."""
    images = [noise(1), b"no image", noise(2), noise(3)[:-100], noise(4)]
    alone = [outcome_of(pool, image) for image in images]
    assert [outcome(one) for one in pool.inspect_all(images)] == alone
    assert [one[0] for one in alone] == ["png", "not_an_image", "png", "truncated", "png"]
    assert pool.inspect_all([]) == []


def test_what_takes_too_much_computing_is_ended_and_harms_nobody_beside_it(monkeypatch) -> None:
    """The kernel ends it. The image it was looking at is asked again alone, like those behind."""
    monkeypatch.setattr(inspectors, "HAND_BYTES", 2**30)
    pool = WorkerPool(Limits(max_bytes=2**30, max_pixels=10**9), 1, cpu_seconds=0)  # up to 1
    images = [noise(1), noise(2), endless_jpeg(), noise(3)]
    found = [outcome(one) for one in pool.inspect_all(images)]
    assert [one[0] for one in found] == ["png", "png", "decode_timeout", "png"]
    assert found[3] == outcome_of(pool, images[3])
    pool.close()


def outcome_of(pool: WorkerPool, image: bytes) -> tuple[str, str]:
    """Of an image by itself."""
    try:
        return outcome(pool.inspect(image))
    except (ImageError, UndecodableError) as refusal:
        return outcome(refusal)


def outcome(inspected: Inspected) -> tuple[str, str]:
    """The kind and the digest of the pixels, or the reason and the words."""
    if isinstance(inspected, Inspection):
        return inspected.media_type.removeprefix("image/"), inspected.pixel_sha256
    return inspected.reason, str(inspected)


def endless_jpeg() -> bytes:
    """40 passes over 36 megapixels, about as many as are taken: seconds, for few bytes."""
    flat = Image.new("L", (6000, 6000), "gray")
    data = encode(flat, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * 34 + b"\xff\xd9"


def test_a_worker_that_hangs_is_ended_at_the_deadline() -> None:
    pool = WorkerPool(Limits(), 1, wall_seconds=0.5)
    pool.inspect(noise(1))
    hanging = children(nursery(pool))[0]
    os.kill(hanging, signal.SIGSTOP)
    with pytest.raises(UndecodableError) as error:
        pool.inspect(noise(1))
    assert error.value.reason == "decode_timeout"
    assert not is_alive(hanging)
    pool.close()


def test_workers_are_recycled_and_a_dead_nursery_is_replaced() -> None:
    pool = WorkerPool(Limits(), 1, recycled_after=2)
    used = set()
    for number in range(6):
        pool.inspect(noise(number))
        used |= set(children(nursery(pool)))
    assert len(used) == 3
    old = nursery(pool)
    pool.inspect(noise(0))
    (orphan,) = children(old)
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: not is_alive(orphan))  # it dies with its parent
    assert pool.inspect(noise(1)).width == 40
    assert nursery(pool) != old
    pool.close()
    assert not is_alive(old)


def test_nobody_stays_behind_when_the_service_is_killed() -> None:
    program = (
        "import sys; from visionloop.images import Limits\n"
        "from visionloop_labeling.inspectors import WorkerPool\n"
        "from support.pictures import noise\n"
        "pool = WorkerPool(Limits(), 1); pool.inspect(noise(1))\n"
        "print(pool._nursery._number(), flush=True); sys.stdin.read()\n"
    )
    tests = str(Path(__file__).resolve().parents[1])
    service = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((tests, *sys.path))},
    )
    assert service.stdout is not None
    pid = int(service.stdout.readline())
    family = [pid, *children(pid)]
    assert len(family) == 2
    service.kill()
    service.communicate()
    wait_for(lambda: not any(is_alive(one) for one in family))


@pytest.mark.parametrize(
    ("words", "rest"),
    [
        (b"{}", b""),
        (b"not json", b""),
        (b'{"pixel_sha256":"../x","media_type":"image/png","width":1,"height":1,'
         b'"quality":null}', b""),
        (b'{"pixel_sha256":"' + b"0" * 64 + b'","media_type":"text/html","width":1,"height":1,'
         b'"quality":null}', b""),
        (b'{"pixel_sha256":"' + b"0" * 64 + b'","media_type":"image/png","width":100000,'
         b'"height":100000,"quality":null}', b""),
        (b'{"pixel_sha256":"' + b"0" * 64 + b'","media_type":"image/png","width":1,"height":1,'
         b'"quality":null}', b"short"),
    ],
)  # fmt: skip
def test_a_worker_is_not_believed(words: bytes, rest: bytes) -> None:
    with pytest.raises(UndecodableError):
        inspectors._inspection(words, rest, Limits())


def test_thousands_of_damaged_images_harm_nobody(pool: WorkerPool) -> None:
    def outcome(data: bytes) -> str:
        try:
            found = pool.inspect(data)
        except (ImageError, UndecodableError) as error:
            return error.reason
        assert isinstance(found, Inspection)
        assert found.width * found.height <= Limits().max_pixels
        return "decoded"

    with ThreadPoolExecutor(2) as threads:
        outcomes = Counter(threads.map(outcome, mutated(MUTATED)))
    assert sum(outcomes.values()) == MUTATED
    known = {"decoded", "decoder_crashed", "decode_timeout", *Refusal}
    assert set(outcomes) <= known
    assert outcomes["decoded"] > MUTATED / 10
    assert outcomes["corrupt"] > MUTATED / 10
    assert pool.inspect(photograph("china")).width == 640


@pytest.mark.parametrize("name", sorted(bombs()))
def test_bombs_are_refused_in_a_worker(pool: WorkerPool, name: str) -> None:
    data, reasons = bombs()[name]
    if not reasons:  # harmless, once nothing is done more often than needed
        assert pool.inspect(data).width > 0
        return
    with pytest.raises(ImageError) as error:
        pool.inspect(data)
    assert error.value.reason in reasons
