"""The states of a model version."""

import asyncio

import pytest

from visionloop_inference.lifecycle import LEGAL, ModelVersion, State

HAPPY = [
    State.LOADING, State.TESTING, State.PROBATION, State.PROVEN, State.STANDBY, State.RETIRING,
    State.RELEASED,
]  # fmt: skip


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


def test_a_version_is_released_after_its_last_user() -> None:
    class Closing:
        closed = False

        async def close(self) -> None:
            self.closed = True

    async def scenario() -> None:
        made = ModelVersion("cells", 3)
        runner = Closing()
        made.equip(None, runner)  # type: ignore[arg-type]
        for state in HAPPY[:-1]:
            made.move(state)
        with made.use():
            release = asyncio.create_task(made.release())
            with made.use():
                pass
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not runner.closed  # the outer user is still there
        await release
        assert runner.closed
        assert made.state is State.RELEASED
        with pytest.raises(RuntimeError, match="not loaded"):
            _ = made.bundle

    asyncio.run(scenario())
