"""Many images over a service that comes and goes."""

import time
from collections.abc import Iterator, Sequence

import pytest

from visionloop.bulk import TRIES, recognize_all
from visionloop.client import Client, Recognition, ScoredLabel
from visionloop.errors import ImageError, UnavailableError

IMAGES = list("abcdefgh")


def away() -> UnavailableError:
    return UnavailableError("the service went away", retry_after_seconds=20.0)


class Service:
    """Answers streams. `breaks`: after how many results each breaks off. `not_ready`: how many
    streams find that the model is being fetched. `deadly`: images that end the process always."""

    def __init__(
        self, breaks: Sequence[int] = (), not_ready: int = 0, deadly: Sequence[str] = ()
    ) -> None:
        self.breaks = list(breaks)
        self.not_ready = not_ready
        self.deadly = deadly
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
                    raise away()
                error = None if ready and image not in self.deadly else away()
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
    return pauses


def run(service: Service, images: Sequence[str] = IMAGES) -> tuple[list[Recognition], list[str]]:
    client: Client = service  # type: ignore[assignment]
    told: list[str] = []
    return list(recognize_all(client, images, tell=told.append, top_k=1)), told


def test_it_goes_on_where_the_stream_broke(slept: list[float]) -> None:
    service = Service(breaks=(3, 0, 2))
    results, told = run(service)
    assert [one.image_id for one in results] == IMAGES
    assert not any(one.error for one in results)
    assert service.asked == [IMAGES, IMAGES[3:], IMAGES[3:], IMAGES[5:]]
    assert slept == [20.0] * 3
    assert told[0] == "the service went away; 3 of 8 are answered, the others are sent again"


def test_a_service_that_is_not_ready_yet_costs_a_pause_and_no_image(slept: list[float]) -> None:
    """Else a server that is being started would refuse a whole list within a second."""
    service = Service(not_ready=3)
    results, told = run(service)
    assert [one.error for one in results] == [None] * len(IMAGES)
    assert len(told) == len(slept) == 3
    assert service.closed == 4  # each stream was ended, not left to the server


def test_what_is_wrong_with_an_image_is_its_own(slept: list[float]) -> None:
    results, told = run(Service(), ["a", "!", "b"])
    assert [bool(one.error) for one in results] == [False, True, False]
    assert slept == told == []


def test_a_service_that_never_answered_is_told_at_once(slept: list[float]) -> None:
    with pytest.raises(UnavailableError):
        run(Service(breaks=(0,)))
    assert slept == []


def test_an_image_that_ends_a_process_each_time_gets_its_error(slept: list[float]) -> None:
    service = Service(deadly=("c", "f"))
    results, _ = run(service)
    assert [one.image_id for one in results if one.error] == ["c", "f"]
    assert len(slept) == 2 * (TRIES - 1)


def test_a_service_that_stays_away_is_given_up(slept: list[float]) -> None:
    for service in (Service(breaks=(2, *[0] * TRIES)), Service(not_ready=10 * TRIES)):
        with pytest.raises(UnavailableError):
            run(service)
        assert len(service.asked) <= 2 * TRIES
