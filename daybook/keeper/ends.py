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
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, Literal, cast

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled
from sqlmodel import col, select

from daybook.keeper import mirror, prefect_runs
from daybook.ledger import ends as book
from daybook.ledger import leases, waits
from daybook.ledger.engine import Ledger
from daybook.ledger.offers import Offer
from daybook.ledger.states import HELD, TERMINAL, Status
from daybook.ledger.tables import RunRow
from daybook.runs import occurrence
from daybook.runs.prefect_states import state_of
from daybook.sync.projection import ledger_tag
from daybook.sync.reconcile import Reconciliation

log = logging.getLogger(__name__)

FIRST = timedelta(days=1)
"""How far the first pass looks back for ends of runs that the ledger does not know."""
OVERLAP = timedelta(seconds=60)
"""By how much two passes overlap: an end that was stored late, clocks that differ."""
SIGN_OF_LIFE = leases.RENEW + timedelta(seconds=5)
"""After so long without a renewal the holder of a run that was ended in Prefect is gone."""
STATES = (*prefect_runs.ENDED, StateType.CANCELLING)


async def ends(
    ledger: Ledger,
    client: PrefectClient,
    since: datetime | None,
    *,
    supervised: Collection[str] = (),
) -> datetime:
    """One pass; returns what to give as ``since`` the next time, None being the first.

    ``supervised`` are the flow runs whose processes the caller watches: what it sees of them comes
    first. Live rows are looked at whenever their run ended.
    """
    began = ledger.now()
    async with ledger.read() as session:
        live = {str(row.flow_run_id): row for row in await waits.live_of_prefect(session)}
    mine = set(supervised)
    there = await prefect_runs.read(client, live.keys() - mine, STATES)
    for flow_run_id, run in there.items():
        if flow_run_id not in supervised:
            await _seen(ledger, client, run, live[flow_run_id])
    async for page in prefect_runs.ended(client, ledger_tag(ledger.id), since or began - FIRST):
        fresh = {str(run.id): run for run in page if not _ours(run)}
        known = await known_rows(ledger, fresh)
        for flow_run_id, run in fresh.items():
            if flow_run_id not in known and flow_run_id not in supervised:
                await _seen(ledger, client, run, None)
    return began - OVERLAP


async def one(
    ledger: Ledger, client: PrefectClient, flow_run_id: str, *, gone: bool = False
) -> Status | None:
    """The same for one flow run, of which Prefect tells that it ended; None if nothing changed.

    ``gone`` says that the caller knows that no process of it lives.
    """
    row = (await known_rows(ledger, [flow_run_id])).get(flow_run_id)
    if row is not None and row.state in TERMINAL:
        return None
    run = (await prefect_runs.read(client, [flow_run_id], STATES)).get(flow_run_id)
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
        await mirror.now(ledger, client, row.id)
    return status


async def cancelled(ledger: Ledger, client: PrefectClient, run: FlowRun) -> Status | None:
    """End a run that is cancelling, has no live row, and no process that would end it."""
    status = await _seen(ledger, client, run, None)
    if status is None:
        await prefect_runs.change(client, run, Cancelled(message="no process has it"))
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
    (each.type, each.name) for each in (state_of(Status.SKIPPED, ""), state_of(Status.UNKNOWN, ""))
}
"""States of ours that nobody else gives: a refusal without a row, and the mirror of what may have
had its effect. A row that is no more is not made again for them.
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
    kind = "CANCELLED" if cancelling else state.type.value
    end = book.EndInPrefect(
        str(run.id),
        cast(Literal["COMPLETED", "FAILED", "CRASHED", "CANCELLED"], kind),
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
            await mirror.these(ledger, client, list(taken.values()))
    return status


def _holder_is_gone(ledger: Ledger, row: RunRow, state: State[Any]) -> bool:
    if row.lease_until is None:
        return True
    renewed = row.lease_until - leases.LEASE
    return renewed <= state.timestamp <= ledger.now() - SIGN_OF_LIFE


async def _offer(ledger: Ledger, run: FlowRun) -> Offer | None:
    """What the run would have offered to the claim; None if it is not of a job of this ledger."""
    if run.deployment_id is None or ledger_tag(ledger.id) not in run.tags:
        return None
    offer = await occurrence.offer(
        ledger, run, dict(run.parameters), Reconciliation(), holder="", starts=run.run_count
    )
    return None if offer.job_id is None else offer
