"""Operations on runs: run now, retry, ask without a job, history, show, logs, cancel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from pydantic import BaseModel

from daybook import owners, prefect, repository
from daybook.api import authorization, run_files, sources
from daybook.api.filters import RunFilters
from daybook.delivery import history as deliveries
from daybook.delivery.views import ListedRun, Notification, RunDetails, RunWithSteps
from daybook.errors import DaybookError, InvalidInput, PrefectUnreachable
from daybook.instants import UtcTime
from daybook.jobs import store
from daybook.jobs.actions import DEFAULT_AGENT
from daybook.jobs.model import edit, normal_parameters, read_parameters
from daybook.json_text import JsonObject
from daybook.ledger import triggers
from daybook.ledger.engine import Ledger, open_ledger, reading
from daybook.ledger.states import LIVE, TERMINAL, Status
from daybook.ledger.tables import JobRow, RunRow, new_id
from daybook.ledger.views import Approval, Run, Step
from daybook.names import Id
from daybook.owners import Actor
from daybook.prefect import work_pool
from daybook.runs import approvals, claim_requests, claims, rows, steps
from daybook.runs import history as run_history

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import State
    from sqlalchemy.ext.asyncio import AsyncSession

POLL_INTERVAL_SECONDS = 0.2
"""Interval between two polls of the ledger while waiting for a run."""
POLLS_PER_PREFECT_REQUEST = 10
"""Number of polls of the ledger between two requests to Prefect for the state of the flow run."""
NO_FILTERS = RunFilters()
DELIVERY_TIMEOUT_SECONDS = 5.0
"""Maximum time to wait, after the end of a run, for the deliveries about the run."""


class LogLine(BaseModel, frozen=True):
    """A line of a run's log. ``level`` is a level number of `logging`."""

    at: UtcTime
    level: int
    message: str


class WaitObserver(Protocol):
    """Receives the progress of a run while a caller waits for the run."""

    def asked(self) -> None:
        """Report that the run was requested. It continues even if the caller stops waiting."""
        ...

    def held_up(self, why: str) -> None:
        """Report the reason why the run has not started.

        This method is called once for each reason.
        """
        ...


async def run(
    ref: str,
    *,
    wait: bool = False,
    request_id: str | None = None,
    prompt: str | None = None,
    talk: WaitObserver | None = None,
) -> RunDetails:
    """Run a job now, even if the job is disabled. Return the run.

    ``prompt`` replaces the job's prompt for this run. A call with the same ``request_id`` returns
    the same run. Without ``wait``, return the run as soon as it is requested. With ``wait``, return
    the run when it has ended, or when its flow run has ended in Prefect because its process died.
    After the end, wait up to `DELIVERY_TIMEOUT_SECONDS` for the run's deliveries, so that the
    returned `delivery` is not always `pending`.

    Raise `NotFound`, `Ambiguous` and `PrefectUnreachable`. If Prefect stops answering after the run
    was requested, the run starts later. Raise `InvalidInput` for a ``request_id`` that is too long,
    and for a ``prompt`` that the job cannot have.
    """
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            stored = await authorization.find_job(session, ref)
        parameters = None
        if prompt is not None:
            changed = edit(stored.job, {"prompt": prompt}, now=ledger.now())
            authorization.check_limits(changed, stored.row.owner, ledger.now())
            parameters = changed.parameters()
        request = partial(
            claims.request,
            stored=stored,
            request_id=request_id or new_id(),
            trigger=authorization.current_trigger(),
            parameters=parameters,
        )
        return await _run(ledger, stored, request, wait, talk)


