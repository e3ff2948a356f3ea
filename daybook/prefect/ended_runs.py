"""Ends: what was ended in Prefect becomes the run's outcome here (`docs/promise.md` 13).

::

    the row is    and                               then
    ────────────  ────────────────────────────────  ─────────────────────────────────────────────
    waiting       ended or cancelling there         `ledger.ends` decides
    held          its holder may live               nothing: the holder has it, or its lease ends
                  its holder is gone, ended there   `ledger.ends` decides
    missing       ended there, a run of ours        `ledger.ends` decides: a row is made, or none

A holder proves that it lives by renewing its lease after the end. One that has not for longer than
it takes to renew is gone: so nothing is settled under a process that is still being ended.
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

from daybook.errors import LeadLost, Unreachable
from daybook.ledger.engine import Ledger
from daybook.ledger.states import HELD, TERMINAL, Status
from daybook.ledger.tables import RunRow
from daybook.prefect import flow_runs, occurrence, state_mirror, states
from daybook.prefect.projection import ledger_tag
from daybook.prefect.reconcile import Reconciliation
from daybook.prefect.states import is_skipped, state_of
from daybook.runs import ends_read, leases, waiting_runs
from daybook.runs import prefect_ends as book
from daybook.runs.claim_requests import Offer
from daybook.runs.retention import Keep
from daybook.timing import TIMING

log = logging.getLogger(__name__)

OVERLAP = timedelta(seconds=60)
"""By how much two passes overlap: an end that was stored late, clocks that differ."""
STEP = timedelta(seconds=30)
"""How far they get before it is written down."""
BACK = timedelta(days=1)
"""How far one looks back where what was written down lies ahead of the ledger's now."""
STATES = (*flow_runs.ENDED, StateType.CANCELLING)


async def live(ledger: Ledger, client: PrefectClient, *, supervised: Collection[str] = ()) -> int:
    """One pass over the live rows, whenever their runs ended; returns how many had.

    ``supervised`` are the flow runs whose processes the caller watches: what it sees of them comes
    first.
    """
    async with ledger.read() as session:
        rows = {str(row.flow_run_id): row for row in await waiting_runs.live_of_prefect(session)}
    there = await flow_runs.read(client, rows.keys() - set(supervised), STATES)
    for flow_run_id, run in there.items():
        await _told(ledger, client, run, rows[flow_run_id])
    return len(there)


async def unread(
    ledger: Ledger,
    client: PrefectClient,
    *,
    supervised: Collection[str] = (),
    most_seconds: float = 5.0,
) -> datetime:
    """One pass, of about ``most_seconds``, over the ends that were not read yet, the first first.

    They are those of runs that have no row. Returns up to when all were read (UTC, the ledger's
    time); where that is not now, the next pass goes on there, this leader's or another's. A run of
    ``supervised`` without a row holds it back: its watcher may die before it tells.
    """
    began, end = ledger.now(), time.monotonic() + most_seconds
    async with ledger.read() as session:
        stored = await ends_read.until(session)
        oldest = await ends_read.oldest(session)
    since, held = _since(stored, oldest, began), began
    reached = since
    async for to, runs in flow_runs.ended(client, ledger_tag(ledger.id), since, began):
        fresh = {str(run.id): run for run in runs if not _ours(run)}
        known = await known_rows(ledger, fresh)
        for flow_run_id, run in fresh.items():
            if flow_run_id in known:
                continue
            if flow_run_id in supervised:
                held = min(held, run.end_time or since)
            else:
                await _told(ledger, client, run, None)
        reached = min(to, held)
        over = time.monotonic() >= end
        keep = min(reached, began - OVERLAP)
        # Not at each turn: a pass without work writes nothing.
        if stored is None or stored > began or keep - stored >= STEP or (over and keep > stored):
            await ends_read.advance(ledger, keep)
            stored = keep
        if over:
            break
    return reached


def _since(stored: datetime | None, oldest: datetime | None, began: datetime) -> datetime:
    if stored is None:
        since = began if oldest is None else oldest - OVERLAP
    elif stored > began:
        since = began - BACK  # the ledger's clock was wrong, then or now
    else:
        since = stored
    if began - since > BACK and (kept := Keep.of_settings().age) is not None:
        since = max(since, began - kept)
    return since


async def _told(ledger: Ledger, client: PrefectClient, run: FlowRun, row: RunRow | None) -> None:
    """Take the run's end; one that cannot be taken is told, and stops no other's."""
    try:
        await _seen(ledger, client, run, row)
    except (Unreachable, httpx.HTTPError, LeadLost):
        raise
    except Exception:
        log.exception("the end of %s was not taken", run.name, extra={"action": "end_failed"})


