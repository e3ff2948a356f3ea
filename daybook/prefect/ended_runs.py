"""Runs that ended in Prefect: their ends become outcomes in the ledger.

If a run ends in Prefect and its row is live or missing, Daybook records the end according to the
row's state (the second half of promise 13).

::

    the row is    and                               then
    ────────────  ────────────────────────────────  ─────────────────────────────────────────────
    waiting       ended or cancelling in Prefect    `runs.prefect_ends` decides
    held          its holder may be alive           nothing: the holder records the outcome, or
                                                    its lease ends
                  its holder is dead, ended in      `runs.prefect_ends` decides
                  Prefect
    missing       ended in Prefect, or cancelling   `runs.prefect_ends` decides if a row is made
                  without a process; a run of ours

A holder proves that it is alive by renewing its lease after the end. A holder whose next renewal is
overdue counts as dead. So Daybook records no outcome while a worker is still ending the process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, cast

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled
from sqlmodel import col, select

from daybook.errors import LeadershipLost, Unreachable
from daybook.ledger.engine import Ledger
from daybook.ledger.states import HELD, TERMINAL, Status
from daybook.ledger.tables import RunRow
from daybook.prefect import flow_runs, occurrence, state_mirror, states
from daybook.prefect.projection import ledger_tag
from daybook.prefect.states import is_skipped, terminal_state
from daybook.runs import leases, prefect_ends, waiting_runs
from daybook.runs.claim_requests import ClaimRequest
from daybook.runs.retention import RetentionLimits
from daybook.timing import TIMING

log = logging.getLogger(__name__)

READ_OVERLAP = timedelta(seconds=60)
"""Overlap of two passes, because Prefect may store an end late, and clocks may differ."""
SAVE_INTERVAL = timedelta(seconds=30)
"""How far a pass advances before it records its progress."""
CLOCK_ERROR_LOOKBACK = timedelta(days=1)
"""How far a pass looks back if the recorded progress is later than the ledger's time."""
END_TYPES = (*flow_runs.ENDED_TYPES, StateType.CANCELLING)


async def record_live_ends(
    ledger: Ledger, client: PrefectClient, *, supervised: Collection[str] = ()
) -> int:
    """Record the ends of live rows, however long ago their runs ended.

    Return how many runs have ended or are being cancelled in Prefect, even if nothing was recorded.
    Leave out the flow runs in ``supervised``, because the caller's own observations of their
    processes take precedence.
    """
    async with ledger.read() as session:
        rows = {str(row.flow_run_id): row for row in await waiting_runs.live_in_prefect(session)}
    runs = await flow_runs.read(client, rows.keys() - set(supervised), END_TYPES)
    for flow_run_id, run in runs.items():
        await _record_safely(ledger, client, run, rows[flow_run_id])
    return len(runs)


async def record_unread_ends(
    ledger: Ledger,
    client: PrefectClient,
    *,
    supervised: Collection[str] = (),
    most_seconds: float = 5.0,
) -> datetime:
    """Record the ends that were not read yet, oldest first, for about ``most_seconds``.

    Record only the ends of runs without a row. Skip ends that are older than the age limit of the
    retention. Return the instant up to which all ends were read (UTC, the ledger's time). The next
    pass, of this leader or another leader, starts at this instant or a little earlier. The instant
    is never later than the end of a supervised run without a row, because the run's supervisor may
    die before it records the end.
    """
    started, deadline = ledger.now(), time.monotonic() + most_seconds
    async with ledger.read() as session:
        stored = await prefect_ends.read_until(session)
        oldest = await prefect_ends.first_job_created_at(session)
    since, limit = _read_from(stored, oldest, started), started
    reached = since
    async for read_until, runs in flow_runs.read_ended(
        client, ledger_tag(ledger.id), since, started
    ):
        candidates = {str(run.id): run for run in runs if not _has_own_state(run)}
        with_row = await rows_of_flow_runs(ledger, candidates)
        for flow_run_id, run in candidates.items():
            if flow_run_id in with_row:
                continue
            if flow_run_id in supervised:
                limit = min(limit, run.end_time or since)
            else:
                await _record_safely(ledger, client, run, None)
        reached = min(read_until, limit)
        out_of_time = time.monotonic() >= deadline
        progress = min(reached, started - READ_OVERLAP)
        # Only if there was progress: a pass without work writes nothing.
        if (
            stored is None
            or stored > started
            or progress - stored >= SAVE_INTERVAL
            or (out_of_time and progress > stored)
        ):
            await prefect_ends.advance(ledger, progress)
            stored = progress
        if out_of_time:
            break
    return reached


def _read_from(stored: datetime | None, oldest: datetime | None, began: datetime) -> datetime:
    if stored is None:
        since = began if oldest is None else oldest - READ_OVERLAP
    elif stored > began:
        since = began - CLOCK_ERROR_LOOKBACK  # the ledger's clock is or was wrong
    else:
        since = stored
    if (
        began - since > CLOCK_ERROR_LOOKBACK
        and (max_age := RetentionLimits.of_settings().age) is not None
    ):
        since = max(since, began - max_age)
    return since


async def _record_safely(
    ledger: Ledger, client: PrefectClient, run: FlowRun, row: RunRow | None
) -> None:
    """Record the end of one run; log an error that concerns only this run."""
    try:
        await _record(ledger, client, run, row)
    except (Unreachable, httpx.HTTPError, LeadershipLost):
        raise
    except Exception:
        log.exception("cannot record the end of %s", run.name, extra={"action": "end_failed"})


