"""The states of a model version."""

import asyncio

import pytest

from visionloop_inference.lifecycle import LEGAL, ModelVersion, State

HAPPY = [State.LOADING, State.PROBATION, State.PROVEN, State.RETIRING, State.RELEASED]


async def version() -> ModelVersion:
    return ModelVersion("cells", 3)


def test_the_whole_way() -> None:
    made = asyncio.run(version())
    for state in HAPPY:
        made.move(state)
    assert made.state is State.RELEASED


@pytest.mark.parametrize("state", [s for s in State if s not in LEGAL[State.FETCHING]])
def test_no_short_cuts(state: State) -> None:
    made = asyncio.run(version())
    with pytest.raises(RuntimeError, match=f"cells version 3 cannot go from fetching to {state}"):
        made.move(state)


def test_every_state_has_its_moves_and_every_state_but_the_first_is_reached() -> None:
    assert set(LEGAL) == set(State)
    assert set().union(*LEGAL.values()) == set(State) - {State.FETCHING}


def test_only_what_passed_its_first_tests_serves() -> None:
    made = asyncio.run(version())
    serving = [made.serving]
    for state in HAPPY:
        made.move(state)
        serving.append(made.serving)
    assert serving == [False, False, True, True, False, False]
