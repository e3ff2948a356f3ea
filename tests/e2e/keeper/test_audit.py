"""Audit after an hour of downtime, with a real Prefect and the runs that it had queued.

The test moves the ledger's clock an hour ahead. Then it claims Prefect's runs of that hour as a
worker claims late runs: before the audit, after it, or never.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from prefect.client.schemas.objects import FlowRun

from daybook.execution import claim
from daybook.execution.claim_effects import Effect, ShowEnd, Start, Worker
from daybook.jobs.store import StoredJob
from daybook.keeper import auditor
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.prefect import occurrence, scheduled_runs
from daybook.runs import claims
from tests.world.prefect_world import PrefectWorld

pytestmark = pytest.mark.e2e

TEN = timedelta(minutes=10)


async def queued(world: PrefectWorld, stored: StoredJob) -> list[FlowRun]:
    """Return the runs that Prefect has queued up to now, by the ledger's clock."""
    now = world.ledger.now()
    runs = await world.prefect.runs(stored)
    return [each for each in runs if each.expected_start_time and each.expected_start_time <= now]


async def offered(world: PrefectWorld, run: FlowRun) -> Sequence[Effect]:
    """Claim a late run as a worker does and, if that succeeds, finish it as its flow does."""
    found = await occurrence.build_claim_request(
        world.ledger,
        run,
        dict(run.parameters),
        holder="here:1",
        starts=1,
        started=False,
    )
    worker = Worker(str(run.id), has_retries=True)
    effects = await claim.decide(world.ledger, found, worker, deployment_id=str(run.deployment_id))
    for effect in effects:
        if isinstance(effect, Start):
            granted = effect.granted
            await claims.begin(world.ledger, granted.run_id, granted.fence)
            done = Outcome(Status.SUCCEEDED)
            await claims.finish(world.ledger, granted.run_id, granted.fence, done)
    return effects


async def audited(world: PrefectWorld, stored: StoredJob) -> auditor.AuditReport:
    return await auditor.audit(world.ledger, {stored.id: world.ledger.now()})


def apart(rows: Sequence[RunRow]) -> dict[datetime, str]:
    """Return the outcome of each due time, with ranges expanded."""
    found: dict[datetime, str] = {}
    for row in rows:
        for place in range(row.count):
            due = row.due + place * TEN
            assert due not in found
            found[due] = row.status
    return found


def expected(stored: StoredJob, now: datetime, catch_up: str) -> dict[datetime, str]:
    """Return the outcome that the catch-up policy demands for each of the six due times."""
    first = stored.job.schedule.anchor + TEN  # type: ignore[union-attr]
    dues = [first + place * TEN for place in range(6)]
    last = max(each for each in dues if each <= now)
    runs = {
        "none": set[datetime](),
        "latest": {last} if now - last <= TEN / 2 else set(),
        "all": set(dues),
    }[catch_up]
    return {each: "succeeded" if each in runs else "missed" for each in dues}


@pytest.mark.parametrize("first", ["claims", "audit"])
@pytest.mark.parametrize("catch_up", ["none", "latest", "all"])
async def test_after_an_hour_of_downtime_each_due_time_has_one_outcome(
    world: PrefectWorld, catch_up: str, first: str
) -> None:
    stored = await world.deploy(every="10m", catch_up=catch_up, overlap="allow")
    world.passes(minutes=63)
    late = await queued(world, stored)
    assert len(late) == 6  # Prefect queues an hour ahead
    lost = late.pop(2)  # as if a person had deleted it
    await world.prefect.ui.delete_flow_run(lost.id)
    due = expected(stored, world.ledger.now(), catch_up)

    if first == "claims":
        for run in late:
            (effect,) = await offered(world, run)
            assert isinstance(effect, Start | ShowEnd)
        await audited(world, stored)
    else:
        await audited(world, stored)
    # Claim queued runs, and those that ensure creates, until no row waits.
    for _ in range(len(due)):
        await scheduled_runs.ensure_all(world.ledger, world.client)
        for run in await queued(world, stored):
            await offered(world, run)
        if not any(row.status == "waiting" for row in await world.runs.rows()):
            break

    assert apart(await world.runs.rows()) == due
    assert not await audited(world, stored)
    rows = await world.runs.rows()
    assert [row.attempts for row in rows if row.status == "succeeded"] == [1] * sum(
        status == "succeeded" for status in due.values()
    )
