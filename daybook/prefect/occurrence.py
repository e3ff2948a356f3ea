"""The occurrence of a Prefect flow run, and the claim request for it.

The formats of an occurrence's key are in `docs/promise.md`, "Occurrence key".
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from daybook.errors import InvalidInput, UnreadableJob
from daybook.jobs import lateness, store
from daybook.jobs.labels import RESERVED_TAG_PREFIX
from daybook.jobs.model import normal_parameters
from daybook.json_text import JsonObject
from daybook.ledger import triggers
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.prefect import flow_runs, links, reconcile, states
from daybook.prefect.client import limited
from daybook.runs import claim_requests, rows
from daybook.runs.claim_requests import ClaimRequest

_CONTINUED: ContextVar[str] = ContextVar("daybook_continued_session", default="")


@contextmanager
def continuing(session_id: str) -> Iterator[None]:
    """Make the next direct call inside the context continue this session."""
    token = _CONTINUED.set(session_id)
    try:
        yield
    finally:
        _CONTINUED.reset(token)


def _continued_session(run: FlowRun) -> str:
    """Return the session that a direct call has to continue; empty for the call's own session.

    Only the first call continues it: an agent's tool may call another flow in the same task.
    """
    if run.deployment_id is not None:
        return ""
    session_id = _CONTINUED.get()
    _CONTINUED.set("")
    return session_id


def current_holder() -> str:
    """Return the name of this process in a lease: machine and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def current_flow_run() -> FlowRun:
    """Return the flow run that executes this code; raise `RuntimeError` outside a flow run."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise RuntimeError("there is no current Prefect flow run; call this inside a flow")
    return context.flow_run


def _due(run: FlowRun, now: datetime) -> datetime:
    """Return Prefect's `expected_start_time`, floored to the second; ``now`` if there is none.

    A wait of the run never changes its due time.
    """
    expected = run.expected_start_time
    if expected is None:
        return now
    return datetime.fromtimestamp(int(expected.timestamp()), UTC)


def is_of_job(run: FlowRun) -> bool:
    """Return whether this is a run of the deployment of a job, of whichever ledger."""
    return any(tag.startswith(RESERVED_TAG_PREFIX) for tag in run.tags)


def belongs_to_other_ledger(run: FlowRun, ledger_id: str) -> bool:
    """Return whether this is a run of another ledger's deployment."""
    return is_of_job(run) and f"{RESERVED_TAG_PREFIX}{ledger_id}" not in run.tags


async def build_claim_request(
    ledger: Ledger,
    run: FlowRun,
    parameters: JsonObject,
    *,
    holder: str,
    starts: int,
    kind: str | None = None,
    refused: str = "",
    most: int | None = None,
    started: bool = True,
    client: PrefectClient | None = None,
) -> ClaimRequest:
    """Return the claim request for ``run``.

    With the ``kind`` of the run's flow, ``parameters`` are in their normal form. A caller without
    the flow omits ``kind`` and passes Prefect's parameters; then the job's kind applies. ``holder``
    is the name for the lease. ``starts`` is the number of times that Prefect has started the run,
    including the start for which the claim is made. ``refused`` is the problem with the parameters,
    empty if there is none. ``most`` is the maximum number of concurrent runs; ``started`` is as in
    `ClaimRequest`, and ``client`` as in `read_retry_starts`. Errors of an unreachable ledger or
    Prefect propagate.
    """
    flow_run_id, prefix, key = str(run.id), f"{ledger.id}:", run.idempotency_key or ""
    own = key.removeprefix(prefix).rpartition(":")[0] if key.startswith(prefix) else ""
    is_answer = claim_requests.is_session_request(own)
    reads_kind = kind is None
    job_id, job_kind = (None, "") if is_answer else await _job_of(ledger, run, reads_kind)
    if job_id is None and f"daybook:{ledger.id}" in run.tags and not is_answer:
        # This is our deployment, but a crash prevented Daybook from recording its id.
        await reconcile.recognise(str(run.deployment_id))
        job_id, job_kind = await _job_of(ledger, run, reads_kind)
    if kind is None:
        kind = claim_requests.SESSION_KIND if is_answer else job_kind
        parameters, refused = _normal_parameters(kind, parameters)
    due, session_id = _due(run, ledger.now()), _continued_session(run)
    if own:
        # A run that we created in Prefect, with the key `<ledger>:<occurrence>:<n>`.
        occurrence, trigger = own, "manual"
    elif run.auto_scheduled and job_id is not None:
        occurrence, trigger = claim_requests.due_key(job_id, due), "schedule"
    else:
        occurrence = claim_requests.flow_key(flow_run_id)
        direct = (triggers.SESSION if session_id else triggers.DIRECT).name
        by_hand = "manual" if run.deployment_id else direct
        trigger = "schedule" if run.auto_scheduled else by_hand
    return ClaimRequest(
        occurrence=occurrence,
        kind=kind,
        trigger=trigger,
        due=due,
        holder=holder,
        parameters=parameters,
        job_id=job_id,
        flow_run_id=flow_run_id,
        flow_starts=starts,
        refused=refused,
        most=most,
        retries=await read_retry_starts(run, client) if starts > 1 else (),
        started=started,
        session_id=session_id,
        waited=_waited(run),
    )


