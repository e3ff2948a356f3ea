"""Prefect's flow runs: read many at once, changed over the state that was read.

Prefect has no "change it if it is still so". A state that is not forced is refused over
`CANCELLING`, and a crash also over an end; anything else goes over anything. So `change` writes
first and reads in the history afterwards what it wrote over: who calls it decides what to do about
a state that was not the one read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from daybook.prefect import state_history

PAGE = 200
"""Prefect's own default for the most that one answer holds."""
ENDED = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)
FIRST_STRETCH = timedelta(minutes=5)
"""How long a time of ends is asked for first."""
SHORTEST = timedelta(seconds=1)
"""One as short as this is read whole, in however many pages."""
NOT_OF_ONE = {401, 403, 407, 408, 425, 429}
"""Refusals that any other run would get as well."""
AT_WORK = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)


def is_of_one(error: PrefectHTTPStatusError) -> bool:
    """Return whether Prefect refused what it was asked for one run, and may accept it of others."""
    code = error.response.status_code
    return code < HTTPStatus.INTERNAL_SERVER_ERROR and code not in NOT_OF_ONE


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


async def ended(
    client: PrefectClient, tag: str, since: datetime, until: datetime
) -> AsyncIterator[tuple[datetime, list[FlowRun]]]:
    """The flow runs with this tag that ended at ``since`` or later, the first ones first.

    In parts, each with the instant up to which all have come by then; the last one's is ``until``,
    and has those that ended after it, too. One may come twice. Prefect sorts by the end downwards
    only, so a part is a stretch of time that holds less than a page, or is as short as `SHORTEST`.
    """
    length = FIRST_STRETCH
    while True:
        to = min(since + length, until)
        those = _Ended(tag, since, None if to >= until else to)
        page = await those.read(client)
        if len(page) == PAGE and to - since > SHORTEST:
            length = max((to - since) / 4, SHORTEST)
            continue
        found = {run.id: run for run in page}
        while len(page) == PAGE:
            those = those.below(page)
            page = await those.read(client)
            found |= {run.id: run for run in page}
        yield to, list(found.values())
        if to >= until:
            return
        since, length = to, length * 2 if len(found) < PAGE // 2 else length


@dataclass(frozen=True)
class _Ended:
    """One page of the runs that ended from ``since`` to ``to``, the last ones first.

    ``offset`` counts within those that ended at ``to`` exactly: there are no more than a page at
    one instant but after a change of many at once.
    """

    tag: str
    since: datetime
    to: datetime | None
    offset: int = 0

    async def read(self, client: PrefectClient) -> list[FlowRun]:
        those = FlowRunFilter.model_validate(
            {
                "tags": {"all_": [self.tag]},
                "state": {"type": {"any_": list(ENDED)}},
                "end_time": {"after_": self.since, "before_": self.to},
            }
        )
        return await client.read_flow_runs(
            flow_run_filter=those,
            sort=FlowRunSort.END_TIME_DESC,
            limit=PAGE,
            offset=self.offset,
        )

    def below(self, page: list[FlowRun]) -> _Ended:
        """What comes after this full page, and its last instant again."""
        last = page[-1].end_time
        return replace(self, to=last, offset=self.offset + PAGE if last == self.to else 0)


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
    except ObjectNotFound:
        return Change(False, None, True)
    states = state_history.in_order(await client.read_flow_run_states(run.id), None)
    if states and states[-1].id != answer.state.id:
        # Something else was written at about the same time: before this state or after it?
        states = await state_history.read(client, run.id)
    if not states:
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