async def retry(
    ref: str,
    *,
    wait: bool = False,
    request_id: str | None = None,
    talk: WaitObserver | None = None,
) -> RunDetails:
    """Repeat a run that has ended, with the same parameters. Return the new run.

    ``ref`` is a run, or a job whose last run is to be repeated. The other arguments and the errors
    are as for `run`. Also raise `InvalidInput` for a run that has not ended, and for a run that has
    no job or whose job was removed.
    """
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            ended, job = await authorization.find_last_run(session, ref)
            if ended.started_by is triggers.SESSION:
                raise InvalidInput("run", "answers a message", "send it again in its session")
            if job is None or job.archived_at is not None:
                raise InvalidInput("run", f"{ended.id[:8]} has no job any more", "add a new job")
            key = claim_requests.request_key(job.id, request_id) if request_id else None
            is_repeated = key and await rows.find(session, None, key)
            if ended.state not in TERMINAL and not is_repeated:
                problem = f"{ended.id[:8]} has not ended: {ended.status}"
                raise InvalidInput("run", problem, "wait for it, or cancel it first")
            stored = await authorization.find_job(session, Id(job.id))
        request = partial(
            claims.request,
            stored=stored,
            request_id=request_id or new_id(),
            trigger="retry",
            parameters=ended.parameters,
            retry_of=ended.id,
        )
        return await _run(ledger, stored, request, wait, talk)


async def ask(
    prompt: str, *, agent: str = DEFAULT_AGENT, model: str = "", session_key: str = ""
) -> RunDetails:
    """Ask an agent once, without a job, in this process. Return the run, even if it failed.

    ``session_key`` continues the conversation with this key. Raise `InvalidInput` for a field that
    a job could not have, `PrefectUnreachable`, and `DaybookError` if the flow ended before the
    claim.
    """
    given = {"prompt": prompt, "agent": agent, "model": model, "session_key": session_key}
    given = {name: value for name, value in given.items() if value}
    return await ask_here(given)


async def ask_here(given: JsonObject) -> RunDetails:
    """Run an agent prompt with these parameters, without a job, in this process. Return the run.

    Raise the errors of `ask`.
    """
    read_parameters("agent-prompt", given)

    async with prefect.client.answering():
        pass
    flow = repository.load_entry_point("flows/agent_prompt.py").agent_prompt
    state = await flow(**given, return_state=True)
    flow_run_id = str(state.state_details.flow_run_id)
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            row = await rows.find(session, flow_run_id, None)
        if row is None:  # the flow ended before the claim
            raise DaybookError(state.message or f"the flow run {flow_run_id} did not start")
        return await _view(ledger, row.id)


async def request_answer(
    parameters: JsonObject, *, session_id: str = "", request_id: str | None = None
) -> RunDetails:
    """Request a run without a job that answers a prompt in a session; return it before it starts.

    ``parameters`` are those of an agent prompt. An empty ``session_id`` starts a new session. A
    call with the same ``request_id`` returns the same run. Raise `InvalidInput` for parameters that
    a job could not have, and `PrefectUnreachable`. If Prefect stops answering after the run was
    stored, the run starts later.
    """
    request = partial(
        claims.request_answer,
        session_id=session_id,
        request_id=request_id or new_id(),
        parameters=dict(normal_parameters("agent-prompt", parameters)),
    )
    async with open_ledger() as ledger:
        return await _run(ledger, None, request)


async def _run(
    ledger: Ledger,
    stored: store.StoredJob | None,
    request: Callable[[Ledger], Awaitable[RunRow]],
    wait: bool = False,
    talk: WaitObserver | None = None,
) -> RunDetails:
    """Request a run, and start it. Without a job, ``stored`` is None."""
    async with prefect.client.answering() as client:
        row = await request(ledger)
        if row.state is Status.WAITING and row.flow_run_id is None:
            if stored is None:
                await prefect.scheduled_runs.ensure_row(ledger, client, row)
            else:
                await _start(ledger, client, stored, row)
        if wait:
            if talk is not None:
                talk.asked()
            await _wait_for_end(ledger, client, row.id, talk)
            await _tried(ledger, row.id)
    return await _view(ledger, row.id)


