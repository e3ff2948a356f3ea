"""What a claim answers: due, in force, on, in time, alone (`docs/promise.md` 1, 9)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from daybook.ledger.states import Outcome, Status
from daybook.runs import claim_requests, claims, leases
from daybook.runs.claim_requests import Finished, Granted, HeldElsewhere, NeedsReconcile, Waiting
from daybook.testing import ManualClock
from daybook.timing import TIMING
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)


async def test_granted_at_the_due_time_with_the_jobs_parameters(world: World) -> None:
    stored = await world.add(prompt="What is new?", cron="0 * * * *")
    offer = world.offer(stored)
    world.clock.set(offer.due)

    answer = await world.claim(offer)

    assert isinstance(answer, Granted)
    assert (answer.fence, answer.due, answer.trigger) == (1, offer.due, "schedule")
    assert answer.parameters["prompt"] == "What is new?"
    row = await world.row(answer.run_id)
    assert (row.status, row.holder, row.revision, row.attempts) == ("claimed", "here:1", 1, 0)
    assert (row.started_at, row.agent, row.flow_run_id) == (None, "default", offer.flow_run_id)


async def test_not_a_microsecond_before_the_due_time(world: World) -> None:
    offer = world.offer(await world.add())
    world.clock.set(offer.due - MICROSECOND)

    assert await world.claim(offer) == Waiting(offer.due, "not due yet")
    assert await world.rows() == []


async def test_taken_while_another_holds_it(world: World) -> None:
    offer = world.offer(await world.add())
    granted = await world.granted(offer)

    other = await world.claim(replace(offer, holder="there:2", flow_run_id="another"))

    assert other == HeldElsewhere(granted.run_id, "here:1", offer.flow_run_id)


async def test_ended_once_it_has_its_outcome(world: World) -> None:
    offer = world.offer(await world.add())
    granted = await world.settled(offer, Status.FAILED, reason="no")

    other = await world.claim(replace(offer, flow_run_id="another"))

    assert other == Finished(Status.FAILED, "no", granted.run_id, offer.flow_run_id)
    assert len(await world.rows()) == 1


@pytest.mark.parametrize("instant", ["not by the schedule", "before the job was made"])
async def test_what_is_not_due_is_compared_and_then_ended_without_a_row(
    world: World, instant: str
) -> None:
    stored = await world.add()
    wrong = world.clock.now().replace(microsecond=0)
    if instant == "not by the schedule":
        wrong += timedelta(minutes=5)
        world.clock.set(wrong)
    offer = world.offer(stored, due=wrong)

    assert await world.claim(offer) == NeedsReconcile(stored.id)
    ended = await world.claim(replace(offer, compared=True))

    assert ended == Finished(Status.SKIPPED, "not due")
    assert await world.rows() == []


async def test_other_parameters_are_compared_and_then_the_revision_decides(world: World) -> None:
    stored = await world.add(prompt="Ours", cron="0 * * * *")
    offer = world.offer(stored, parameters=stored.job.parameters() | {"prompt": "Theirs"})
    world.clock.set(offer.due)

    assert await world.claim(offer) == NeedsReconcile(stored.id)
    assert await world.rows() == []
    answer = await world.claim(replace(offer, compared=True))

    assert isinstance(answer, Granted)
    assert answer.parameters["prompt"] == "Ours"


@pytest.mark.parametrize(
    ("edited", "prompt"),
    [(-SECOND, "New"), (-MICROSECOND, "New"), (0 * SECOND, "New"), (MICROSECOND, "Old")],
)
async def test_the_revision_in_force_at_the_due_time_decides(
    world: World, edited: timedelta, prompt: str
) -> None:
    stored = await world.add(prompt="Old", cron="0 * * * *")
    offer = world.offer(stored, compared=True)
    world.clock.set(offer.due + edited)
    await world.edit(stored.id, prompt="New")
    world.clock.set(offer.due + SECOND)

    answer = await world.claim(offer)

    assert isinstance(answer, Granted)
    assert answer.parameters["prompt"] == prompt
    assert (await world.row(answer.run_id)).revision == (2 if prompt == "New" else 1)


async def test_a_schedule_changed_at_the_due_time_is_the_new_one(world: World) -> None:
    stored = await world.add()
    offer = world.offer(stored, compared=True)
    world.clock.set(offer.due)
    await world.edit(stored.id, cron="30 * * * *")

    assert await world.claim(offer) == Finished(Status.SKIPPED, "not due")


async def test_two_edits_in_one_microsecond_both_stay(world: World) -> None:
    stored = await world.add(prompt="First", cron="0 * * * *")
    second = await world.edit(stored.id, prompt="Second")
    world.clock.move(-timedelta(hours=1))  # a clock that was set back changes nothing either
    third = await world.edit(stored.id, prompt="Third")

    times = [each.revision.effective_from for each in (stored, second, third)]
    assert times == sorted(set(times))
    assert [each.revision.number for each in (stored, second, third)] == [1, 2, 3]
    versions = [second.row.updated_at, third.row.updated_at]
    assert versions == sorted(set(versions))


async def test_an_edit_that_changes_nothing_makes_no_revision(world: World) -> None:
    stored = await world.add()
    world.clock.move(SECOND)

    again = await world.edit(stored.id, prompt="What is new?")

    assert (again.revision.number, again.row.updated_at) == (1, stored.row.updated_at)


async def test_a_new_description_makes_no_revision(world: World) -> None:
    stored = await world.add()
    world.clock.move(SECOND)

    described = await world.edit(stored.id, description="Every hour")

    assert described.revision.number == 1
    assert described.row.updated_at > stored.row.updated_at


async def test_off_at_its_claim(world: World) -> None:
    stored = await world.add()
    offer = world.offer(stored)
    world.clock.set(offer.due + SECOND)
    await world.edit(stored.id, enabled=False)

    answer = await world.claim(offer)

    assert isinstance(answer, Finished)
    assert (answer.status, answer.reason) == (Status.SKIPPED, "the job is off: disabled")


async def test_off_at_its_due_time_is_not_due(world: World) -> None:
    stored = await world.add()
    offer = world.offer(stored, compared=True)
    await world.edit(stored.id, enabled=False)
    world.clock.set(offer.due + SECOND)
    await world.edit(stored.id, enabled=True)

    assert await world.claim(offer) == Finished(Status.SKIPPED, "not due")


async def test_removed_before_its_claim(world: World) -> None:
    stored = await world.add()
    offer = world.offer(stored)
    world.clock.set(offer.due + SECOND)
    await world.archive(stored.id)

    answer = await world.claim(offer)

    assert isinstance(answer, Finished)
    assert (answer.status, answer.reason) == (Status.SKIPPED, "the job is off: removed")


async def test_a_run_asked_for_does_not_outlive_its_job(world: World) -> None:
    stored = await world.add()
    row = await claims.request(world.ledger, stored, "1", "manual")
    await world.archive(stored.id)

    answer = await world.claim(world.offer_of(row))

    assert isinstance(answer, Finished)
    assert (answer.status, answer.reason) == (Status.SKIPPED, "the job was removed")


async def test_a_run_made_in_prefect_of_a_removed_job_is_skipped(world: World) -> None:
    stored = await world.add()
    await world.archive(stored.id)
    custom = world.offer(
        stored,
        occurrence=claim_requests.flow_key("f"),
        flow_run_id="f",
        trigger="manual",
        due=world.clock.now(),
    )

    answer = await world.claim(custom)

    assert isinstance(answer, Finished)
    assert (answer.status, answer.reason) == (Status.SKIPPED, "the job was removed")
    assert answer.flow_run_id == "f"


async def test_by_hand_a_job_that_is_off_runs_and_stays_off(world: World) -> None:
    stored = await world.add()
    off = await world.edit(stored.id, enabled=False)
    row = await claims.request(world.ledger, off, "1", "manual")

    await world.settled(world.offer_of(row), Status.SUCCEEDED)

    assert not (await world.job(stored.id)).job.enabled


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
    offer = world.offer(await world.add())
    world.clock.set(offer.due + late)

    answer = await world.claim(offer)

    assert isinstance(answer, Granted) is runs
    (row,) = await world.rows()
    assert row.status == ("claimed" if runs else "missed")
    assert ("late" in row.reason) is not runs
    assert (row.finished_at is None) is runs


async def test_missed_when_a_later_due_time_has_passed(world: World) -> None:
    offer = world.offer(await world.add(every="1m"))
    world.clock.set(offer.due + timedelta(seconds=61))

    answer = await world.claim(offer)

    assert isinstance(answer, Finished)
    assert answer.status is Status.MISSED
    assert "a later due time has passed" in answer.reason


async def test_a_waiting_run_never_becomes_late(world: World) -> None:
    offer = world.offer(await world.add())
    granted = await world.granted(offer)
    await world.lose()
    world.clock.move(timedelta(hours=5))  # the window has long passed

    again = await world.claim(replace(offer, flow_run_id="another"))

    assert isinstance(again, Granted)
    assert (again.run_id, again.fence) == (granted.run_id, 3)


@pytest.mark.parametrize("begun", [False, True])
async def test_overlap_is_skipped_and_says_with_what(world: World, begun: bool) -> None:
    stored = await world.add(every="1m")
    first = world.offer(stored)
    running = await (world.begun(first) if begun else world.granted(first))
    second = world.offer(stored)
    world.clock.set(second.due - timedelta(seconds=5))
    assert await leases.renew(world.ledger, running.run_id, running.fence)
    world.clock.set(second.due)

    answer = await world.claim(second)

    assert isinstance(answer, Finished)
    assert answer.status is Status.SKIPPED
    assert answer.reason.startswith(f"overlap: run {running.run_id[:8]} of {first.due:%F %T} UTC")


async def test_no_overlap_with_what_has_ended_waits_or_is_lost(world: World) -> None:
    stored = await world.add(every="10m")
    await world.settled(world.offer(stored), Status.FAILED)
    await claims.request(world.ledger, stored, "1", "manual")  # waits
    lost = await world.begun(world.offer(stored))
    await world.lose()

    await world.granted(world.offer(stored))

    told = [row.status for row in await world.rows()]
    assert sorted(told) == ["claimed", "failed", "unknown", "waiting"]
    assert (await world.row(lost.run_id)).status == "unknown"


async def test_other_jobs_do_not_overlap(world: World) -> None:
    one, two = await world.add("one"), await world.add("two")
    await world.begun(world.offer(one))

    assert isinstance(await world.granted(world.offer(two, due=world.clock.now())), Granted)


async def test_a_one_time_job_is_off_after_its_time(world: World) -> None:
    at = world.clock.now().replace(microsecond=0) + timedelta(minutes=5)
    stored = await world.add(at=at.isoformat())
    offer = world.offer(stored)

    await world.settled(offer, Status.FAILED, error="no such program")

    after = await world.job(stored.id)
    assert not after.job.enabled
    assert after.row.disabled_reason == "fired, failed"
    assert after.row.last_error == "no such program"
    assert after.row.sync_pending
    again = await world.claim(replace(offer, flow_run_id="another"))
    assert isinstance(again, Finished)


@pytest.mark.parametrize(
    ("late", "status"), [(timedelta(hours=24), None), (timedelta(hours=24, seconds=1), "missed")]
)
async def test_a_one_time_job_may_be_a_day_late(
    world: World, late: timedelta, status: str | None
) -> None:
    at = world.clock.now().replace(microsecond=0) + timedelta(minutes=5)
    stored = await world.add(at=at.isoformat())
    offer = world.offer(stored)
    world.clock.set(offer.due + late)

    answer = await world.claim(offer)

    after = await world.job(stored.id)
    if status is None:
        assert isinstance(answer, Granted)
        assert after.job.enabled
    else:
        assert isinstance(answer, Finished)
        assert answer.status == status
        assert not after.job.enabled


async def test_a_new_time_given_meanwhile_is_not_undone(world: World) -> None:
    at = world.clock.now().replace(microsecond=0) + timedelta(minutes=5)
    stored = await world.add(at=at.isoformat())
    granted = await world.begun(world.offer(stored))
    later = at + timedelta(days=1)
    await world.edit(stored.id, at=later.isoformat())

    await world.settle(granted, Status.SUCCEEDED)

    after = await world.job(stored.id)
    assert after.job.enabled
    assert isinstance(await world.granted(world.offer(after, due=later)), Granted)


async def test_a_one_time_job_run_by_hand_still_fires(world: World) -> None:
    at = world.clock.now().replace(microsecond=0) + timedelta(minutes=5)
    stored = await world.add(at=at.isoformat())
    row = await claims.request(world.ledger, stored, "1", "manual")
    await world.settled(world.offer_of(row), Status.SUCCEEDED)

    assert (await world.job(stored.id)).job.enabled


async def test_the_end_of_a_run_does_not_undo_an_edit(world: World) -> None:
    stored = await world.add(prompt="Old", cron="0 * * * *")
    granted = await world.begun(world.offer(stored))
    await world.edit(stored.id, prompt="New", enabled=False)

    await world.settle(granted, Status.SUCCEEDED)

    after = await world.job(stored.id)
    assert (after.job.parameters()["prompt"], after.job.enabled) == ("New", False)
    assert after.row.last_status == "succeeded"


async def test_the_same_request_twice_is_one_run(world: World) -> None:
    stored = await world.add()

    first = await claims.request(world.ledger, stored, "same", "api")
    world.clock.move(SECOND)
    second = await claims.request(world.ledger, stored, "same", "api")
    other = await claims.request(world.ledger, stored, "other", "api")

    assert first.id == second.id != other.id
    assert first.due == second.due
    assert len(await world.rows()) == 2


async def test_a_request_acts_with_the_parameters_it_was_made_with(world: World) -> None:
    stored = await world.add(prompt="Then", cron="0 * * * *")
    row = await claims.request(world.ledger, stored, "1", "manual")
    world.clock.move(SECOND)
    await world.edit(stored.id, prompt="Now")

    granted = await world.granted(world.offer_of(row))

    assert granted.parameters["prompt"] == "Then"


async def test_a_request_ended_is_not_run_again_by_a_second_prefect_run(world: World) -> None:
    row = await claims.request(world.ledger, await world.add(), "1", "manual")
    await claims.link_prefect_run(world.ledger, row, "first")
    await world.settled(world.offer_of(row, flow_run_id="first"), Status.SUCCEEDED)

    answer = await world.claim(world.offer_of(row, flow_run_id="second"))

    assert isinstance(answer, Finished)
    assert answer.status is Status.SUCCEEDED


async def test_carried_by_counts_the_prefect_runs_of_a_waiting_row_only(world: World) -> None:
    row = await claims.request(world.ledger, await world.add(), "1", "manual")
    assert await claims.link_prefect_run(world.ledger, row, "first")
    assert await claims.link_prefect_run(world.ledger, await world.row(row.id), "second")
    await world.granted(world.offer_of(row, flow_run_id="second"))
    assert not await claims.link_prefect_run(world.ledger, await world.row(row.id), "third")

    found = await world.row(row.id)
    assert (found.prefect_runs, found.flow_run_id) == (2, "second")


async def test_a_prefect_run_that_two_have_made_at_once_counts_once(world: World) -> None:
    row = await claims.request(world.ledger, await world.add(), "1", "manual")
    assert await claims.link_prefect_run(world.ledger, row, "first")
    assert not await claims.link_prefect_run(world.ledger, row, "first")
    assert (await world.row(row.id)).prefect_runs == 1

    # Who is late does not put it in the place of the one that came after it.
    assert await claims.link_prefect_run(world.ledger, await world.row(row.id), "second")
    assert not await claims.link_prefect_run(world.ledger, row, "first")
    found = await world.row(row.id)
    assert (found.prefect_runs, found.flow_run_id) == (2, "second")


async def test_a_run_without_a_job_needs_none(world: World, clock: ManualClock) -> None:
    offer = claim_requests.ClaimRequest(
        claim_requests.flow_key("f"),
        "agent-prompt",
        "direct",
        clock.now(),
        "here:1",
        {"prompt": "Hi"},
    )

    granted = await world.settled(replace(offer, flow_run_id="f"), Status.SUCCEEDED)

    assert granted.job is None
    assert (await world.row(granted.run_id)).job_id is None


async def test_a_foreign_schedule_is_not_judged(world: World, clock: ManualClock) -> None:
    # What Prefect schedules of a deployment that is no job of ours has a `flow:` key.
    offer = claim_requests.ClaimRequest(
        claim_requests.flow_key("f"),
        "agent-prompt",
        "schedule",
        clock.now(),
        "here:1",
        flow_run_id="f",
    )
    clock.move(timedelta(days=1))

    assert isinstance(await world.claim(offer), Granted)


async def test_a_custom_run_of_a_job_acts_with_what_it_was_given(world: World) -> None:
    stored = await world.add()
    given = stored.job.parameters() | {"prompt": "Something else"}
    offer = world.offer(
        stored,
        due=world.clock.now(),
        occurrence=claim_requests.flow_key("f"),
        trigger="manual",
        parameters=given,
    )

    granted = await world.granted(offer)

    assert granted.parameters == given
    assert (await world.row(granted.run_id)).job_id == stored.id


async def test_between_two_attempts_a_run_is_still_at_work(world: World) -> None:
    stored = await world.add(every="1m")
    first = world.offer(stored)
    running = await world.begun(first)
    until = world.clock.now() + timedelta(seconds=90)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, running.run_id, running.fence, failed, until)

    skipped = await world.claim(world.offer(stored))  # due in a minute, before the retry
    assert isinstance(skipped, Waiting)
    world.clock.set(skipped.until)
    skipped = await world.claim(world.offer(stored, due=world.clock.now()))

    assert isinstance(skipped, Finished)
    assert skipped.reason.startswith(f"overlap: run {running.run_id[:8]}")
    world.clock.set(until)
    again = await world.claim(first)
    assert isinstance(again, Granted)
    assert (again.run_id, again.fence) == (running.run_id, 3)


async def test_a_retry_that_nobody_comes_back_for_does_not_block_its_job(world: World) -> None:
    stored = await world.add(every="1m")
    running = await world.begun(world.offer(stored))
    failed = Outcome(Status.FAILED, error="429")
    until = world.clock.now() + timedelta(seconds=5)
    await claims.retry(world.ledger, running.run_id, running.fence, failed, until)
    world.clock.set(until + TIMING.run_lease + timedelta(seconds=55))

    granted = await world.claim(world.offer(stored, due=world.clock.now().replace(second=0)))

    assert isinstance(granted, Granted)