def _waited(run: FlowRun) -> str:
    """Return the reason why the run waits in Prefect; empty if Daybook did not reschedule it."""
    waits = run.state is not None and run.state.name == states.WAITING_NAME
    return (run.state.message or "") if run.state is not None and waits else ""


def _normal_parameters(kind: str, parameters: JsonObject) -> tuple[JsonObject, str]:
    """Return the parameters in normal form, and the problem with them, or "".

    Parameters with a problem, or without a ``kind``, are returned as they are.
    """
    if not kind:
        return parameters, ""
    try:
        return dict(normal_parameters(kind, parameters)), ""
    except InvalidInput as error:
        return parameters, str(error)


async def _job_of(ledger: Ledger, run: FlowRun, reads_kind: bool) -> tuple[str | None, str]:
    """Return the id of the run's job, and its kind if ``reads_kind``; None and "" without a job.

    The kind is read with the whole job, so that a job that cannot be read raises `UnreadableJob`.
    """
    if run.deployment_id is None:
        return None, ""
    async with ledger.read() as session:
        due = _due(run, ledger.now()) if run.auto_scheduled else None
        job_id = await links.job_of_deployment(session, str(run.deployment_id), due)
        # The run was rescheduled after its end, then its deployment was deleted: show that end
        # again.
        job_id = job_id or await rows.job_id_of_finished(session, str(run.id))
        stored = await store.get(session, job_id) if job_id is not None and reads_kind else None
    return job_id, stored.row.kind if stored else ""


async def is_missed(ledger: Ledger, run: FlowRun) -> bool:
    """Return whether a claim of the scheduled ``run`` would find it too late to start.

    A run whose job cannot be read counts as not missed; its claim reports the error. A run that
    waits in the ledger is not missed either.
    """
    now = ledger.now()
    due = _due(run, now)
    async with ledger.read() as session:
        row = await rows.find(session, str(run.id), None)
        if row is not None and row.state is Status.WAITING and not row.wait_reason.is_reservation:
            return False
        job_id = await links.job_of_deployment(session, str(run.deployment_id), due)
        with suppress(UnreadableJob):
            if job_id is not None and (stored := await store.in_force(session, job_id, due)):
                return not lateness.judge_at(stored, due, now).runs
    return False


async def read_retry_starts(run: FlowRun, client: PrefectClient | None = None) -> tuple[int, ...]:
    """Return one number for each Retry of this run: the number of the run's starts before it.

    Without ``client``, open one: that of a flow's context costs nothing, a new one 30 ms of CPU.
    Raise `PrefectUnreachable` without an answer in time.
    """
    opened = get_client() if client is None else nullcontext(client)
    async with limited(), opened as own:
        found = await flow_runs.read_states(own, run.id)
        return flow_runs.retry_starts(found, deployed=run.deployment_id is not None)