async def record_end(
    ledger: Ledger, client: PrefectClient, flow_run_id: str, *, has_no_process: bool = False
) -> Status | None:
    """Record the end of one flow run that Prefect reports; return the recorded status.

    Return None if nothing was recorded. ``has_no_process`` is true if the caller knows that no
    process of the run is alive.
    """
    row = (await rows_of_flow_runs(ledger, [flow_run_id])).get(flow_run_id)
    if row is not None and row.state in TERMINAL:
        return None
    run = (await flow_runs.read(client, [flow_run_id], END_TYPES)).get(flow_run_id)
    if run is None or (row is None and run.state_type is StateType.CANCELLING):
        return None
    return await _record(ledger, client, run, row, has_no_process=has_no_process)


async def record_found_end(
    ledger: Ledger, client: PrefectClient, run: FlowRun, state: State[Any]
) -> Status | None:
    """Record the end ``state`` that the caller found on ``run``, the Prefect run of a waiting row.

    The caller may have overwritten the state in Prefect, so set the outcome in Prefect at once.
    Return the recorded status, or None if nothing was recorded.
    """
    row = (await rows_of_flow_runs(ledger, [str(run.id)])).get(str(run.id))
    if row is None or state.type not in END_TYPES:
        return None
    status = await _record(ledger, client, run.model_copy(update={"state": state}), row)
    if status is not None:
        await state_mirror.mirror_run(ledger, client, row.id)
    return status


async def make_wait(
    ledger: Ledger, client: PrefectClient, run: FlowRun, until: datetime, why: str
) -> flow_runs.StateChange:
    """Make ``run``, the Prefect run of a waiting row, wait in Prefect until ``until`` (UTC).

    If the run has ended in Prefect meanwhile, record the end in the ledger. If the ledger has an
    outcome by now, set this outcome in Prefect. Return the result of the change that made the run
    wait.
    """
    change = await flow_runs.change_state(client, run, states.waiting_state(until, why))
    recorded = None
    if change.surprise and change.over is not None:
        log.info(
            "%s changed in Prefect in the meantime; its state was %s",
            run.name,
            change.over.name,
            extra={"action": "raced"},
        )
        recorded = await record_found_end(ledger, client, run, change.over)
    if change.accepted and recorded is None:
        await states.show_recorded_outcome(ledger, client, str(run.id))
    return change


async def finish_cancellation(ledger: Ledger, client: PrefectClient, run: FlowRun) -> Status | None:
    """End a run that is being cancelled, and that has neither a live row nor a process.

    Return the recorded status; None if only the state in Prefect was set.
    """
    status = await _record(ledger, client, run, None)
    if status is None:
        await flow_runs.change_state(client, run, Cancelled(message="no process runs it"))
    return status


async def rows_of_flow_runs(ledger: Ledger, flow_run_ids: Collection[str]) -> dict[str, RunRow]:
    """Return the rows of these flow runs, by flow run id; flow runs without a row are left out.

    For a flow run with several rows, return its live row, or else the row of its last start.
    """
    if not flow_run_ids:
        return {}
    query = select(RunRow).where(col(RunRow.flow_run_id).in_(flow_run_ids))
    async with ledger.read() as session:
        rows = (await session.execute(query)).scalars().all()
    rows = sorted(rows, key=lambda row: (row.state not in TERMINAL, row.flow_starts))
    return {str(row.flow_run_id): row for row in rows}


_OWN_STATES = {
    (each.type, each.name)
    for each in (
        terminal_state(status, "") for status in (Status.SKIPPED, Status.MISSED, Status.UNKNOWN)
    )
}
"""States that only Daybook sets; `_record` creates no row for them.

The states show a refusal without a row, one of several missed due times, or an unknown outcome that
the mirror has set.
"""


def _has_own_state(run: FlowRun) -> bool:
    return run.state is not None and (run.state.type, run.state.name) in _OWN_STATES


async def _record(
    ledger: Ledger,
    client: PrefectClient,
    run: FlowRun,
    row: RunRow | None,
    *,
    has_no_process: bool = False,
) -> Status | None:
    state = run.state
    if state is None:
        return None
    cancelling = state.type is StateType.CANCELLING
    if row is not None:
        renewed, missed = leases.holder_last_seen_at(row), ledger.now() - TIMING.run_lease_missed
        holder_is_gone = has_no_process or renewed is None or renewed <= state.timestamp <= missed
        if row.state in HELD and (cancelling or not holder_is_gone):
            return None
        request = None
    else:
        request = None if _has_own_state(run) else await _claim_request(ledger, run)
        if request is None:
            return None
    kind = "CANCELLED" if cancelling else "SKIPPED" if is_skipped(state) else state.type.value
    end = prefect_ends.EndInPrefect(
        str(run.id),
        cast(prefect_ends.EndKind, kind),
        state.name or kind.title(),
        state.message or "",
        request,
    )
    # An older end must not finish a row that was claimed after the row was read.
    status = await prefect_ends.apply_end(ledger, end, fence=None if row is None else row.fence)
    if status is not None:
        log.info("%s was %s in Prefect: %s", run.name, kind, status, extra={"action": "end_taken"})
        if cancelling:
            by_flow_run = await rows_of_flow_runs(ledger, [str(run.id)])
            await state_mirror.mirror_rows(ledger, client, list(by_flow_run.values()))
    return status


async def _claim_request(ledger: Ledger, run: FlowRun) -> ClaimRequest | None:
    """Return the claim request of the run; None if it belongs to no job of this ledger."""
    if run.deployment_id is None or ledger_tag(ledger.id) not in run.tags:
        return None
    request = await occurrence.build_claim_request(
        ledger, run, dict(run.parameters), holder="", starts=run.run_count
    )
    return None if request.job_id is None else request
