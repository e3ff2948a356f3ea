"""Prefect's flow runs: bulk reads, states in order, and state changes.

Prefect has no compare-and-set. Unless a change is forced, only `Cancelled` replaces `CANCELLING`,
and a crash replaces no end. Apart from that, any state that Daybook sets replaces any other state.
So `change_state` writes first, and then reads the replaced state in the history. If that is not the
state that the caller had read, the caller decides what to do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from http import HTTPStatus
from itertools import pairwise
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from daybook.prefect.deployments import PAGE_SIZE
from daybook.prefect.states import LATE_NAME, WAITING_NAME

ENDED_TYPES = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)
INITIAL_WINDOW = timedelta(minutes=5)
"""Length of the first time window in which ends are requested."""
MIN_WINDOW = timedelta(seconds=1)
"""Minimum length of a time window; such a window is read completely, in any number of pages."""
GENERAL_REFUSAL_CODES = {401, 403, 407, 408, 425, 429}
"""Status codes of refusals that apply to every run."""
STARTED_TYPES = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)


def is_run_error(error: PrefectHTTPStatusError) -> bool:
    """Return whether Prefect refused a request for one run, and may accept it for others."""
    code = error.response.status_code
    return code < HTTPStatus.INTERNAL_SERVER_ERROR and code not in GENERAL_REFUSAL_CODES


async def read(
    client: PrefectClient, flow_run_ids: Iterable[str | None], states: Collection[StateType] = ()
) -> dict[str, FlowRun]:
    """Return the existing flow runs with these ids, by id; ``states`` limits their state types."""
    ids = list(dict.fromkeys(each for each in flow_run_ids if each))
    runs: dict[str, FlowRun] = {}
    for start in range(0, len(ids), PAGE_SIZE):
        conditions: dict[str, Any] = {"id": {"any_": ids[start : start + PAGE_SIZE]}}
        if states:
            conditions["state"] = {"type": {"any_": list(states)}}
        query = FlowRunFilter.model_validate(conditions)
        for run in await client.read_flow_runs(flow_run_filter=query, limit=PAGE_SIZE):
            runs[str(run.id)] = run
    return runs


async def read_ended(
    client: PrefectClient, tag: str, since: datetime, until: datetime
) -> AsyncIterator[tuple[datetime, list[FlowRun]]]:
    """Yield the flow runs with this tag that ended at ``since`` or later.

    Yield the runs in parts, the part with the earliest ends first, each part with the instant up to
    which all runs have been yielded. The last instant is ``until``; its part includes the runs that
    ended later. A run may be yielded twice. Prefect sorts by end time only in descending order. So
    a part is a window of time that has less than a page of runs, or is as short as `MIN_WINDOW`.
    """
    length = INITIAL_WINDOW
    while True:
        window_end = min(since + length, until)
        request = _EndedPage(tag, since, None if window_end >= until else window_end)
        page = await request.read(client)
        if len(page) == PAGE_SIZE and window_end - since > MIN_WINDOW:
            length = max((window_end - since) / 4, MIN_WINDOW)
            continue
        runs = {run.id: run for run in page}
        while len(page) == PAGE_SIZE:
            request = request.below(page)
            page = await request.read(client)
            runs |= {run.id: run for run in page}
        yield window_end, list(runs.values())
        if window_end >= until:
            return
        since, length = window_end, length * 2 if len(runs) < PAGE_SIZE // 2 else length


@dataclass(frozen=True)
class _EndedPage:
    """One page of the runs that ended from ``since`` to ``to``, latest first.

    Without ``to``, there is no upper limit. ``offset`` skips runs that ended exactly at ``to``,
    because after a bulk change, more than a page of runs may have ended at one instant.
    """

    tag: str
    since: datetime
    to: datetime | None
    offset: int = 0

    async def read(self, client: PrefectClient) -> list[FlowRun]:
        query = FlowRunFilter.model_validate(
            {
                "tags": {"all_": [self.tag]},
                "state": {"type": {"any_": list(ENDED_TYPES)}},
                "end_time": {"after_": self.since, "before_": self.to},
            }
        )
        return await client.read_flow_runs(
            flow_run_filter=query,
            sort=FlowRunSort.END_TIME_DESC,
            limit=PAGE_SIZE,
            offset=self.offset,
        )

    def below(self, page: list[FlowRun]) -> _EndedPage:
        """Return the page after a full ``page``; it includes the last instant of ``page`` again."""
        last = page[-1].end_time
        return replace(self, to=last, offset=self.offset + PAGE_SIZE if last == self.to else 0)


async def read_started(client: PrefectClient, pool: str) -> list[FlowRun]:
    """Return the pending, running and cancelling flow runs of a work pool."""
    return await _read_all(
        client,
        flow_run_filter=FlowRunFilter.model_validate(
            {"state": {"type": {"any_": list(STARTED_TYPES)}}}
        ),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
        sort=FlowRunSort.ID_DESC,
    )


async def read_queued(client: PrefectClient, deployment_id: str, after: datetime) -> list[FlowRun]:
    """Return a deployment's scheduled flow runs whose expected start is ``after`` or later."""
    query = FlowRunFilter.model_validate(
        {
            "deployment_id": {"any_": [deployment_id]},
            "state": {"type": {"any_": [StateType.SCHEDULED]}},
            "expected_start_time": {"after_": after},
        }
    )
    return await _read_all(client, flow_run_filter=query, sort=FlowRunSort.EXPECTED_START_TIME_ASC)


