"""Checks for delays: keeper, clocks, spooled outcomes, overdue runs, maintenance windows."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from daybook import settings
from daybook.api import maintenance as maintenance_api
from daybook.api import overdue
from daybook.api.overdue import DelayFacts, OverdueRun
from daybook.clock import SYSTEM_CLOCK
from daybook.diagnosis import findings
from daybook.diagnosis.checks import ledger as ledger_checks
from daybook.diagnosis.checks import prefect
from daybook.execution import outcome_spool
from daybook.finding import Finding, passed, problem
from daybook.keeper import leader_lease
from daybook.ledger.engine import open_ledger
from daybook.runs import history
from daybook.runs import overdue as run_overdue
from daybook.schedules.zones import time_with_zone
from daybook.short_text import first_names

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

SPOOL_GRACE_SECONDS = 60.0
"""Age from which a spooled outcome is a problem. A running process records it sooner."""


async def ledger_clock() -> list[Finding]:
    """Check that the clocks of ledger and machine agree, and that no clock was set back."""
    stored = await ledger_checks.stored_jobs()
    if not stored:
        return []
    async with open_ledger() as ledger:
        now = ledger.now()
        found = findings.clock("ledger clock", "the ledger's", ledger.skew())
    if ahead := [each for each in stored if each.row.audited_until > now + overdue.MAX_CLOCK_SKEW]:
        latest = max(each.row.audited_until for each in ahead)
        until = time_with_zone(latest, settings.load().timezone)
        message = (
            "a clock ran ahead and was set back; due times of these jobs are already audited "
            f"up to {until}: {first_names([each.row.name for each in ahead])}"
        )
        fix = (
            "wait, because no due time of these jobs runs until then; or run daybook remove for "
            "each job, and add it again"
        )
        found.append(problem("ledger clock", message, fix))
    return found


def outcomes() -> list[Finding]:
    """Check that no outcome stays in the spool for long, and that none has been set aside."""
    problems, now = [], SYSTEM_CLOCK.now().timestamp()
    stuck = [
        each
        for each in outcome_spool.pending_files()
        if now - each.stat().st_mtime > SPOOL_GRACE_SECONDS
    ]
    if stuck:
        count = "one outcome" if len(stuck) == 1 else f"{len(stuck)} outcomes"
        message = f"not recorded in the ledger yet: {count} in {outcome_spool.folder()}"
        fix = "run daybook keeper for a minute; if they remain, they belong to another ledger"
        problems.append(problem("outcomes", message, fix))
    for each in outcome_spool.set_aside_files():
        retry = f"mv {shlex.quote(str(each))} {shlex.quote(str(each.with_suffix('.json')))}"
        message = f"{each} holds an outcome that could not be written to the ledger"
        problems.append(
            problem("outcomes", message, f"read it; {retry} to try again, or delete it")
        )
    return problems


async def keeper(client: PrefectClient) -> list[Finding]:
    """If a worker is online, check that a keeper leads and has recently observed Prefect."""
    if not await ledger_checks.stored_jobs():
        return []
    pool = await prefect.pool_state(client)
    async with open_ledger() as ledger:
        leader = await leader_lease.read(ledger, leader_lease.LEADERSHIP_NAME)
        leads = leader is not None and leader.leads(ledger.now())
        if not leads and await ledger.why_unwritable():
            return []  # `checks.ledger.ledger` reports the problem
        found = findings.keeper(DelayFacts(ledger.now(), pool=pool, leader=leader))
    return found or ([passed("keeper", leader.holder)] if leader and leads else [])


async def late(client: PrefectClient) -> list[Finding]:
    """Check that no run is overdue, and that none was recently missed for lack of a process."""
    if not await ledger_checks.stored_jobs():
        return []
    pool, ahead = await prefect.pool_state(client), await prefect.clock_ahead(client)
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            memory = run_overdue.DueTimeCache()
            overdue_runs = await run_overdue.find_all(session, memory, ledger.now())
        leader = await leader_lease.read(ledger, leader_lease.LEADERSHIP_NAME)
        known = DelayFacts(ledger.now(), "", pool, ahead, ledger.skew(), leader)
        overdue_runs = overdue.without_catch_up(overdue_runs, leader, known.now)
    found = findings.late([OverdueRun.of(each, known) for each in overdue_runs])
    return [each.model_copy(update={"fix": "daybook status"}) for each in found]


async def waiting(client: PrefectClient) -> list[Finding]:
    """Check that no run has waited long for a slot."""
    if not await ledger_checks.stored_jobs():
        return []
    pool = await prefect.pool_state(client)
    async with open_ledger() as ledger, ledger.read() as session:
        return findings.waiting(await history.live(session), ledger.now(), pool)


async def maintenance() -> list[Finding]:
    """Report the present or the next maintenance window, in which no job starts."""
    return findings.maintenance(await maintenance_api.list_windows())
