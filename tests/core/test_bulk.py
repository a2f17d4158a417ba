"""Many images over a service that comes and goes."""

import random
import time
from collections.abc import Iterator, Sequence

import pytest

from visionloop.bulk import LONGEST_WISH, TRIES, recognize_all
from visionloop.client import Client, Recognition, ScoredLabel
from visionloop.errors import ImageError, InvalidInputError, UnavailableError, VisionloopError
from visionloop.recognition_stream import IMAGES as TOGETHER

IMAGES = list("abcdefgh")
MANY = list("abcdefghijklmnopqrstuvwxyz")


def away(wish: float = 20.0) -> UnavailableError:
    return UnavailableError("the service went away", retry_after_seconds=wish)


class Service:
    """Answers streams. `breaks`: after how many results each breaks off. `not_ready`: how many
    streams find that the model is being fetched. `deadly`: images that end the process always, and
    with it all of their request, or (`cut_off`) the connection."""

    def __init__(
        self,
        breaks: Sequence[int] = (),
        not_ready: int = 0,
        deadly: Sequence[str] = (),
        *,
        cut_off: bool = False,
    ) -> None:
        self.breaks = list(breaks)
        self.not_ready = not_ready
        self.deadly = deadly
        self.cut_off = cut_off
        self.wish = 20.0
        self.asked: list[list[str]] = []
        self.closed = 0

    def recognize_stream(self, images: list[str], **asked: object) -> Iterator[Recognition]:
        assert asked == {"top_k": 1}
        self.asked.append(images)
        most = self.breaks.pop(0) if self.breaks else len(images)
        ready, self.not_ready = not self.not_ready, max(0, self.not_ready - 1)
        try:
            for number, image in enumerate(images):
                if number == most:
                    raise away(self.wish)
                start = number - number % TOGETHER
                dead = not {*images[start : start + TOGETHER]}.isdisjoint(self.deadly)
                if dead and self.cut_off:
                    raise away(self.wish)
                error: VisionloopError | None = None if ready and not dead else away(self.wish)
                if image == "!":
                    error = ImageError("no image", reason="not_an_image")
                labels = () if error else (ScoredLabel(image, image, 0.5),)
                yield Recognition(image, "cells", 1, labels, error=error)
        finally:
            self.closed += 1


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(random, "uniform", lambda least, most: least)
    return pauses


def run(service: Service, images: Sequence[str] = IMAGES) -> tuple[list[Recognition], list[str]]:
    client: Client = service  # type: ignore[assignment]
    told: list[str] = []
    return list(recognize_all(client, images, tell=told.append, top_k=1)), told


def test_it_goes_on_where_the_stream_broke(slept: list[float]) -> None:
    service = Service(breaks=(3, 0))
    results, told = run(service)
    assert [one.image_id for one in results] == IMAGES
    assert not any(one.error for one in results)
    assert service.asked == [IMAGES, ["d"], *([one] for one in IMAGES[3:])]
    assert slept == [20.0] * 2
    assert told[0] == "the service went away; 3 of 8 are answered, the others are sent again"


def test_a_service_that_is_not_ready_yet_costs_a_pause_and_no_image(slept: list[float]) -> None:
    """Else a server that is being started would refuse a whole list within a second."""
    service = Service(not_ready=3)
    results, told = run(service)
    assert [one.error for one in results] == [None] * len(IMAGES)
    assert len(told) == len(slept) == 3
    assert service.closed == len(service.asked)  # each was ended, not left to the server


def test_what_is_wrong_with_an_image_is_its_own(slept: list[float]) -> None:
    results, told = run(Service(), ["a", "!", "b"])
    assert [bool(one.error) for one in results] == [False, True, False]
    assert slept == told == []


def test_a_service_that_never_answered_is_told_at_once(slept: list[float]) -> None:
    with pytest.raises(UnavailableError):
        run(Service(breaks=(0,)))
    assert slept == []


def test_an_image_that_ends_a_process_each_time_gets_its_error(slept: list[float]) -> None:
    service = Service(deadly=("d", "v", "z"))
    results, _ = run(service, MANY)
    assert [one.image_id for one in results] == MANY
    assert [one.image_id for one in results if one.error] == ["d", "v", "z"]
    # Once with others and then, after those before it, alone.
    killed = [asked for asked in service.asked if not {"d", "v", "z"}.isdisjoint(asked)]
    assert [len(asked) for asked in killed if len(asked) > 1] == [26, 14]
    assert len(slept) == 2 + 3 * (TRIES - 1)


@pytest.mark.parametrize("deadly", ["cd", "abc", "xyz", "ghijk"])
def test_deadly_images_side_by_side_get_their_errors_each(slept: list[float], deadly: str) -> None:
    results, _ = run(Service(deadly=tuple(deadly)), MANY)
    assert [one.image_id for one in results] == MANY
    assert "".join(one.image_id for one in results if one.error) == deadly


def test_an_image_that_ends_the_front_end_gets_its_error(slept: list[float]) -> None:
    """The connection breaks off each time, and no answer says what it was."""
    service = Service(deadly=("m",), cut_off=True)
    results, _ = run(service, MANY)
    assert [one.image_id for one in results if one.error] == ["m"]
    assert isinstance(results[12].error, UnavailableError)


def test_an_image_is_not_blamed_for_a_service_that_came_back_just_then(
    slept: list[float],
) -> None:
    service = Service(breaks=(2, *[0] * TRIES))  # it is back for the second of the other images
    results, _ = run(service)
    assert [one.image_id for one in results] == IMAGES
    assert not any(one.error for one in results)


def test_after_a_break_the_many_travel_together_again(slept: list[float]) -> None:
    service = Service(breaks=(3,))
    run(service, MANY)
    alone = [[one] for one in MANY[3 : 3 + TOGETHER]]
    assert service.asked == [MANY, *alone, MANY[3 + TOGETHER :]]


def test_images_in_memory_have_their_place_in_the_whole_list(slept: list[float]) -> None:
    images = [b"x"] * 20
    service = Service(breaks=(5,))
    client: Client = service  # type: ignore[assignment]
    results = recognize_all(client, images, tell=lambda _: None, top_k=1)
    assert [one.image_id for one in results] == [str(place) for place in range(20)]


@pytest.mark.parametrize(("wish", "pause"), [(0.0, 0.5), (20.0, 20.0), (1e6, LONGEST_WISH)])
def test_a_pause_is_bounded_and_no_two_are_the_same(
    slept: list[float], monkeypatch: pytest.MonkeyPatch, wish: float, pause: float
) -> None:
    monkeypatch.setattr(random, "uniform", lambda least, most: (least + most) / 2)
    service = Service(breaks=(3,))
    service.wish = wish
    run(service)
    assert slept == [1.125 * pause]


def test_a_service_that_stays_away_is_given_up(slept: list[float]) -> None:
    for service in (Service(breaks=(2, *[0] * 3 * TRIES)), Service(not_ready=10 * TRIES)):
        client: Client = service  # type: ignore[assignment]
        results: list[Recognition] = []
        with pytest.raises(UnavailableError):
            results.extend(recognize_all(client, IMAGES, tell=lambda _: None, top_k=1))
        assert not any(one.error for one in results)  # no image is blamed for it
        assert len(service.asked) <= 2 * TRIES


@pytest.mark.parametrize("images", ["cell.png", b"bytes", iter(IMAGES)])
def test_what_is_no_list_fails_at_the_call(images: object) -> None:
    with pytest.raises(InvalidInputError, match="give a list of encoded bytes or paths"):
        recognize_all(Service(), images, top_k=1)  # type: ignore[arg-type]