async def _read_all(client: PrefectClient, **query: Any) -> list[FlowRun]:
    """Return the flow runs of all pages, each once."""
    runs: dict[UUID, FlowRun] = {}
    offset, page = 0, list[FlowRun]()
    while not offset or len(page) == PAGE_SIZE:
        page = await client.read_flow_runs(**query, limit=PAGE_SIZE, offset=offset)
        offset += PAGE_SIZE
        runs |= {run.id: run for run in page}
    return list(runs.values())


@dataclass(frozen=True)
class StateChange:
    """Result of a state change.

    ``over`` is the replaced state, or the state with which Prefect refused the change. It is None
    if there is no such state, as for a deleted run. ``surprise`` is true if the change was refused,
    or if it replaced a state that the caller had not read.
    """

    accepted: bool
    over: State[Any] | None
    surprise: bool


async def change_state(client: PrefectClient, run: FlowRun, state: State[Any]) -> StateChange:
    """Set ``state`` on ``run``; return whether Prefect accepted it, and which state it replaced."""
    try:
        response = await client.set_flow_run_state(run.id, state)
        if response.status is not SetStateStatus.ACCEPT or response.state is None:
            return StateChange(False, response.state, True)
    except ObjectNotFound:
        return StateChange(False, None, True)
    states = order_states(await client.read_flow_run_states(run.id), None)
    if states and states[-1].id != response.state.id:
        # Another state was written at about the same time: read the reliable order.
        states = await read_states(client, run.id)
    if not states:
        return StateChange(False, None, True)
    index = [each.id for each in states].index(response.state.id)
    previous = states[index - 1] if index else None
    read_id = None if run.state is None else run.state.id
    return StateChange(True, previous, previous is not None and previous.id != read_id)


async def clear_process_id(client: PrefectClient, run: FlowRun) -> None:
    """Remove the process id from a waiting run, which otherwise could not be cancelled at once."""
    if run.infrastructure_pid:
        # The client's own method omits an empty value.
        path = {"id": str(run.id)}
        body = {"infrastructure_pid": None}
        await client.request("PATCH", "/flow_runs/{id}", path_params=path, json=body)


async def read_states(client: PrefectClient, flow_run_id: UUID) -> list[State[Any]]:
    """Return all states of a flow run, oldest first; empty if Prefect does not have the run.

    Prefect timestamps a state when the request arrives, and stores it once it acquires the database
    lock, so the last of two states written at the same time can have the earlier timestamp. Only
    the flow run itself reliably names its last state.
    """
    states = await client.read_flow_run_states(flow_run_id)
    try:
        # Read after the states: if the current state is among them, it is the last one.
        current = (await client.read_flow_run(flow_run_id)).state
    except ObjectNotFound:
        return []
    return order_states(states, current)


def order_states(states: Sequence[State[Any]], current: State[Any] | None) -> list[State[Any]]:
    """Sort ``states`` by their timestamps, with the flow run's ``current`` state last."""
    ordered = sorted(states, key=lambda each: each.timestamp)
    if current is None:
        return ordered
    return [*(each for each in ordered if each.id != current.id), current]


def retry_starts(states: Sequence[State[Any]], *, deployed: bool = True) -> tuple[int, ...]:
    """Return one number for each Retry in ``states``: the number of the run's starts before it.

    A start is a state RUNNING. A Retry of a ``deployed`` run is SCHEDULED right after an end,
    unless Daybook rescheduled the run (`WAITING_NAME`) or Prefect's late-run service marked it late
    (`LATE_NAME`). A worker that lost its claim may still set PENDING or RUNNING there, which is no
    Retry. A run without a deployment goes from its end to RUNNING directly.
    """
    starts, starts_before = 0, list[int]()
    for state, following in pairwise(states):
        starts += state.is_running()
        by_a_user = following.is_scheduled() and following.name not in {WAITING_NAME, LATE_NAME}
        by_a_user = by_a_user or (not deployed and following.is_running())
        if state.is_final() and by_a_user:
            starts_before.append(starts)
    return tuple(starts_before)
