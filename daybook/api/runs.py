"""What can be asked of runs: run now, history, logs, cancel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from daybook import owners
from daybook.api import authorization, views
from daybook.delivery import history as deliveries
from daybook.errors import InvalidInput
from daybook.jobs import store
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.states import LIVE, TERMINAL, Status
from daybook.ledger.tables import JobRow, RunRow, new_id
from daybook.owners import Actor
from daybook.runs import claims
from daybook.runs import history as past

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import State
    from sqlalchemy.ext.asyncio import AsyncSession

LOOK = 0.2
"""Seconds between two looks at the ledger while a run is waited for."""
LOOK_AT_PREFECT = 10
"""Every so many looks Prefect is asked whether the run ended there before it began here."""
TOLD_WITHIN = 5.0
"""Seconds that whoever waits for a run waits, after its end, for what is told of it."""


class WaitTalk(Protocol):
    """What whoever waits for a run is told meanwhile."""

    def asked(self) -> None:
        """The run has been asked for: it goes on without whoever waits."""
        ...

    def held_up(self, why: str) -> None:
        """It has not begun, and this is why; each reason comes once."""
        ...


async def run(
    ref: str,
    *,
    wait: bool = False,
    request_id: str | None = None,
    trigger: str | None = None,
    talk: WaitTalk | None = None,
) -> dict[str, Any]:
    """Run a job now, also a disabled one (requirement 24); returns the run.

    The same ``request_id`` again is the same run. With ``wait`` it is returned when it has ended,
    or when Prefect ended it before it began; else as it was asked for. What is told of it is given
    a moment to arrive, so that its `delivery` is not always `pending`. ``trigger`` is told by who
    asks, unless it is given.
    """
    from daybook.prefect import client as prefect

    async with open_ledger() as ledger:
        async with ledger.read() as session:
            stored = await authorization.job(session, ref)
        async with prefect.connected() as client:
            await prefect.answers(client)
            trigger = trigger or authorization.trigger()
            row = await claims.request(ledger, stored, request_id or new_id(), trigger)
            if row.state is Status.WAITING and row.flow_run_id is None:
                await _start(ledger, client, stored, row)
            if wait:
                if talk is not None:
                    talk.asked()
                await _ended(ledger, client, row.id, talk)
                await _tried(ledger, row.id)
        return await _view(ledger, row.id)


async def history(ref: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
    """Runs, newest first; of one job, also a removed one, or of all. Needs no Prefect.

    Each has, beside the fields of `views.run`, ``alert``: the delivery of its alert to the
    operator, or None.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        of_job = None if ref is None else await authorization.job(session, ref, archived=True)
        found = await authorization.recent(session, of_job.id if of_job else None, limit)
        alerts = await deliveries.alerts(session, [row.id for row, _ in found])
        return [views.run(row, job) | {"alert": alerts.get(row.id)} for row, job in found]


async def cancel(ref: str, within: float = 30.0) -> dict[str, Any]:
    """End a run, by id, unique id prefix, or the job whose live run it is; returns the run.

    One that waits is cancelled here and now. One at work is ended by its worker, with all that it
    began, which is waited for at most ``within`` seconds; the run that comes back may be live yet.
    Raises `NotFound`, `Ambiguous`, `InvalidInput` for one that has ended, `PrefectUnreachable`
    where a worker has to be told.
    """
    from prefect.states import Cancelling

    from daybook.prefect import client as prefect
    from daybook.prefect import state_mirror

    async with open_ledger() as ledger:
        async with ledger.read() as session:
            found, _ = await authorization.live_run(session, ref)
        if found.state in TERMINAL - {Status.CANCELLED}:
            raise InvalidInput(
                "run", f"{found.id[:8]} has ended: {found.status}", "nothing to cancel"
            )
        row = await claims.cancel(ledger, found.id)
        async with prefect.connected() as client:
            if row.state is Status.CANCELLED:
                await state_mirror.now(ledger, client, row.id)
            elif row.flow_run_id is not None:
                await client.set_flow_run_state(UUID(row.flow_run_id), Cancelling())
                with suppress(TimeoutError):
                    async with asyncio.timeout(within):
                        await _ended(ledger, client, row.id)
        return await _view(ledger, row.id)