async def history(
    ref: str | None = None, limit: int = 20, filters: RunFilters = NO_FILTERS
) -> list[ListedRun]:
    """Return up to ``limit`` runs that match ``filters``, of one job or of all jobs.

    The job ``ref`` may have been removed. The runs with the latest due times come first, unless
    ``filters`` set another order. Works without Prefect. Raise `NotFound` or `Ambiguous` for the
    job, and `InvalidInput` for invalid filters.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        stored = None if ref is None else await authorization.find_job(session, ref, archived=True)
        conditions, order = await filters.conditions(session, ledger.now())
        runs = await authorization.recent_runs(
            session, stored.id if stored else None, limit, conditions, order
        )
        alerts = await deliveries.alert_statuses(session, [row.id for row, _ in runs])
        return [ListedRun.of(row, job, alert=alerts.get(row.id)) for row, job in runs]


async def cancel(ref: str, within: float = 30.0) -> RunDetails:
    """Cancel a run. Return the run. ``ref`` is the run's id, a unique id prefix, or its job.

    A waiting run is cancelled immediately, even if Prefect does not answer; a keeper then updates
    Prefect later. If the run is in progress, wait at most ``within`` seconds until its worker has
    ended the run with all its child processes. After this time, the returned run may still be live.

    Raise `PrefectUnreachable` for a run in progress if Prefect does not answer. Raise `NotFound`,
    `Ambiguous`, and `InvalidInput` for a run with any outcome other than `cancelled`.
    """
    from prefect.states import Cancelling

    async with open_ledger() as ledger:
        async with ledger.read() as session:
            live, _ = await authorization.find_live_run(session, ref)
        row = await claims.cancel(ledger, live.id)
        if row.state in TERMINAL - {Status.CANCELLED}:
            raise InvalidInput(
                "run",
                f"{row.id[:8]} has already ended: {row.status}",
                "only a live run can be cancelled",
            )
        if row.state is Status.CANCELLED:
            # If Prefect is unreachable, the keeper of `daybook up` mirrors the outcome later.
            with suppress(PrefectUnreachable):
                async with prefect.client.connected() as client:
                    await prefect.state_mirror.mirror_run(ledger, client, row.id)
        elif row.flow_run_id is not None:
            async with prefect.client.connected() as client:
                await client.set_flow_run_state(UUID(row.flow_run_id), Cancelling())
                with suppress(TimeoutError):
                    async with asyncio.timeout(within):
                        await _wait_for_end(ledger, client, row.id)
        return await _view(ledger, row.id)


async def show(ref: str) -> RunWithSteps:
    """Return one run. ``ref`` is its id or a unique id prefix. Works without Prefect.

    Raise `NotFound`, `Ambiguous`.
    """
    async with reading() as session:
        row, job = await authorization.find_run(session, ref)
        view = await _full_view(session, row, job)
        found = await steps.of_run(session, row.id)
        asked = await approvals.of_run(session, row.id)
        files = await run_files.find(session, row.id)
    made = [Step.of(each) for each in found]
    return RunWithSteps(
        **dict(view),
        steps=made,
        approvals=[Approval.of(each) for each in asked],
        tools=steps.tools_of(found),
        sources=sources.of_steps(made),
        files=files,
    )


async def find_logged(ref: str) -> Run:
    """Return the run whose log `logs` returns. Works without Prefect.

    Raise `NotFound`, `Ambiguous`.
    """
    async with reading() as session:
        return Run.of(*await authorization.find_logged_run(session, ref))


def logs(ref: str) -> AsyncIterator[LogLine]:
    """Return an iterator over the log lines of a run in Prefect, oldest line first.

    ``ref`` is a run, or a job (possibly removed): then the run is its last one with a flow run. The
    iteration raises `NotFound`, `Ambiguous` and `PrefectUnreachable`.
    """
    # Pass the actor of this call, because another actor may be current during the iteration.
    return _logs(ref, owners.current_actor())


async def _logs(ref: str, actor: Actor) -> AsyncIterator[LogLine]:
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.client.schemas.sorting import LogSort

    async with reading() as session:
        with owners.acting_as(actor):
            row, _ = await authorization.find_logged_run(session, ref)
    only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(row.flow_run_id)]))
    page, offset = 200, 0
    async with prefect.client.connected() as client:
        while True:
            found = await client.read_logs(
                log_filter=only, limit=page, offset=offset, sort=LogSort.TIMESTAMP_ASC
            )
            for each in found:
                yield LogLine(at=each.timestamp, level=each.level, message=each.message)
            offset += len(found)
            if len(found) < page:
                return


async def _start(
    ledger: Ledger, client: PrefectClient, stored: store.StoredJob, row: RunRow
) -> None:

    # If a process dies after the request, a second request with this key returns the same flow run.
    key = f"{ledger.id}:{row.occurrence}:{row.prefect_runs + 1}"
    name = prefect.run_names.of_row(stored, row)
    known, flow_run_id = stored.row.deployment_id, None
    if known is not None and not stored.row.sync_pending:
        flow_run_id = await prefect.deployment.start_run(client, known, key, row.parameters, name)
    if flow_run_id is None:  # the deployment is not in Prefect yet, or a user deleted it there
        found = await prefect.deployment.read(client, known) if known else None
        await prefect.reconcile.reconcile_for_run(
            ledger, client, stored, found, prefect.report.ReconcileReport()
        )
        async with ledger.read() as session:
            created = (await store.find(session, stored.id)).row.deployment_id
        if created is not None:  # otherwise a dispatcher starts the run later
            flow_run_id = await prefect.deployment.start_run(
                client, created, key, row.parameters, name
            )
    if flow_run_id is not None:
        await claims.link_prefect_run(ledger, row, flow_run_id)


async def _wait_for_end(
    ledger: Ledger, client: PrefectClient, run_id: str, talk: WaitObserver | None = None
) -> None:
    polls, previous_state, reported = 0, None, set[str]()
    while True:
        async with ledger.read() as session:
            row = await session.get(RunRow, run_id)
        assert row is not None
        if row.state not in LIVE:
            return
        polls += 1
        if polls % POLLS_PER_PREFECT_REQUEST == 0 and row.flow_run_id:
            state = (await client.read_flow_run(UUID(row.flow_run_id))).state
            if state is not None and state.is_final() and previous_state is row.state:
                return  # the process of the run died, before its claim or during the run
            previous_state = row.state
            if talk is not None and row.state is Status.WAITING:
                why = await _waiting_reason(ledger, client, row, state)
                if why and why not in reported:
                    reported.add(why)
                    talk.held_up(why)
        await asyncio.sleep(POLL_INTERVAL_SECONDS)


async def _waiting_reason(
    ledger: Ledger, client: PrefectClient, row: RunRow, state: State[Any] | None
) -> str:
    """Return the reason why a waiting run does not start; empty if the reason is unknown."""
    pool = await work_pool.read(client, ledger.id)
    if pool.idle:
        return f"{pool.idle}; `daybook up` starts one"
    if row.until is not None and row.until > ledger.now():
        return row.reason
    # A worker of one of Prefect's own types postponed the run, so the ledger does not have the
    # reason.
    return (
        (state.message or "")
        if state is not None and state.name == prefect.states.WAITING_NAME
        else ""
    )


async def _view(ledger: Ledger, run_id: str) -> RunDetails:
    async with ledger.read() as session:
        return await _full_view(session, *await run_history.find(session, Id(run_id)))


async def _full_view(session: AsyncSession, row: RunRow, job: JobRow | None) -> RunDetails:
    rows = await deliveries.list_for_run(session, row.id)
    alerts = await deliveries.alert_statuses(session, [row.id])
    return RunDetails.of(
        row,
        job,
        alert=alerts.get(row.id),
        deliveries=[Notification.of(each, job) for each in rows],
    )


async def _tried(ledger: Ledger, run_id: str) -> None:
    """Wait until Daybook has tried each due delivery about the run once.

    Wait at most `DELIVERY_TIMEOUT_SECONDS`. Do not wait for listener calls and paused destinations.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(DELIVERY_TIMEOUT_SECONDS):
            while True:
                async with ledger.read() as session:
                    if not await deliveries.has_untried(session, run_id, ledger.now()):
                        return
                await asyncio.sleep(POLL_INTERVAL_SECONDS)
