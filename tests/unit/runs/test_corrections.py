"""Due times with a row created in advance: when and by which revision they run (promise.md 14)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from daybook.jobs import store, upcoming
from daybook.jobs.model import edit
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.runs import audit, claims, corrections, leases, prefect_ends
from daybook.runs.claim_requests import Finished, Granted, Waiting
from daybook.runs.prefect_ends import EndInPrefect
from tests.world import World

pytestmark = pytest.mark.anyio

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


async def advance(world: World, stored: StoredJob) -> audit.AuditResult:
    done = await audit.advance(world.ledger, stored.id, world.clock.now())
    assert done is not None
    return done


async def test_a_corrected_due_time_is_claimed_when_due_and_missed_when_late(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *", catch_up="none")
    dues = [NOON + HOUR, NOON + 2 * HOUR]
    assert (
        await corrections.add_waiting_runs(
            world.ledger, stored.id, 1, dues, "a change of the clocks"
        )
        == 2
    )
    assert (
        await corrections.add_waiting_runs(
            world.ledger, stored.id, 1, dues, "a change of the clocks"
        )
        == 0
    )
    first, second = await world.runs.rows()

    assert isinstance(await world.runs.claim(first), Waiting)
    granted = await world.runs.claimed(first)
    assert (granted.due, granted.trigger) == (dues[0], "schedule")

    world.clock.set(dues[1] + 2 * MINUTE)
    late = await world.runs.claim(second)
    assert isinstance(late, Finished)
    assert late.status is Status.MISSED


async def test_the_audit_decides_a_corrected_due_time_that_no_worker_claimed(world: World) -> None:
    none = await world.jobs.add("none", cron="0 * * * *", catch_up="none")
    latest = await world.jobs.add("latest", cron="0 * * * *", catch_up="latest")
    for stored in (none, latest):
        await corrections.add_waiting_runs(
            world.ledger, stored.id, 1, [NOON + HOUR], "a change of the clocks"
        )
    world.clock.set(NOON + HOUR + 2 * MINUTE)

    assert (await advance(world, none)).missed == 1
    assert (await advance(world, latest)).waiting == 1

    by_job = {
        row.job_id: (row.status, row.trigger, row.waits_for) for row in await world.runs.rows()
    }
    assert by_job == {none.id: ("missed", "schedule", ""), latest.id: ("waiting", "catch_up", "")}


async def test_the_audit_decides_a_corrected_due_time_whose_run_prefect_refused(
    world: World,
) -> None:
    stored = await world.jobs.add(cron="0 * * * *", catch_up="none")
    await corrections.add_waiting_runs(world.ledger, stored.id, 1, [NOON + HOUR], "a change")
    (row,) = await world.runs.rows()
    await prefect_ends.record_refusal(world.ledger, row, "422 parameters")
    world.clock.set(NOON + 4 * HOUR)

    await advance(world, stored)

    (row,) = await world.runs.rows()
    assert (row.status, row.count) == ("missed", 3)


async def test_a_corrected_due_time_that_an_edit_removed_is_skipped(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *")
    await corrections.add_waiting_runs(
        world.ledger, stored.id, 1, [NOON + HOUR], "a change of the clocks"
    )
    (row,) = await world.runs.rows()
    await world.jobs.edit(stored.id, cron="30 * * * *")
    assert (
        await corrections.add_waiting_runs(
            world.ledger, stored.id, 1, [NOON + 2 * HOUR], "by the old"
        )
        == 0
    )
    world.clock.set(NOON + HOUR)

    answer = await world.runs.claim(row)

    assert isinstance(answer, Finished)
    assert (answer.status, answer.reason) == (Status.SKIPPED, "no longer due")


async def _corrected(world: World, how: str, **fields: str) -> tuple[StoredJob, RunRow]:
    """Add a job with a row for its due time in an hour, then edit the job; return both."""
    stored = await world.jobs.add(cron="0 * * * *", prompt="The old", deadline="30s", **fields)
    if how == "crashed":
        crashed = EndInPrefect(
            "f", "CRASHED", "Crashed", "", world.runs.claim_request(stored, flow_run_id="f")
        )
        assert await prefect_ends.apply_end(world.ledger, crashed) is Status.WAITING
    else:
        await corrections.add_waiting_runs(
            world.ledger, stored.id, 1, [NOON + HOUR], "a change of the clocks"
        )
    world.clock.move(MINUTE)
    edited = await world.jobs.edit(stored.id, prompt="The new", agent="other", deadline="")
    (row,) = await world.runs.rows()
    return edited, row


@pytest.mark.parametrize("how", ["asked", "crashed"])
@pytest.mark.parametrize("late", [0, 40])
async def test_a_row_created_in_advance_runs_with_the_revision_in_force_when_due(
    world: World, how: str, late: int
) -> None:
    edited, row = await _corrected(world, how)
    world.clock.set(NOON + HOUR + late * SECOND)
    await leases.expire_all(world.ledger)  # the deadline of the old revision no longer applies

    granted = await world.runs.claimed(row)

    assert granted.parameters == edited.job.parameters()
    assert granted.parameters["prompt"] == "The new"
    assert (granted.due, granted.queued_at) == (NOON + HOUR, NOON + HOUR)
    row = await world.runs.row(granted.run_id)
    assert (row.revision, row.agent, row.parameters) == (2, "other", granted.parameters)


@pytest.mark.parametrize("how", ["asked", "crashed"])
@pytest.mark.parametrize(("catch_up", "status"), [("none", "missed"), ("latest", "waiting")])
async def test_the_audit_uses_the_revision_in_force_when_due_for_a_row_made_in_advance(
    world: World, how: str, catch_up: str, status: str
) -> None:
    edited, row = await _corrected(world, how, catch_up=catch_up)
    world.clock.set(NOON + HOUR + 2 * MINUTE)
    await world.jobs.edit(edited.id, prompt="Later than that")

    await advance(world, edited)

    (row,) = await world.runs.rows()
    assert (row.status, row.revision, row.agent) == (status, 2, "other")
    assert row.parameters == edited.job.parameters()


async def test_a_row_created_in_advance_uses_the_stagger_in_force_when_due(world: World) -> None:
    for name in ("a", "b", "c", "d", "e", "f"):
        stored = await world.jobs.add(name, cron="0 * * * *", stagger="30m", catch_up="none")
        if upcoming.stagger_offset(stored.id, timedelta(minutes=30)) > 2 * MINUTE:
            break
    await corrections.add_waiting_runs(
        world.ledger, stored.id, 1, [NOON + HOUR], "a change of the clocks"
    )
    (row,) = await world.runs.rows()
    world.clock.move(MINUTE)
    await world.jobs.edit(stored.id, stagger="")
    world.clock.set(NOON + HOUR)

    assert isinstance(await world.runs.claim(row), Granted)


async def test_a_run_that_began_keeps_its_parameters_in_its_next_attempt(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *", prompt="The old")
    claim_request = world.runs.claim_request(stored)
    granted = await world.runs.running(claim_request)
    broke = Outcome(Status.FAILED, error="it broke")
    until = world.clock.now() + MINUTE
    await claims.retry(world.ledger, granted.run_id, granted.fence, broke, until)
    await _known_late(world, stored, prompt="The new")
    world.clock.set(until)

    assert (await world.runs.claimed(claim_request)).parameters["prompt"] == "The old"


async def _known_late(world: World, stored: StoredJob, **changes: str) -> None:
    """Store an edit made in Prefect a minute after the job's creation, known only now."""
    async with world.ledger.write() as session:
        now, at = world.clock.now(), stored.row.created_at + MINUTE
        job = edit(stored.job, changes, now=now)
        await store.change(session, stored, job, now, edited=at, source="prefect")


async def test_a_waiting_run_uses_an_edit_made_in_prefect_before_its_due_time(world: World) -> None:
    # The run waits for a slot that another run uses when the ledger learns of the edit.
    stored = await world.jobs.add(cron="0 * * * *", prompt="The old")
    other = await world.runs.running(await world.jobs.add("other"))
    claim_request = world.runs.claim_request(stored, due=other.due, most=1)
    assert isinstance(await world.runs.claim(claim_request), Waiting)
    await _known_late(world, stored, prompt="The new")
    await world.runs.finish(other, Status.SUCCEEDED)

    assert (await world.runs.claimed(claim_request)).parameters["prompt"] == "The new"
