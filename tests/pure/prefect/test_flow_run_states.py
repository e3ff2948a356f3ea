"""The order in which Prefect stored the states of a run, and which of them start a Retry."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Running, Scheduled

from daybook.prefect import flow_runs
from daybook.prefect.states import waiting_state

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def at(seconds: float, state: State[Any]) -> State[Any]:
    return state.model_copy(update={"timestamp": cast(Any, NOW + timedelta(seconds=seconds))})


def test_states_are_ordered_by_their_timestamps() -> None:
    states = [at(2, Completed()), at(0, Scheduled()), at(1, Running())]

    ordered = flow_runs.order_states(states, None)

    assert [each.name for each in ordered] == ["Scheduled", "Running", "Completed"]


@pytest.mark.parametrize("late", [2, 3])
@pytest.mark.parametrize("end", [Completed(name="Skipped"), Cancelled()], ids=lambda s: s.name)
def test_the_current_state_is_the_last_one_whatever_its_timestamp(
    end: State[Any], late: float
) -> None:
    # Prefect dates the end when the request arrives; the late-run service stores its state first.
    ended = at(2, end)
    states = [at(0, Scheduled()), ended, at(late, Scheduled(name="Late"))]

    ordered = flow_runs.order_states(states, ended)

    assert [each.name for each in ordered] == ["Scheduled", "Late", end.name]
    assert flow_runs.retry_starts(ordered) == ()


def test_a_current_state_missing_in_the_history_is_added_as_the_last_one() -> None:
    states = [at(0, Scheduled()), at(1, Completed())]

    ordered = flow_runs.order_states(states, at(0.5, Scheduled(name="AwaitingRetry")))

    assert [each.name for each in ordered] == ["Scheduled", "Completed", "AwaitingRetry"]
    assert flow_runs.retry_starts(ordered) == (0,)


@pytest.mark.parametrize("end", [Completed(name="Skipped"), Cancelled()], ids=lambda s: s.name)
@pytest.mark.parametrize(
    "after",
    [Scheduled(name="Late"), waiting_state(NOW, "its turn comes later")],
    ids=lambda s: s.name,
)
def test_an_end_that_a_machine_overwrote_is_no_retry(end: State[Any], after: State[Any]) -> None:
    assert flow_runs.retry_starts([Scheduled(), end, after]) == ()
    assert flow_runs.retry_starts([Scheduled(), end, after, end]) == ()


def test_a_retry_that_was_marked_late_is_a_retry() -> None:
    asked: list[State[Any]] = [
        Scheduled(),
        Running(),
        Completed(),
        Scheduled(),
        Scheduled(name="Late"),
    ]

    assert flow_runs.retry_starts(asked) == (1,)
