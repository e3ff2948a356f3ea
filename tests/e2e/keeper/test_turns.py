"""Order of the keeper's services, and which of them wait for which."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial

import pytest
from prefect.states import Cancelled, Pending, Running

from daybook.execution import outcome_spool
from daybook.execution.outcome_spool import SpooledOutcome
from daybook.jobs import store
from daybook.keeper import auditor, lease_reaper, services
from daybook.keeper.cost import CpuBudget
from daybook.keeper.keeper import Keeper
from daybook.keeper.leadership import leader_client
from daybook.ledger.states import Outcome, Status
from daybook.timing import TIMING
from tests.timings import change
from tests.waiting import becomes_true
from tests.world.prefect_world import PrefectWorld

pytestmark = pytest.mark.e2e

LOST = TIMING.run_lease + timedelta(seconds=1)


@asynccontextmanager
async def leading(world: PrefectWorld) -> AsyncIterator[Keeper]:
    """Yield a keeper that leads, but runs none of its loops."""
    keeper = Keeper(world.ledger, "here:1:a")
    keeping = asyncio.create_task(keeper.leadership.keep())
    await keeper.leadership.wait_until_leading()
    yield keeper
    keeping.cancel()
    await asyncio.wait({keeping})


async def test_spooled_outcomes_are_recorded_before_leases_are_declared_lost(
    world: PrefectWorld,
) -> None:
    row, run = await world.waiting_run(await world.deploy(), Pending(), Running())
    granted = await world.runs.running(row)
    world.passes(seconds=LOST.total_seconds())
    await lease_reaper.expire(world.ledger, world.client)  # suspected, and not yet declared lost
    world.passes(seconds=LOST.total_seconds())
    done = Outcome(Status.SUCCEEDED)
    outcome_spool.put(SpooledOutcome(world.ledger.id, row.id, granted.fence, done))

    async with leading(world) as keeper, leader_client(keeper.leadership) as client:
        cycles = services.RUNS.start(keeper.context(client), await keeper.leading())
        await keeper.cycle(services.RUNS, cycles)

    assert (await world.runs.row(row.id)).status == "succeeded"
    names = [each.name for each in await world.prefect.ui.read_flow_run_states(run.id)]
    assert "Unknown" not in names


async def test_the_audit_does_not_wait_for_the_cpu_budget_of_other_services(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, services, jobs_interval=0.5, min_pass_interval=0.1)
    monkeypatch.setattr("daybook.keeper.keeper.CpuBudget", partial(CpuBudget, 1e-6, 0.0))
    keeper = Keeper(world.ledger, "here:1:a")
    keeping = asyncio.create_task(keeper.run())
    looks, audits = set[datetime](), set[datetime]()

    async def audited() -> bool:
        looks.update(
            cost.at for name, cost in keeper.costs.items() if name == "observe" and cost.at
        )
        audits.update(cost.at for name, cost in keeper.costs.items() if name == "audit" and cost.at)
        # The CPU budget delays the next pass over the jobs by minutes.
        return len(looks) == 2 and sum(at > max(looks) for at in audits) >= 3

    assert await becomes_true(audited, 30.0)
    keeping.cancel()
    await asyncio.wait({keeping})


async def test_the_audit_records_no_due_time_before_the_ends_in_prefect_are_read(
    world: PrefectWorld,
) -> None:
    stored = await world.deploy(every="1h", catch_up="all")
    run = (await world.prefect.runs(stored))[0]
    await world.prefect.set(run, Cancelled())
    assert run.expected_start_time is not None
    world.passes(hours=1, minutes=5)

    async with leading(world) as keeper, leader_client(keeper.leadership) as client:
        context, term = keeper.context(client), await keeper.leading()
        await keeper.cycle(services.JOBS, services.JOBS.start(context, term))
        assert term.imports.observed.keys() == {stored.id}
        assert not await auditor.audit(world.ledger, term.imports.known())
        await keeper.cycle(services.ENDS, services.ENDS.start(context, term))
        await auditor.audit(world.ledger, term.imports.known())

    (row,) = [each for each in await world.runs.rows() if each.flow_run_id == str(run.id)]
    assert row.status == "cancelled"
    assert abs(row.due - run.expected_start_time) < timedelta(seconds=1)


@pytest.mark.slow
async def test_a_disabled_job_that_is_removed_is_audited_up_to_its_removal(
    world: PrefectWorld,
) -> None:
    stored, memory = await world.deploy(every="1h", enabled=False), auditor.AuditorState()
    world.passes(minutes=5)
    await auditor.audit(world.ledger, {stored.id: world.ledger.now()}, memory=memory)
    world.passes(minutes=5)
    await world.jobs.archive(stored)
    world.passes(minutes=5)

    await auditor.audit(world.ledger, {}, memory=memory)

    async with world.ledger.read() as session:
        row = (await store.find(session, stored.id, archived=True)).row
    assert row.audited_until == row.archived_at
