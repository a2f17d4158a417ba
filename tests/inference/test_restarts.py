"""Pauses before a dead process is started again."""

from visionloop_inference.restarts import FIRST_PAUSE, STEADY_SECONDS, next_pause


def test_who_dies_again_and_again_waits_longer_and_who_lived_is_back_at_once() -> None:
    pause, seen = 0.0, []
    for _ in range(12):
        pause = next_pause(pause, lived=0.5, longest=30.0)
        seen.append(pause)
    assert seen[:3] == [0.1, 0.2, 0.4]
    assert seen == sorted(seen)
    assert seen[-1] == 30.0
    assert next_pause(30.0, lived=STEADY_SECONDS + 1, longest=30.0) == FIRST_PAUSE


def test_no_pause_is_longer_than_asked_for() -> None:
    assert next_pause(0.0, lived=0.0, longest=0.05) == 0.05
