"""Retry detection: which ends of a Prefect run make its next start a Retry."""

from __future__ import annotations

from typing import Any

import pytest
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Pending, Running, Scheduled

from daybook.clock import SYSTEM_CLOCK
from daybook.ledger.states import Status
from daybook.prefect.occurrence import read_retry_starts
from daybook.prefect.states import terminal_state, waiting_state
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, *PREFECT_LEAVES_A_SOCKET]

RETRY: State[Any] = Scheduled(name="AwaitingRetry")
SKIPPED: State[Any] = terminal_state(Status.SKIPPED, "")
CANCELLED: State[Any] = Cancelled()
LATE: State[Any] = Scheduled(name="Late")
SET_BACK = waiting_state(SYSTEM_CLOCK.now(), "its turn comes later")


@flow
def nothing() -> None: ...


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], ()),
        ([Pending(), Running()], ()),
        ([SKIPPED], ()),
        ([SKIPPED, SKIPPED], ()),
        ([SKIPPED, SET_BACK], ()),
        ([SKIPPED, SET_BACK, SKIPPED, SET_BACK], ()),
        # Prefect's late-run service marks a run at the moment at which a worker skips it.
        ([SKIPPED, LATE], ()),
        ([CANCELLED, LATE], ()),
        ([SKIPPED, LATE, SKIPPED, LATE, Pending()], ()),
        ([SKIPPED, RETRY], (0,)),
        ([SKIPPED, RETRY, SKIPPED, RETRY], (0, 0)),
        ([SKIPPED, Scheduled(), LATE], (0,)),
        ([SKIPPED, RETRY, SET_BACK], (0,)),
        ([SKIPPED, SET_BACK, SKIPPED, RETRY, Pending()], (0,)),
        ([Pending(), Running(), Completed(), RETRY], (1,)),
        ([Pending(), Running(), Completed(), SKIPPED, RETRY, Pending(), Running()], (1,)),
        ([Pending(), Running(), Completed(), RETRY, Running(), Completed(), SET_BACK], (1,)),
        ([Pending(), Running(), Completed(), RETRY, Running(), Completed(), RETRY], (1, 2)),
    ],
    ids=lambda each: "-".join(state.name for state in each) if isinstance(each, list) else None,
)
@pytest.mark.slow
async def test_retry_starts_are_read_from_the_state_history(
    world: PrefectWorld, states: list[State[Any]], expected: tuple[int, ...]
) -> None:
    run = await world.client.create_flow_run(nothing)
    for state in states:
        await world.client.set_flow_run_state(run.id, state.fresh_copy(), force=True)
    assert await read_retry_starts(run) == expected
