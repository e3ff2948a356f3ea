"""Prefect's flow runs: read many at once, changed over the state that was read.

Prefect has no "change it if it is still so". A state that is not forced is refused over
`CANCELLING`, and a crash also over an end; anything else goes over anything. So `change` writes
first and reads in the history afterwards what it wrote over: who calls it decides what to do about
a state that was not the one read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

PAGE = 200
"""Prefect's own default for the most that one answer holds."""
ENDED = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)
AT_WORK = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)


async def read(
    client: PrefectClient, flow_run_ids: Iterable[str | None], states: Collection[StateType] = ()
) -> dict[str, FlowRun]:
    """Those of these flow runs that exist, by id; only those in ``states`` where some are given."""
    wanted = list(dict.fromkeys(each for each in flow_run_ids if each))
    found: dict[str, FlowRun] = {}
    for start in range(0, len(wanted), PAGE):
        some: dict[str, Any] = {"id": {"any_": wanted[start : start + PAGE]}}
        if states:
            some["state"] = {"type": {"any_": list(states)}}
        those = FlowRunFilter.model_validate(some)
        for run in await client.read_flow_runs(flow_run_filter=those, limit=PAGE):
            found[str(run.id)] = run
    return found


async def ended(client: PrefectClient, tag: str, since: datetime) -> AsyncIterator[list[FlowRun]]:
    """Pages of the flow runs with this tag that ended at ``since`` or later, the last ones first.

    What ends meanwhile moves the others back: one may come twice, none is left out.
    """
    those = FlowRunFilter.model_validate(
        {
            "tags": {"all_": [tag]},
            "state": {"type": {"any_": list(ENDED)}},
            "end_time": {"after_": since},
        }
    )
    offset, page = 0, list[FlowRun]()
    while not offset or len(page) == PAGE:
        page = await client.read_flow_runs(
            flow_run_filter=those, sort=FlowRunSort.END_TIME_DESC, limit=PAGE, offset=offset
        )
        offset += PAGE
        yield page


async def at_work(client: PrefectClient, pool: str) -> list[FlowRun]:
    """The flow runs of a work pool that Prefect holds for started and not ended."""
    those = FlowRunFilter.model_validate({"state": {"type": {"any_": list(AT_WORK)}}})
    found: dict[UUID, FlowRun] = {}
    offset, page = 0, list[FlowRun]()
    while not offset or len(page) == PAGE:
        page = await client.read_flow_runs(
            flow_run_filter=those,
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
            sort=FlowRunSort.ID_DESC,
            limit=PAGE,
            offset=offset,
        )
        offset += PAGE
        found |= {run.id: run for run in page}
    return list(found.values())


async def queued(client: PrefectClient, deployment_id: str, after: datetime) -> list[FlowRun]:
    """The scheduled flow runs of a deployment that are expected to start later than ``after``."""
    those = FlowRunFilter.model_validate(
        {
            "deployment_id": {"any_": [deployment_id]},
            "state": {"type": {"any_": [StateType.SCHEDULED]}},
            "expected_start_time": {"after_": after},
        }
    )
    found: dict[UUID, FlowRun] = {}
    offset, page = 0, list[FlowRun]()
    while not offset or len(page) == PAGE:
        page = await client.read_flow_runs(
            flow_run_filter=those,
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=PAGE,
            offset=offset,
        )
        offset += PAGE
        found |= {run.id: run for run in page}
    return list(found.values())


async def history(client: PrefectClient, flow_run_id: UUID) -> list[State[Any]]:
    """All states that the flow run has had, oldest first."""
    states = await client.read_flow_run_states(flow_run_id)
    return sorted(states, key=lambda each: each.timestamp)


@dataclass(frozen=True)
class Change:
    """What became of a state that was written.

    ``over`` is the state that it replaced, or that stood in its way; None when the run is gone.
    ``surprise`` says that this was not the state that the caller had read.
    """

    accepted: bool
    over: State[Any] | None
    surprise: bool


async def change(client: PrefectClient, run: FlowRun, state: State[Any]) -> Change:
    """Set ``state`` on ``run``, and tell whether it had still the state that was read with it."""
    try:
        answer = await client.set_flow_run_state(run.id, state)
        if answer.status is not SetStateStatus.ACCEPT or answer.state is None:
            return Change(False, answer.state, True)
        states = await history(client, run.id)
    except ObjectNotFound:
        return Change(False, None, True)
    written = [each.id for each in states].index(answer.state.id)
    over = states[written - 1] if written else None
    known = None if run.state is None else run.state.id
    return Change(True, over, over is not None and over.id != known)


async def forget_process(client: PrefectClient, run: FlowRun) -> None:
    """Take the process's id from the run: one that waits with it cannot be cancelled at once."""
    if run.infrastructure_pid:
        # The client's own method leaves an empty one out.
        path = {"id": str(run.id)}
        body = {"infrastructure_pid": None}
        await client.request("PATCH", "/flow_runs/{id}", path_params=path, json=body)
