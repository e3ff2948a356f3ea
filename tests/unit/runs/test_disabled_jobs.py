"""Waiting runs of disabled and snoozed jobs: the keeper skips them at once, and only them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from daybook.jobs.store import StoredJob
from daybook.ledger import waits
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import JobRow, RunRow
from daybook.runs import backfill, claim_requests, claims, disabled_jobs, outcomes, rows
from daybook.runs.claim_requests import Finished, Granted
from tests.world import World

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


async def _queued(world: World, stored: StoredJob, count: int) -> list[str]:
    """Add due times of the job that wait for a slot."""
    now = world.clock.now()
    made = []
    for number in range(count):
        due = now - timedelta(hours=number)
        row = rows.of_job(stored, claim_requests.due_key(stored.id, due), "schedule", due, now)
        rows.wait(row, now + HOUR, "4 of 4 runs are active", waits.SLOT)
        made.append(row)
    async with world.ledger.write() as session:
        session.add_all(made)
    return [row.id for row in made]


@pytest.mark.floor("C", "A paused job that waits for a slot does not run")
async def test_all_due_times_of_a_disabled_job_that_wait_for_a_slot_are_skipped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disabled_jobs, "BATCH_SIZE", 3)
    off, on = await world.jobs.add("off"), await world.jobs.add("on")
    skipped, kept = await _queued(world, off, 7), await _queued(world, on, 1)
    assert await disabled_jobs.skip_all(world.ledger) == 0
    await world.jobs.edit(off.id, enabled=False, reason="enough")

    assert await disabled_jobs.skip_all(world.ledger, max_batches=1) == 3
    assert await disabled_jobs.skip_all(world.ledger) == 4

    for run_id in skipped:
        row = await world.runs.row(run_id)
        assert (row.status, row.reason) == ("skipped", "the job is disabled: enough")
        assert row.finished_at == world.clock.now()
    assert (await world.runs.row(kept[0])).status == "waiting"


async def test_a_run_started_by_hand_and_a_held_one_of_a_disabled_job_are_left(
    world: World,
) -> None:
    stored = await world.jobs.add(every="1h", overlap="allow", session="new")
    held = await world.runs.running(stored)
    by_hand = await claims.request(world.ledger, stored, "1", "manual")
    await world.jobs.edit(stored.id, enabled=False)

    assert await disabled_jobs.skip_all(world.ledger) == 0
    assert isinstance(await world.runs.claim(by_hand), Granted)
    assert await world.runs.finish(held, Status.SUCCEEDED) is Status.SUCCEEDED


async def test_a_run_that_waits_for_its_next_attempt_is_skipped_only_then(world: World) -> None:
    stored = await world.jobs.add(every="1h", retries=3)
    granted = await world.runs.running(stored)
    until = world.clock.now() + HOUR
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, granted.run_id, granted.fence, failed, until)
    await world.jobs.edit(stored.id, enabled=False)
    assert await disabled_jobs.skip_all(world.ledger) == 0

    world.clock.set(until)

    assert await disabled_jobs.skip_all(world.ledger) == 1
    row = await world.runs.row(granted.run_id)
    assert (row.status, row.reason) == ("skipped", "the job is disabled")


async def test_a_backfill_of_a_disabled_job_is_skipped_and_that_of_a_snoozed_one_is_not(
    world: World,
) -> None:
    off, snoozed = await world.jobs.add("off"), await world.jobs.add("snoozed")
    past = [world.clock.now().replace(minute=0, second=0, microsecond=0) - HOUR]
    for each in (off, snoozed):
        await backfill.request_runs(world.ledger, each, past)
    (due,) = await _queued(world, snoozed, 1)
    await world.jobs.edit(off.id, enabled=False)
    async with world.ledger.write() as session:
        row = await session.get(JobRow, snoozed.id)
        assert row is not None
        row.snoozed_until = world.clock.now() + SECOND
        session.add(row)

    assert await disabled_jobs.skip_all(world.ledger) == 2

    assert [each.status for each in await world.runs.rows(off)] == ["skipped"]
    assert {each.trigger: each.status for each in await world.runs.rows(snoozed)} == {
        "schedule": "skipped",
        "backfill": "waiting",
    }
    assert (await world.runs.row(due)).reason.startswith("snoozed until ")


async def test_backfills_of_a_snoozed_job_do_not_hide_the_runs_of_a_disabled_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disabled_jobs, "BATCH_SIZE", 2)
    off, snoozed = await world.jobs.add("off"), await world.jobs.add("snoozed")
    hour = world.clock.now().replace(minute=0, second=0, microsecond=0)
    await backfill.request_runs(world.ledger, snoozed, [hour - n * HOUR for n in range(1, 4)])
    world.clock.move(SECOND)
    await _queued(world, off, 1)
    await world.jobs.edit(off.id, enabled=False)
    async with world.ledger.write() as session:
        row = await session.get(JobRow, snoozed.id)
        assert row is not None
        row.snoozed_until = world.clock.now() + HOUR

    assert await disabled_jobs.skip_all(world.ledger) == 1
    async with world.ledger.write():  # nothing is left, so no lock is taken
        assert await disabled_jobs.skip_all(world.ledger) == 0


async def test_a_run_that_cannot_be_skipped_does_not_block_the_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = await world.jobs.add()
    broken, *others = await _queued(world, stored, 3)
    await world.jobs.edit(stored.id, enabled=False)
    record = outcomes.record

    async def refuse(session: Any, row: RunRow, *more: Any) -> None:
        if row.id == broken:
            raise OperationalError("update", {}, Exception("broken"))
        await record(session, row, *more)

    monkeypatch.setattr(outcomes, "record", refuse)

    assert await disabled_jobs.skip_all(world.ledger) == 2
    assert (await world.runs.row(broken)).status == "waiting"
    assert {(await world.runs.row(each)).status for each in others} == {"skipped"}


async def test_without_such_runs_no_lock_is_taken(world: World) -> None:
    stored = await world.jobs.add()
    await _queued(world, stored, 1)
    async with world.ledger.write():
        assert await disabled_jobs.skip_all(world.ledger) == 0


async def test_the_claim_of_a_skipped_run_gets_the_outcome(world: World) -> None:
    stored = await world.jobs.add()
    (run_id,) = await _queued(world, stored, 1)
    await world.jobs.edit(stored.id, enabled=False)
    await disabled_jobs.skip_all(world.ledger)
    row = await world.runs.row(run_id)
    request = world.runs.claim_request(stored, due=row.due)
    answer = await world.runs.claim(request)
    assert isinstance(answer, Finished)
    assert (answer.status, answer.reason) == (Status.SKIPPED, "the job is disabled")