async def show(ref: str) -> dict[str, Any]:
    """One run, by id or unique id prefix, with `deliveries`: what is told of it.

    Needs no Prefect.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        return await _whole(session, *await authorization.run(session, ref))


async def logged(ref: str) -> dict[str, Any]:
    """The run whose log `logs` gives. Needs no Prefect."""
    async with open_ledger() as ledger, ledger.read() as session:
        return views.run(*await authorization.logged_run(session, ref))


def logs(ref: str) -> AsyncIterator[dict[str, Any]]:
    """What a run logged in Prefect, oldest first: `{"at", "level", "message"}`.

    ``ref`` is a run, or a job, also a removed one, whose last run that Prefect knows is meant.
    """
    return _logs(ref, owners.current())  # of who asks, not of who reads


async def _logs(ref: str, actor: Actor) -> AsyncIterator[dict[str, Any]]:
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.client.schemas.sorting import LogSort

    from daybook.prefect import client as prefect

    async with open_ledger() as ledger, ledger.read() as session:
        with owners.acting_as(actor):
            row, _ = await authorization.logged_run(session, ref)
    only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(row.flow_run_id)]))
    page, offset = 200, 0
    async with prefect.connected() as client:
        while True:
            found = await client.read_logs(
                log_filter=only, limit=page, offset=offset, sort=LogSort.TIMESTAMP_ASC
            )
            for each in found:
                yield {
                    "at": views.utc(each.timestamp),
                    "level": each.level,
                    "message": each.message,
                }
            offset += len(found)
            if len(found) < page:
                return


async def _start(
    ledger: Ledger, client: PrefectClient, stored: store.StoredJob, row: RunRow
) -> None:
    from daybook.prefect import deployment, run_names
    from daybook.prefect.reconcile import Report, bring

    # The key makes a second try after a crash give the same Prefect run.
    key = f"{ledger.id}:{row.occurrence}:{row.prefect_runs + 1}"
    name = run_names.of_row(stored, row)
    known, flow_run_id = stored.row.deployment_id, None
    if known is not None and not stored.row.sync_pending:
        flow_run_id = await deployment.start_run(client, known, key, row.parameters, name)
    if flow_run_id is None:  # not in Prefect yet, or deleted there
        found = await deployment.read(client, known) if known else None
        await bring(ledger, client, stored, found, Report(), needed=True)
        async with ledger.read() as session:
            made = str((await store.find(session, stored.id)).row.deployment_id)
        flow_run_id = await deployment.start_run(client, made, key, row.parameters, name)
    if flow_run_id is not None:
        await claims.carried_by(ledger, row, flow_run_id)


async def _ended(
    ledger: Ledger, client: PrefectClient, run_id: str, talk: WaitTalk | None = None
) -> None:
    looks, before, told = 0, None, set[str]()
    while True:
        async with ledger.read() as session:
            row = await session.get(RunRow, run_id)
        assert row is not None
        if row.state not in LIVE:
            return
        looks += 1
        if looks % LOOK_AT_PREFECT == 0 and row.flow_run_id:
            state = (await client.read_flow_run(UUID(row.flow_run_id))).state
            if state is not None and state.is_final() and before is row.state:
                return  # its process is gone, before its claim or in the middle
            before = row.state
            if talk is not None and row.state is Status.WAITING:
                why = await _held_up(ledger, client, row, state)
                if why and why not in told:
                    told.add(why)
                    talk.held_up(why)
        await asyncio.sleep(LOOK)


async def _held_up(
    ledger: Ledger, client: PrefectClient, row: RunRow, state: State[Any] | None
) -> str:
    """Why a waiting run does not begin, as far as it can be known; else empty."""
    from daybook.prefect import work_pool
    from daybook.prefect.states import WAITING

    there = await work_pool.read(client, ledger.id)
    if there.idle:
        return f"{there.idle}; `daybook up` starts one"
    if row.until is not None and row.until > ledger.now():
        return row.reason
    # Set back by a worker of Prefect's own, which the ledger has not heard of.
    return (state.message or "") if state is not None and state.name == WAITING else ""


async def _view(ledger: Ledger, run_id: str) -> dict[str, Any]:
    async with ledger.read() as session:
        return await _whole(session, *await past.find(session, run_id))


async def _whole(session: AsyncSession, row: RunRow, job: JobRow | None) -> dict[str, Any]:
    told = await deliveries.of_run(session, row.id)
    alerts = await deliveries.alerts(session, [row.id])
    view = views.run(row, job) | {"alert": alerts.get(row.id)}
    return view | {"deliveries": [views.delivery(each, job) for each in told]}


async def _tried(ledger: Ledger, run_id: str) -> None:
    """Wait until what may be told of a run by now was tried once; not for long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(TOLD_WITHIN):
            while True:
                async with ledger.read() as session:
                    if not await deliveries.untried(session, run_id, ledger.now()):
                        return
                await asyncio.sleep(LOOK)
