"""Which end of a Prefect run makes its next start a Retry: one that somebody led on from."""

from __future__ import annotations

from typing import Any

import pytest
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Pending, Running, Scheduled

from daybook.clock import SYSTEM
from daybook.runs.occurrence import starts_when_ended
from daybook.runs.prefect_states import waiting
from tests.floor import PREFECT_LEAVES_A_SOCKET, Floor

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, *PREFECT_LEAVES_A_SOCKET]

RETRY: State[Any] = Scheduled(name="AwaitingRetry")
SKIPPED: State[Any] = Completed(name="Skipped")
SET_BACK = waiting(SYSTEM.now(), "its turn comes later")


@flow
def nothing() -> None: ...


@pytest.mark.parametrize(
    ("states", "starts"),
    [
        ([], None),
        ([Pending(), Running()], None),
        ([SKIPPED], None),
        ([SKIPPED, SKIPPED], None),
        ([SKIPPED, SET_BACK], None),
        ([SKIPPED, SET_BACK, SKIPPED, SET_BACK], None),
        ([SKIPPED, RETRY], 0),
        ([SKIPPED, RETRY, SET_BACK], 0),
        ([SKIPPED, SET_BACK, SKIPPED, RETRY, Pending()], 0),
        ([Pending(), Running(), Completed(), RETRY], 1),
        ([Pending(), Running(), Completed(), SKIPPED, RETRY, Pending(), Running()], 1),
        ([Pending(), Running(), Completed(), RETRY, Running(), Completed(), SET_BACK], 1),
    ],
    ids=lambda each: "-".join(state.name for state in each) if isinstance(each, list) else None,
)
async def test_it_is_a_retry(floor: Floor, states: list[State[Any]], starts: int | None) -> None:
    run = await floor.client.create_flow_run(nothing)
    for state in states:
        await floor.client.set_flow_run_state(run.id, state.fresh_copy(), force=True)
    assert await starts_when_ended(run) == starts
