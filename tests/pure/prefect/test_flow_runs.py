"""State changes in Prefect: the state that was overwritten, even by concurrent writers; Retries."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import (
    OrchestrationResult,
    SetStateStatus,
    StateAcceptDetails,
)
from prefect.states import Cancelled, Completed, Pending, Running, Scheduled

from daybook.ledger.states import Status
from daybook.prefect import flow_runs
from daybook.prefect.deployments import PAGE_SIZE
from daybook.prefect.states import terminal_state, waiting_state
from tests.rows import each

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def at(seconds: float, state: State[Any]) -> State[Any]:
    return state.model_copy(update={"timestamp": cast(Any, NOW + timedelta(seconds=seconds))})


class FixedStates:
    """Prefect client that accepts a state and then returns ``states``; the last is current."""

    def __init__(self, run: FlowRun, states: Sequence[State[Any]]) -> None:
        self._run, self._states = run, states

    async def set_flow_run_state(self, flow_run_id: UUID, state: State[Any]) -> Any:
        return OrchestrationResult[Any](
            state=state, status=SetStateStatus.ACCEPT, details=StateAcceptDetails()
        )

    async def read_flow_run_states(self, flow_run_id: UUID) -> list[State[Any]]:
        return sorted(self._states, key=lambda each: each.timestamp)

    async def read_flow_run(self, flow_run_id: UUID) -> FlowRun:
        return self._run.model_copy(update={"state": self._states[-1]})


async def changed(states: Sequence[State[Any]], written: State[Any]) -> flow_runs.StateChange:
    run = FlowRun(id=uuid4(), flow_id=uuid4(), state=states[0])
    client = cast(PrefectClient, FixedStates(run, states))
    return await flow_runs.change_state(client, run, written)


async def test_a_state_change_without_another_writer_replaces_the_read_state() -> None:
    read, own = at(0, Scheduled()), at(1, waiting_state(NOW, "a slot"))

    change = await changed([read, own], own)

    assert (change.accepted, change.over, change.surprise) == (True, read, False)


@pytest.mark.parametrize("cancelled_at", [1, 3])
async def test_a_cancellation_stored_before_the_new_state_is_a_surprise(
    cancelled_at: float,
) -> None:
    # Also if its timestamp is later than ours: both requests waited for Prefect's database.
    cancelled, own = at(cancelled_at, Cancelled()), at(2, waiting_state(NOW, "a slot"))

    change = await changed([at(0, Scheduled()), cancelled, own], own)

    assert (change.accepted, change.over, change.surprise) == (True, cancelled, True)


@pytest.mark.parametrize("cancelled_at", [3, 4])
async def test_a_cancellation_stored_after_the_new_state_is_no_surprise(
    cancelled_at: float,
) -> None:
    read, own = at(0, Scheduled()), at(2, waiting_state(NOW, "a slot"))

    change = await changed([read, own, at(cancelled_at, Cancelled())], own)

    assert (change.accepted, change.over, change.surprise) == (True, read, False)


async def test_all_of_many_runs_are_read_in_pages() -> None:
    class Paged:
        """Prefect client that returns the requested runs, but at most a page of them."""

        async def read_flow_runs(self, flow_run_filter: FlowRunFilter, limit: int) -> list[FlowRun]:
            assert flow_run_filter.id is not None
            requested = flow_run_filter.id.any_ or []
            return [FlowRun(id=each, flow_id=each) for each in requested[:limit]]

    ids = [str(uuid4()) for _ in range(2 * PAGE_SIZE + 1)]
    found = await flow_runs.read(cast(PrefectClient, Paged()), [None, *ids, ids[0]])
    assert list(found) == ids


# --- Retry

RETRY: State[Any] = Scheduled(name="AwaitingRetry")
SKIPPED: State[Any] = terminal_state(Status.SKIPPED, "")
CANCELLED: State[Any] = Cancelled()
LATE: State[Any] = Scheduled(name="Late")
SET_BACK = waiting_state(NOW, "its turn comes later")


def test_a_retry_is_a_start_that_follows_an_end_on_a_persons_word() -> None:
    rows: list[tuple[list[State[Any]], tuple[int, ...]]] = [
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
        # A worker that lost its claim starts the run after another worker has ended it.
        ([Pending(), Running(), Completed(), Pending(), Running()], ()),
        ([Pending(), Running(), Completed(), Running()], ()),
        ([Pending(), Running(), Completed(), RETRY, Running(), Completed(), RETRY], (1, 2)),
    ]
    for (history, expected), trying in each(rows):
        with trying:
            assert flow_runs.retry_starts(history) == expected
    without: list[State[Any]] = [Pending(), Running(), Completed(), Running()]
    assert flow_runs.retry_starts(without, deployed=False) == (1,)
