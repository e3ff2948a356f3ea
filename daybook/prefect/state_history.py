"""The states that a Prefect flow run has had, in the order in which Prefect wrote them.

Prefect dates a state when the request arrives, and stores it when it gets the database's lock. If
two processes write at the same time, the state that was stored last can have the earlier timestamp.
Only the flow run itself says reliably which state is its last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound

from daybook.prefect.states import LATE_NAME, WAITING_NAME


async def read(client: PrefectClient, flow_run_id: UUID) -> list[State[Any]]:
    """Return all states of a flow run, oldest first; empty if Prefect does not have the run."""
    states = await client.read_flow_run_states(flow_run_id)
    try:
        # Read after the states: if the current state is among them, it is the last one.
        current = (await client.read_flow_run(flow_run_id)).state
    except ObjectNotFound:
        return []
    return in_order(states, current)


def in_order(states: Sequence[State[Any]], current: State[Any] | None) -> list[State[Any]]:
    """Sort ``states`` by their timestamps, with the flow run's ``current`` state last."""
    ordered = sorted(states, key=lambda each: each.timestamp)
    if current is None:
        return ordered
    return [*(each for each in ordered if each.id != current.id), current]


def retry_starts(states: Sequence[State[Any]]) -> tuple[int, ...]:
    """Return one number for each Retry in ``states``: the run's starts before that Retry.

    Prefect counts a start when a run becomes RUNNING. A Retry is an end from which somebody
    continued the run. If the run is set back over its end (`WAITING_NAME`), or Prefect's late-run
    service marked it just before that end (`LATE_NAME`), nobody asked for the run again.
    """
    starts, starts_before = 0, list[int]()
    for state, following in pairwise(states):
        starts += state.is_running()
        nobody_asked = following.is_final() or following.name in {WAITING_NAME, LATE_NAME}
        if state.is_final() and not nobody_asked:
            starts_before.append(starts)
    return tuple(starts_before)
