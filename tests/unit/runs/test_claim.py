"""Claims: due times, revisions, disabled jobs, lateness and overlap (`docs/promise.md` 1, 9)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from daybook.ledger.states import Outcome, Status
from daybook.runs import claim_requests, claims, leases
from daybook.runs.claim_requests import Finished, Granted, HeldElsewhere, NeedsReconcile, Waiting
from daybook.testing import ManualClock
from daybook.timing import TIMING
from tests.world import World

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)


@pytest.mark.dialect
async def test_a_claim_at_the_due_time_succeeds_with_the_jobs_parameters(world: World) -> None:
    stored = await world.jobs.add(prompt="What is new?", cron="0 * * * *")
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due)

    answer = await world.runs.claim(claim_request)

    assert isinstance(answer, Granted)
    assert (answer.fence, answer.due, answer.trigger) == (1, claim_request.due, "schedule")
    assert answer.parameters["prompt"] == "What is new?"
    row = await world.runs.row(answer.run_id)
    assert (row.status, row.holder, row.revision, row.attempts) == ("claimed", "here:1", 1, 0)
    assert (row.started_at, row.agent, row.flow_run_id) == (
        None,
        "default",
        claim_request.flow_run_id,
    )


async def test_a_claim_reads_the_facts_and_the_job_with_one_query_each(world: World) -> None:
    """A claim holds the lock of all claims, and on a busy machine each of its queries waits."""
    claim_request = world.runs.claim_request(await world.jobs.add())
    world.clock.set(claim_request.due)
    queries = list[str]()

    def note(connection: Any, cursor: Any, statement: str, *given: Any) -> None:
        if any(f"WHERE {table}." in statement for table in ("facts", "jobs", "revisions")):
            queries.append(statement)

    event.listen(world.ledger._engine.sync_engine, "before_cursor_execute", note)
    assert isinstance(await world.runs.claim(replace(claim_request, worker="a")), Granted)
    assert len(queries) == 2, queries


async def test_a_claim_before_the_due_time_waits_without_a_row(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    world.clock.set(claim_request.due - MICROSECOND)

    assert await world.runs.claim(claim_request) == Waiting(claim_request.due, "not due yet")
    assert await world.runs.rows() == []


async def test_a_second_claim_of_a_held_run_names_its_holder(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    granted = await world.runs.claimed(claim_request)

    other = await world.runs.claim(replace(claim_request, holder="there:2", flow_run_id="another"))

    assert other == HeldElsewhere(granted.run_id, "here:1", claim_request.flow_run_id)


async def test_a_claim_of_a_finished_run_returns_its_outcome(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    granted = await world.runs.finished(claim_request, Status.FAILED, reason="no")

    other = await world.runs.claim(replace(claim_request, flow_run_id="another"))

    assert other == Finished(Status.FAILED, "no", granted.run_id, claim_request.flow_run_id)
    assert len(await world.runs.rows()) == 1


@pytest.mark.parametrize("instant", ["not by the schedule", "before the job was made"])
async def test_an_instant_that_is_not_due_is_reconciled_then_skipped_without_a_row(
    world: World, instant: str
) -> None:
    stored = await world.jobs.add()
    wrong = world.clock.now().replace(microsecond=0)
    if instant == "not by the schedule":
        wrong += timedelta(minutes=5)
        world.clock.set(wrong)
    claim_request = world.runs.claim_request(stored, due=wrong)

    assert await world.runs.claim(claim_request) == NeedsReconcile(stored.id)
    ended = await world.runs.claim(replace(claim_request, compared=True))

    assert ended == Finished(Status.SKIPPED, "not due")
    assert await world.runs.rows() == []


async def test_a_claim_with_other_parameters_is_reconciled_then_uses_the_revision(
    world: World,
) -> None:
    stored = await world.jobs.add(prompt="Ours", cron="0 * * * *")
    claim_request = world.runs.claim_request(
        stored, parameters=stored.job.parameters() | {"prompt": "Theirs"}
    )
    world.clock.set(claim_request.due)

    assert await world.runs.claim(claim_request) == NeedsReconcile(stored.id)
    assert await world.runs.rows() == []
    answer = await world.runs.claim(replace(claim_request, compared=True))

    assert isinstance(answer, Granted)
    assert answer.parameters["prompt"] == "Ours"


@pytest.mark.parametrize(
    ("edited", "prompt"),
    [(-SECOND, "New"), (-MICROSECOND, "New"), (0 * SECOND, "New"), (MICROSECOND, "Old")],
)
async def test_a_run_uses_the_revision_in_force_at_its_due_time(
    world: World, edited: timedelta, prompt: str
) -> None:
    stored = await world.jobs.add(prompt="Old", cron="0 * * * *")
    claim_request = world.runs.claim_request(stored, compared=True)
    world.clock.set(claim_request.due + edited)
    await world.jobs.edit(stored.id, prompt="New")
    world.clock.set(claim_request.due + SECOND)

    answer = await world.runs.claim(claim_request)

    assert isinstance(answer, Granted)
    assert answer.parameters["prompt"] == prompt
    assert (await world.runs.row(answer.run_id)).revision == (2 if prompt == "New" else 1)


async def test_a_schedule_changed_exactly_at_the_due_time_decides_whether_it_is_due(
    world: World,
) -> None:
    stored = await world.jobs.add()
    claim_request = world.runs.claim_request(stored, compared=True)
    world.clock.set(claim_request.due)
    await world.jobs.edit(stored.id, cron="30 * * * *")

    assert await world.runs.claim(claim_request) == Finished(Status.SKIPPED, "not due")


@pytest.mark.dialect
async def test_two_edits_in_one_microsecond_make_two_ordered_revisions(world: World) -> None:
    stored = await world.jobs.add(prompt="First", cron="0 * * * *")
    second = await world.jobs.edit(stored.id, prompt="Second")
    world.clock.move(-timedelta(hours=1))  # a clock that was set back does not matter
    third = await world.jobs.edit(stored.id, prompt="Third")

    times = [each.revision.effective_from for each in (stored, second, third)]
    assert times == sorted(set(times))
    assert [each.revision.number for each in (stored, second, third)] == [1, 2, 3]
    versions = [second.row.updated_at, third.row.updated_at]
    assert versions == sorted(set(versions))


async def test_an_edit_that_changes_nothing_makes_no_revision(world: World) -> None:
    stored = await world.jobs.add()
    world.clock.move(SECOND)

    again = await world.jobs.edit(stored.id, prompt="What is new?")

    assert (again.revision.number, again.row.updated_at) == (1, stored.row.updated_at)


async def test_a_new_description_makes_no_revision(world: World) -> None:
    stored = await world.jobs.add()
    world.clock.move(SECOND)

    described = await world.jobs.edit(stored.id, description="Every hour")

    assert described.revision.number == 1
    assert described.row.updated_at > stored.row.updated_at


@pytest.mark.floor("B", "A job disabled before its run begins does not run")
async def test_a_run_of_a_job_disabled_after_its_due_time_is_skipped_at_claim(world: World) -> None:
    stored = await world.jobs.add()
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due + SECOND)
    await world.jobs.edit(stored.id, enabled=False)

    answer = await world.runs.claim(claim_request)

    assert isinstance(answer, Finished)
    assert (answer.status, answer.reason) == (Status.SKIPPED, "the job is disabled")


@pytest.mark.floor("B", "A disabled job does not run at its due times")
async def test_an_instant_at_which_the_job_was_disabled_is_not_due(world: World) -> None:
    stored = await world.jobs.add()
    claim_request = world.runs.claim_request(stored, compared=True)
    await world.jobs.edit(stored.id, enabled=False)
    world.clock.set(claim_request.due + SECOND)
    await world.jobs.edit(stored.id, enabled=True)

    assert await world.runs.claim(claim_request) == Finished(Status.SKIPPED, "not due")


async def test_a_run_of_a_job_removed_before_its_claim_is_skipped(world: World) -> None:
    stored = await world.jobs.add()
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due + SECOND)
    await world.jobs.archive(stored.id)

    answer = await world.runs.claim(claim_request)

    assert isinstance(answer, Finished)
    assert (answer.status, answer.reason) == (Status.SKIPPED, "the job was removed")


async def test_a_requested_run_of_a_removed_job_is_skipped(world: World) -> None:
    stored = await world.jobs.add()
    row = await claims.request(world.ledger, stored, "1", "manual")
    await world.jobs.archive(stored.id)

    answer = await world.runs.claim(row)

    assert isinstance(answer, Finished)
    assert (answer.status, answer.reason) == (Status.SKIPPED, "the job was removed")


async def test_a_custom_run_created_in_prefect_for_a_removed_job_is_skipped(world: World) -> None:
    stored = await world.jobs.add()
    await world.jobs.archive(stored.id)
    custom = world.runs.claim_request(
        stored,
        occurrence=claim_requests.flow_key("f"),
        flow_run_id="f",
        trigger="manual",
        due=world.clock.now(),
    )

    answer = await world.runs.claim(custom)

    assert isinstance(answer, Finished)
    assert (answer.status, answer.reason) == (Status.SKIPPED, "the job was removed")
    assert answer.flow_run_id == "f"


@pytest.mark.floor("B", "TriggerJob works on a disabled job")
@pytest.mark.floor("B", "TriggerJob leaves a disabled job disabled")
async def test_a_manual_run_of_a_disabled_job_is_claimed_and_leaves_it_disabled(
    world: World,
) -> None:
    stored = await world.jobs.add()
    off = await world.jobs.edit(stored.id, enabled=False)
    row = await claims.request(world.ledger, off, "1", "manual")

    await world.runs.finished(row, Status.SUCCEEDED)

    assert not (await world.jobs.get(stored.id)).job.enabled


@pytest.mark.parametrize(
    ("late", "runs"),
    [
        (timedelta(seconds=60), True),
        (timedelta(minutes=30), True),
        (timedelta(minutes=30, microseconds=1), False),
        (timedelta(minutes=59), False),
    ],
)
async def test_an_hourly_run_may_be_half_an_hour_late(
    world: World, late: timedelta, runs: bool
) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    world.clock.set(claim_request.due + late)

    answer = await world.runs.claim(claim_request)

    assert isinstance(answer, Granted) is runs
    (row,) = await world.runs.rows()
    assert row.status == ("claimed" if runs else "missed")
    assert ("late" in row.reason) is not runs
    assert (row.finished_at is None) is runs


async def test_a_late_run_is_missed_if_a_later_due_time_has_passed(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add(every="1m"))
    world.clock.set(claim_request.due + timedelta(seconds=61))

    answer = await world.runs.claim(claim_request)

    assert isinstance(answer, Finished)
    assert answer.status is Status.MISSED
    assert "a later due time has passed" in answer.reason


async def test_a_waiting_run_never_becomes_late(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    granted = await world.runs.claimed(claim_request)
    await world.runs.lose()
    world.clock.move(timedelta(hours=5))  # the window has long passed

    again = await world.runs.claim(replace(claim_request, flow_run_id="another"))

    assert isinstance(again, Granted)
    assert (again.run_id, again.fence) == (granted.run_id, 3)


@pytest.mark.parametrize("started", [False, True])
async def test_an_overlapping_run_is_skipped_and_names_the_active_run(
    world: World, started: bool
) -> None:
    stored = await world.jobs.add(every="1m")
    first = world.runs.claim_request(stored)
    running = await (world.runs.running(first) if started else world.runs.claimed(first))
    second = world.runs.claim_request(stored)
    world.clock.set(second.due - timedelta(seconds=5))
    assert await leases.renew(world.ledger, running.run_id, running.fence)
    world.clock.set(second.due)

    answer = await world.runs.claim(second)

    assert isinstance(answer, Finished)
    assert answer.status is Status.SKIPPED
    assert answer.reason.startswith(f"overlap: run {running.run_id[:8]} of {first.due:%F %T} UTC")


async def test_a_run_does_not_overlap_with_finished_waiting_or_lost_runs(world: World) -> None:
    stored = await world.jobs.add(every="10m")
    await world.runs.finished(stored, Status.FAILED)
    await claims.request(world.ledger, stored, "1", "manual")  # waits
    lost = await world.runs.running(stored)
    await world.runs.lose()

    await world.runs.claimed(stored)

    statuses = [row.status for row in await world.runs.rows()]
    assert sorted(statuses) == ["claimed", "failed", "unknown", "waiting"]
    assert (await world.runs.row(lost.run_id)).status == "unknown"


async def test_runs_of_different_jobs_do_not_overlap(world: World) -> None:
    one, two = await world.jobs.add("one"), await world.jobs.add("two")
    await world.runs.running(one)

    assert isinstance(
        await world.runs.claimed(world.runs.claim_request(two, due=world.clock.now())), Granted
    )


@pytest.mark.floor("A", "A one-time job fires once")
@pytest.mark.floor("E", "A one-time job is disabled after it has run")
@pytest.mark.floor("E", "A one-time job that failed stays, with its error")
async def test_a_one_time_job_is_disabled_after_its_run(world: World) -> None:
    at = world.clock.now().replace(microsecond=0) + timedelta(minutes=5)
    stored = await world.jobs.add(at=at.isoformat())
    claim_request = world.runs.claim_request(stored)

    await world.runs.finished(claim_request, Status.FAILED, error="no such program")

    after = await world.jobs.get(stored.id)
    assert not after.job.enabled
    assert after.row.disabled_reason == "fired, failed"
    assert after.row.last_error == "no such program"
    assert after.row.sync_pending
    again = await world.runs.claim(replace(claim_request, flow_run_id="another"))
    assert isinstance(again, Finished)


@pytest.mark.parametrize(
    ("late", "status"), [(timedelta(hours=24), None), (timedelta(hours=24, seconds=1), "missed")]
)
async def test_a_one_time_job_may_be_a_day_late(
    world: World, late: timedelta, status: str | None
) -> None:
    at = world.clock.now().replace(microsecond=0) + timedelta(minutes=5)
    stored = await world.jobs.add(at=at.isoformat())
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due + late)

    answer = await world.runs.claim(claim_request)

    after = await world.jobs.get(stored.id)
    if status is None:
        assert isinstance(answer, Granted)
        assert after.job.enabled
    else:
        assert isinstance(answer, Finished)
        assert answer.status == status
        assert not after.job.enabled


async def test_a_one_time_job_rescheduled_during_its_run_stays_enabled(world: World) -> None:
    at = world.clock.now().replace(microsecond=0) + timedelta(minutes=5)
    stored = await world.jobs.add(at=at.isoformat())
    granted = await world.runs.running(stored)
    later = at + timedelta(days=1)
    await world.jobs.edit(stored.id, at=later.isoformat())

    await world.runs.finish(granted, Status.SUCCEEDED)

    after = await world.jobs.get(stored.id)
    assert after.job.enabled
    assert isinstance(await world.runs.claimed(world.runs.claim_request(after, due=later)), Granted)


async def test_a_manual_run_of_a_one_time_job_leaves_it_enabled(world: World) -> None:
    at = world.clock.now().replace(microsecond=0) + timedelta(minutes=5)
    stored = await world.jobs.add(at=at.isoformat())
    row = await claims.request(world.ledger, stored, "1", "manual")
    await world.runs.finished(row, Status.SUCCEEDED)

    assert (await world.jobs.get(stored.id)).job.enabled


@pytest.mark.floor("B", "The end of a run does not undo a disable or an edit made meanwhile")
@pytest.mark.floor("C", "The end of a run does not undo a disable or an edit made meanwhile")
async def test_the_outcome_of_a_run_does_not_undo_an_edit_of_its_job(world: World) -> None:
    stored = await world.jobs.add(prompt="Old", cron="0 * * * *")
    granted = await world.runs.running(stored)
    await world.jobs.edit(stored.id, prompt="New", enabled=False)

    await world.runs.finish(granted, Status.SUCCEEDED)

    after = await world.jobs.get(stored.id)
    assert (after.job.parameters()["prompt"], after.job.enabled) == ("New", False)
    assert after.row.last_status == "succeeded"


@pytest.mark.dialect
async def test_the_same_request_twice_is_one_run(world: World) -> None:
    stored = await world.jobs.add()

    first = await claims.request(world.ledger, stored, "same", "api")
    world.clock.move(SECOND)
    second = await claims.request(world.ledger, stored, "same", "api")
    other = await claims.request(world.ledger, stored, "other", "api")

    assert first.id == second.id != other.id
    assert first.due == second.due
    assert len(await world.runs.rows()) == 2


async def test_a_requested_run_keeps_the_parameters_of_its_request(world: World) -> None:
    stored = await world.jobs.add(prompt="Then", cron="0 * * * *")
    row = await claims.request(world.ledger, stored, "1", "manual")
    world.clock.move(SECOND)
    await world.jobs.edit(stored.id, prompt="Now")

    granted = await world.runs.claimed(row)

    assert granted.parameters["prompt"] == "Then"


async def test_a_finished_request_is_not_run_again_by_a_second_prefect_run(world: World) -> None:
    row = await claims.request(world.ledger, await world.jobs.add(), "1", "manual")
    await claims.link_prefect_run(world.ledger, row, "first")
    await world.runs.finished(world.runs.claim_request(row, flow_run_id="first"), Status.SUCCEEDED)

    answer = await world.runs.claim(world.runs.claim_request(row, flow_run_id="second"))

    assert isinstance(answer, Finished)
    assert answer.status is Status.SUCCEEDED


async def test_link_prefect_run_counts_only_prefect_runs_of_a_waiting_row(world: World) -> None:
    row = await claims.request(world.ledger, await world.jobs.add(), "1", "manual")
    assert await claims.link_prefect_run(world.ledger, row, "first")
    assert await claims.link_prefect_run(world.ledger, await world.runs.row(row.id), "second")
    await world.runs.claimed(world.runs.claim_request(row, flow_run_id="second"))
    assert not await claims.link_prefect_run(world.ledger, await world.runs.row(row.id), "third")

    found = await world.runs.row(row.id)
    assert (found.prefect_runs, found.flow_run_id) == (2, "second")


@pytest.mark.dialect
async def test_a_prefect_run_that_is_linked_twice_counts_once(world: World) -> None:
    row = await claims.request(world.ledger, await world.jobs.add(), "1", "manual")
    assert await claims.link_prefect_run(world.ledger, row, "first")
    assert not await claims.link_prefect_run(world.ledger, row, "first")
    assert (await world.runs.row(row.id)).prefect_runs == 1

    # A late link does not replace the Prefect run that was linked after it.
    assert await claims.link_prefect_run(world.ledger, await world.runs.row(row.id), "second")
    assert not await claims.link_prefect_run(world.ledger, row, "first")
    found = await world.runs.row(row.id)
    assert (found.prefect_runs, found.flow_run_id) == (2, "second")


async def test_a_direct_call_without_a_job_is_claimed_and_finished(
    world: World, clock: ManualClock
) -> None:
    claim_request = claim_requests.ClaimRequest(
        claim_requests.flow_key("f"),
        "agent-prompt",
        "direct",
        clock.now(),
        "here:1",
        {"prompt": "Hi"},
    )

    granted = await world.runs.finished(replace(claim_request, flow_run_id="f"), Status.SUCCEEDED)

    assert granted.job is None
    assert (await world.runs.row(granted.run_id)).job_id is None


async def test_a_scheduled_run_without_a_job_is_claimed_however_late(
    world: World, clock: ManualClock
) -> None:
    # A run that Prefect schedules for a deployment without a job has a `flow:` key.
    claim_request = claim_requests.ClaimRequest(
        claim_requests.flow_key("f"),
        "agent-prompt",
        "schedule",
        clock.now(),
        "here:1",
        flow_run_id="f",
    )
    clock.move(timedelta(days=1))

    assert isinstance(await world.runs.claim(claim_request), Granted)


async def test_a_custom_run_of_a_job_uses_its_own_parameters(world: World) -> None:
    stored = await world.jobs.add()
    given = stored.job.parameters() | {"prompt": "Something else"}
    claim_request = world.runs.claim_request(
        stored,
        due=world.clock.now(),
        occurrence=claim_requests.flow_key("f"),
        trigger="manual",
        parameters=given,
    )

    granted = await world.runs.claimed(claim_request)

    assert granted.parameters == given
    assert (await world.runs.row(granted.run_id)).job_id == stored.id


async def test_a_run_between_two_attempts_is_still_active(world: World) -> None:
    stored = await world.jobs.add(every="1m")
    first = world.runs.claim_request(stored)
    running = await world.runs.running(first)
    until = world.clock.now() + timedelta(seconds=90)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, running.run_id, running.fence, failed, until)

    skipped = await world.runs.claim(stored)  # due in a minute, before the retry
    assert isinstance(skipped, Waiting)
    world.clock.set(skipped.until)
    skipped = await world.runs.claim(world.runs.claim_request(stored, due=world.clock.now()))

    assert isinstance(skipped, Finished)
    assert skipped.reason.startswith(f"overlap: run {running.run_id[:8]}")
    world.clock.set(until)
    again = await world.runs.claim(first)
    assert isinstance(again, Granted)
    assert (again.run_id, again.fence) == (running.run_id, 3)


async def test_an_abandoned_retry_does_not_block_its_job(world: World) -> None:
    stored = await world.jobs.add(every="1m")
    running = await world.runs.running(stored)
    failed = Outcome(Status.FAILED, error="429")
    until = world.clock.now() + timedelta(seconds=5)
    await claims.retry(world.ledger, running.run_id, running.fence, failed, until)
    world.clock.set(until + TIMING.run_lease + timedelta(seconds=55))

    granted = await world.runs.claim(
        world.runs.claim_request(stored, due=world.clock.now().replace(second=0))
    )

    assert isinstance(granted, Granted)