async def one(
    ledger: Ledger, client: PrefectClient, flow_run_id: str, *, gone: bool = False
) -> Status | None:
    """The same for one flow run, of which Prefect tells that it ended; None if nothing changed.

    ``gone`` says that the caller knows that no process of it lives.
    """
    row = (await known_rows(ledger, [flow_run_id])).get(flow_run_id)
    if row is not None and row.state in TERMINAL:
        return None
    run = (await flow_runs.read(client, [flow_run_id], STATES)).get(flow_run_id)
    if run is None or (row is None and run.state_type is StateType.CANCELLING):
        return None
    return await _seen(ledger, client, run, row, gone=gone)


async def met(
    ledger: Ledger, client: PrefectClient, run: FlowRun, state: State[Any]
) -> Status | None:
    """The same for a state in which another pass met ``run``, which carries a waiting row.

    That pass may have written over it, so Prefect is told at once what became of it.
    """
    row = (await known_rows(ledger, [str(run.id)])).get(str(run.id))
    if row is None or state.type not in STATES:
        return None
    status = await _seen(ledger, client, run.model_copy(update={"state": state}), row)
    if status is not None:
        await state_mirror.now(ledger, client, row.id)
    return status


async def let_wait(
    ledger: Ledger, client: PrefectClient, run: FlowRun, until: datetime, why: str
) -> flow_runs.Change:
    """Make ``run``, which carries a waiting row, wait in Prefect until ``until`` (UTC).

    If the run was ended in Prefect meanwhile, the ledger records that. If an outcome was recorded
    in the ledger meanwhile, Prefect shows it.
    """
    change = await flow_runs.change(client, run, states.waiting(until, why))
    settled = None
    if change.surprise and change.over is not None:
        log.info("%s was %s meanwhile", run.name, change.over.name, extra={"action": "raced"})
        settled = await met(ledger, client, run, change.over)
    if change.accepted and settled is None:
        await states.ended_meanwhile(ledger, client, str(run.id))
    return change


async def cancelled(ledger: Ledger, client: PrefectClient, run: FlowRun) -> Status | None:
    """End a run that is cancelling, has no live row, and no process that would end it."""
    status = await _seen(ledger, client, run, None)
    if status is None:
        await flow_runs.change(client, run, Cancelled(message="no process has it"))
    return status


async def known_rows(ledger: Ledger, flow_run_ids: Collection[str]) -> dict[str, RunRow]:
    """The row that each of these flow runs carries or carried, by the flow run: the live one, or
    that of its last start.
    """
    if not flow_run_ids:
        return {}
    those = select(RunRow).where(col(RunRow.flow_run_id).in_(flow_run_ids))
    async with ledger.read() as session:
        found = (await session.execute(those)).scalars().all()
    found = sorted(found, key=lambda row: (row.state not in TERMINAL, row.flow_starts))
    return {str(row.flow_run_id): row for row in found}


_OURS = {
    (each.type, each.name)
    for each in (state_of(status, "") for status in (Status.SKIPPED, Status.MISSED, Status.UNKNOWN))
}
"""States of ours that nobody else gives: a refusal without a row, one of several due times that
were missed, and the mirror of what may have had its effect. No row is made for them.
"""


def _ours(run: FlowRun) -> bool:
    return run.state is not None and (run.state.type, run.state.name) in _OURS


async def _seen(
    ledger: Ledger,
    client: PrefectClient,
    run: FlowRun,
    row: RunRow | None,
    *,
    gone: bool = False,
) -> Status | None:
    state = run.state
    if state is None:
        return None
    cancelling = state.type is StateType.CANCELLING
    if row is not None:
        held = row.state in HELD
        if held and (cancelling or not (gone or _holder_is_gone(ledger, row, state))):
            return None
        offer = None
    else:
        offer = None if _ours(run) else await _offer(ledger, run)
        if offer is None:
            return None
    kind = "CANCELLED" if cancelling else "SKIPPED" if is_skipped(state) else state.type.value
    end = book.EndInPrefect(
        str(run.id),
        cast(book.Kind, kind),
        state.name or kind.title(),
        state.message or "",
        offer,
    )
    # A row that was granted since it was read is not settled by what Prefect told before.
    status = await book.take(ledger, end, fence=None if row is None else row.fence)
    if status is not None:
        log.info("%s was %s in Prefect: %s", run.name, kind, status, extra={"action": "end_taken"})
        if cancelling:
            taken = await known_rows(ledger, [str(run.id)])
            await state_mirror.these(ledger, client, list(taken.values()))
    return status


def _holder_is_gone(ledger: Ledger, row: RunRow, state: State[Any]) -> bool:
    renewed = leases.heard_at(row)
    if renewed is None:
        return True
    return renewed <= state.timestamp <= ledger.now() - TIMING.run_lease_missed


async def _offer(ledger: Ledger, run: FlowRun) -> Offer | None:
    """What the run would have offered to the claim; None if it is not of a job of this ledger."""
    if run.deployment_id is None or ledger_tag(ledger.id) not in run.tags:
        return None
    offer = await occurrence.offer(
        ledger, run, dict(run.parameters), Reconciliation(), holder="", starts=run.run_count
    )
    return None if offer.job_id is None else offer
