"""The arena of shared memory."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionloop.errors import CorruptError
from visionloop_inference.rows import ALIGNMENT, HEADER, KEPT, Arena, aligned

PAGES = 64 * 1024


@pytest.fixture
def arena() -> Arena:
    made = Arena.create(PAGES)
    yield made
    made.close()


def test_what_one_side_writes_the_other_reads(arena: Arena) -> None:
    other = Arena.open(os.dup(arena.fd))
    offset = arena.allocate(10)
    assert offset == HEADER
    arena.view(offset, 10)[:] = b"0123456789"
    assert bytes(other.view(offset, 10)) == b"0123456789"
    other.header[:4] = b"pace"
    assert bytes(arena.header[:4]) == b"pace"
    other.close()


def test_rows_that_follow_one_another_lie_side_by_side(arena: Arena) -> None:
    places = [arena.allocate(3 * ALIGNMENT) for _ in range(5)]
    assert places == [HEADER + 3 * ALIGNMENT * i for i in range(5)]


def test_the_lowest_space_is_taken_first(arena: Arena) -> None:
    places = [arena.allocate(100) for _ in range(6)]
    for place in (places[4], places[1]):
        arena.free(place)
    assert arena.allocate(100) == places[1]
    assert arena.allocate(100) == places[4]


def test_full_is_none_and_freed_space_joins(arena: Arena) -> None:
    third = PAGES // 4
    places = [arena.allocate(third) for _ in range(4)]
    assert None not in places
    assert arena.allocate(1) is None
    for place in (places[1], places[3], places[2]):  # 2 joins both sides
        arena.free(place)
    assert arena.allocate(3 * third + 1) is None
    assert arena.allocate(3 * third) == places[1]


@given(
    st.lists(
        st.one_of(st.integers(1, 20_000), st.tuples(st.just("free"), st.integers(0, 1000))),
        max_size=120,
    )
)
@settings(max_examples=150, deadline=None)
def test_spaces_never_overlap_and_all_come_back(steps: list[int | tuple[str, int]]) -> None:
    arena = Arena.create(PAGES)
    held: dict[int, int] = {}
    for step in steps:
        if isinstance(step, int):
            offset = arena.allocate(step)
            if offset is None:
                # It is not refused where the lowest address would have room.
                gaps, end = [], HEADER
                for start, size in sorted(held.items()):
                    gaps.append(start - end)
                    end = start + size
                assert max([*gaps, arena.size - end]) < aligned(step)
                continue
            assert offset % ALIGNMENT == 0
            assert offset >= HEADER
            assert offset + step <= arena.size
            for start, size in held.items():
                assert offset + aligned(step) <= start or start + size <= offset
            held[offset] = aligned(step)
        elif held:
            offset = sorted(held)[step[1] % len(held)]
            arena.free(offset)
            del held[offset]
        assert arena.used == sum(held.values())
    for offset in held:
        arena.free(offset)
    assert arena.used == 0
    assert arena.allocate(PAGES) == HEADER
    arena.close()


def test_the_size_can_not_be_taken_from_under_the_other_side(arena: Arena) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(arena.fd, HEADER)


def test_a_descriptor_that_is_no_arena_is_refused_and_closed() -> None:
    unsealed = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, HEADER + PAGES)
    reading, writing = os.pipe()
    for fd in (unsealed, reading):
        with pytest.raises(CorruptError, match="no arena"):
            Arena.open(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    os.close(writing)


def test_memory_of_a_burst_goes_back_when_the_last_row_does() -> None:
    arena = Arena.create(3 * KEPT)
    other = Arena.open(os.dup(arena.fd))
    places = []
    while (offset := arena.allocate(2**20)) is not None:
        arena.view(offset, 2**20)[:] = bytes(2**20)
        places.append(offset)

    def held() -> int:
        return 512 * os.fstat(arena.fd).st_blocks

    assert held() >= 2.9 * KEPT
    arena.header[:4] = b"pace"
    for place in places:
        assert held() >= 2.9 * KEPT
        arena.free(place)
    assert held() <= KEPT
    assert bytes(other.header[:4]) == b"pace"
    assert arena.allocate(3 * KEPT - 2**20) == HEADER  # it is all there again
    arena.view(arena.size - 2**21, 4)[:] = b"last"
    assert bytes(other.view(arena.size - 2**21, 4)) == b"last"
    other.close()
    arena.close()


def test_closing_leaves_no_descriptor_and_views_in_use_stay_good() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    arena = Arena.create(PAGES)
    view = arena.view(HEADER, 4)
    view[:] = b"rows"
    arena.close()
    arena.close()
    assert bytes(view) == b"rows"
    del view, arena
    assert len(list(Path("/proc/self/fd").iterdir())) == before
