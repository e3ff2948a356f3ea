"""What a claim answers: due, in force, on, in time, alone (`docs/promise.md` 1, 9)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from daybook.ledger import claims, leases, offers
from daybook.ledger.offers import Compare, Ended, Granted, Taken, Waiting
from daybook.ledger.outcomes import Outcome
from daybook.ledger.states import Status
from daybook.testing import MovedClock
from daybook.timing import TIMING
from tests.unit.ledger.conftest import Book

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)


async def test_granted_at_the_due_time_with_the_jobs_parameters(book: Book) -> None:
    stored = await book.add(prompt="What is new?", cron="0 * * * *")
    offer = book.due(stored)
    book.clock.set(offer.due)

    answer = await book.claim(offer)

    assert isinstance(answer, Granted)
    assert (answer.fence, answer.due, answer.trigger) == (1, offer.due, "schedule")
    assert answer.parameters["prompt"] == "What is new?"
    row = await book.row(answer.run_id)
    assert (row.status, row.holder, row.revision, row.attempts) == ("claimed", "here:1", 1, 0)
    assert (row.started_at, row.agent, row.flow_run_id) == (None, "default", offer.flow_run_id)


async def test_not_a_microsecond_before_the_due_time(book: Book) -> None:
    offer = book.due(await book.add())
    book.clock.set(offer.due - MICROSECOND)

    assert await book.claim(offer) == Waiting(offer.due, "not due yet")
    assert await book.rows() == []


async def test_taken_while_another_holds_it(book: Book) -> None:
    offer = book.due(await book.add())
    granted = await book.granted(offer)

    other = await book.claim(replace(offer, holder="there:2", flow_run_id="another"))

    assert other == Taken(granted.run_id, "here:1", offer.flow_run_id)


async def test_ended_once_it_has_its_outcome(book: Book) -> None:
    offer = book.due(await book.add())
    granted = await book.settled(offer, Status.FAILED, reason="no")

    other = await book.claim(replace(offer, flow_run_id="another"))

    assert other == Ended(Status.FAILED, "no", granted.run_id, offer.flow_run_id)
    assert len(await book.rows()) == 1


@pytest.mark.parametrize("instant", ["not by the schedule", "before the job was made"])
async def test_what_is_not_due_is_compared_and_then_ended_without_a_row(
    book: Book, instant: str
) -> None:
    stored = await book.add()
    wrong = book.clock.now().replace(microsecond=0)
    if instant == "not by the schedule":
        wrong += timedelta(minutes=5)
        book.clock.set(wrong)
    offer = book.due(stored, due=wrong)

    assert await book.claim(offer) == Compare(stored.id)
    ended = await book.claim(replace(offer, compared=True))

    assert ended == Ended(Status.SKIPPED, "not due")
    assert await book.rows() == []


async def test_other_parameters_are_compared_and_then_the_revision_decides(book: Book) -> None:
    stored = await book.add(prompt="Ours", cron="0 * * * *")
    offer = book.due(stored, parameters=stored.job.parameters() | {"prompt": "Theirs"})
    book.clock.set(offer.due)

    assert await book.claim(offer) == Compare(stored.id)
    assert await book.rows() == []
    answer = await book.claim(replace(offer, compared=True))

    assert isinstance(answer, Granted)
    assert answer.parameters["prompt"] == "Ours"


@pytest.mark.parametrize(
    ("edited", "prompt"),
    [(-SECOND, "New"), (-MICROSECOND, "New"), (0 * SECOND, "New"), (MICROSECOND, "Old")],
)
async def test_the_revision_in_force_at_the_due_time_decides(
    book: Book, edited: timedelta, prompt: str
) -> None:
    stored = await book.add(prompt="Old", cron="0 * * * *")
    offer = book.due(stored, compared=True)
    book.clock.set(offer.due + edited)
    await book.edit(stored.id, prompt="New")
    book.clock.set(offer.due + SECOND)

    answer = await book.claim(offer)

    assert isinstance(answer, Granted)
    assert answer.parameters["prompt"] == prompt
    assert (await book.row(answer.run_id)).revision == (2 if prompt == "New" else 1)


async def test_a_schedule_changed_at_the_due_time_is_the_new_one(book: Book) -> None:
    stored = await book.add()
    offer = book.due(stored, compared=True)
    book.clock.set(offer.due)
    await book.edit(stored.id, cron="30 * * * *")

    assert await book.claim(offer) == Ended(Status.SKIPPED, "not due")


async def test_two_edits_in_one_microsecond_both_stay(book: Book) -> None:
    stored = await book.add(prompt="First", cron="0 * * * *")
    second = await book.edit(stored.id, prompt="Second")
    book.clock.move(-timedelta(hours=1))  # a clock that was set back changes nothing either
    third = await book.edit(stored.id, prompt="Third")

    times = [each.revision.effective_from for each in (stored, second, third)]
    assert times == sorted(set(times))
    assert [each.revision.number for each in (stored, second, third)] == [1, 2, 3]
    versions = [second.row.updated_at, third.row.updated_at]
    assert versions == sorted(set(versions))


async def test_an_edit_that_changes_nothing_makes_no_revision(book: Book) -> None:
    stored = await book.add()
    book.clock.move(SECOND)

    again = await book.edit(stored.id, prompt="What is new?")

    assert (again.revision.number, again.row.updated_at) == (1, stored.row.updated_at)


async def test_a_new_description_makes_no_revision(book: Book) -> None:
    stored = await book.add()
    book.clock.move(SECOND)

    described = await book.edit(stored.id, description="Every hour")

    assert described.revision.number == 1
    assert described.row.updated_at > stored.row.updated_at


async def test_off_at_its_claim(book: Book) -> None:
    stored = await book.add()
    offer = book.due(stored)
    book.clock.set(offer.due + SECOND)
    await book.edit(stored.id, enabled=False)

    answer = await book.claim(offer)

    assert isinstance(answer, Ended)
    assert (answer.status, answer.reason) == (Status.SKIPPED, "the job is off: disabled")


async def test_off_at_its_due_time_is_not_due(book: Book) -> None:
    stored = await book.add()
    offer = book.due(stored, compared=True)
    await book.edit(stored.id, enabled=False)
    book.clock.set(offer.due + SECOND)
    await book.edit(stored.id, enabled=True)

    assert await book.claim(offer) == Ended(Status.SKIPPED, "not due")


async def test_removed_before_its_claim(book: Book) -> None:
    stored = await book.add()
    offer = book.due(stored)
    book.clock.set(offer.due + SECOND)
    await book.archive(stored.id)

    answer = await book.claim(offer)

    assert isinstance(answer, Ended)
    assert (answer.status, answer.reason) == (Status.SKIPPED, "the job is off: removed")


async def test_a_run_asked_for_does_not_outlive_its_job(book: Book) -> None:
    stored = await book.add()
    row = await claims.request(book.ledger, stored, "1", "manual")
    await book.archive(stored.id)

    answer = await book.claim(book.asked(row))

    assert isinstance(answer, Ended)
    assert (answer.status, answer.reason) == (Status.SKIPPED, "the job was removed")


async def test_by_hand_a_job_that_is_off_runs_and_stays_off(book: Book) -> None:
    stored = await book.add()
    off = await book.edit(stored.id, enabled=False)
    row = await claims.request(book.ledger, off, "1", "manual")

    await book.settled(book.asked(row), Status.SUCCEEDED)

    assert not (await book.stored(stored.id)).job.enabled


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
    book: Book, late: timedelta, runs: bool
) -> None:
    offer = book.due(await book.add())
    book.clock.set(offer.due + late)

    answer = await book.claim(offer)

    assert isinstance(answer, Granted) is runs
    (row,) = await book.rows()
    assert row.status == ("claimed" if runs else "missed")
    assert ("late" in row.reason) is not runs
    assert (row.finished_at is None) is runs


async def test_missed_when_a_later_due_time_has_passed(book: Book) -> None:
    offer = book.due(await book.add(every="1m"))
    book.clock.set(offer.due + timedelta(seconds=61))

    answer = await book.claim(offer)

    assert isinstance(answer, Ended)
    assert answer.status is Status.MISSED
    assert "a later due time has passed" in answer.reason


async def test_a_waiting_run_never_becomes_late(book: Book) -> None:
    offer = book.due(await book.add())
    granted = await book.granted(offer)
    await book.lose()
    book.clock.move(timedelta(hours=5))  # the window has long passed

    again = await book.claim(replace(offer, flow_run_id="another"))

    assert isinstance(again, Granted)
    assert (again.run_id, again.fence) == (granted.run_id, 3)


@pytest.mark.parametrize("begun", [False, True])
async def test_overlap_is_skipped_and_says_with_what(book: Book, begun: bool) -> None:
    stored = await book.add(every="1m")
    first = book.due(stored)
    running = await (book.begun(first) if begun else book.granted(first))
    second = book.due(stored)
    book.clock.set(second.due - timedelta(seconds=5))
    assert await leases.renew(book.ledger, running.run_id, running.fence)
    book.clock.set(second.due)

    answer = await book.claim(second)

    assert isinstance(answer, Ended)
    assert answer.status is Status.SKIPPED
    assert answer.reason.startswith(f"overlap: run {running.run_id[:8]} of {first.due:%F %T} UTC")


async def test_no_overlap_with_what_has_ended_waits_or_is_lost(book: Book) -> None:
    stored = await book.add(every="10m")
    await book.settled(book.due(stored), Status.FAILED)
    await claims.request(book.ledger, stored, "1", "manual")  # waits
    lost = await book.begun(book.due(stored))
    await book.lose()

    await book.granted(book.due(stored))

    told = [row.status for row in await book.rows()]
    assert sorted(told) == ["claimed", "failed", "unknown", "waiting"]
    assert (await book.row(lost.run_id)).status == "unknown"


async def test_other_jobs_do_not_overlap(book: Book) -> None:
    one, two = await book.add("one"), await book.add("two")
    await book.begun(book.due(one))

    assert isinstance(await book.granted(book.due(two, due=book.clock.now())), Granted)


async def test_a_one_time_job_is_off_after_its_time(book: Book) -> None:
    at = book.clock.now().replace(microsecond=0) + timedelta(minutes=5)
    stored = await book.add(at=at.isoformat())
    offer = book.due(stored)

    await book.settled(offer, Status.FAILED, error="no such program")

    after = await book.stored(stored.id)
    assert not after.job.enabled
    assert after.row.disabled_reason == "fired, failed"
    assert after.row.last_error == "no such program"
    assert after.row.sync_pending
    again = await book.claim(replace(offer, flow_run_id="another"))
    assert isinstance(again, Ended)


@pytest.mark.parametrize(
    ("late", "status"), [(timedelta(hours=24), None), (timedelta(hours=24, seconds=1), "missed")]
)
async def test_a_one_time_job_may_be_a_day_late(
    book: Book, late: timedelta, status: str | None
) -> None:
    at = book.clock.now().replace(microsecond=0) + timedelta(minutes=5)
    stored = await book.add(at=at.isoformat())
    offer = book.due(stored)
    book.clock.set(offer.due + late)

    answer = await book.claim(offer)

    after = await book.stored(stored.id)
    if status is None:
        assert isinstance(answer, Granted)
        assert after.job.enabled
    else:
        assert isinstance(answer, Ended)
        assert answer.status == status
        assert not after.job.enabled


async def test_a_new_time_given_meanwhile_is_not_undone(book: Book) -> None:
    at = book.clock.now().replace(microsecond=0) + timedelta(minutes=5)
    stored = await book.add(at=at.isoformat())
    granted = await book.begun(book.due(stored))
    later = at + timedelta(days=1)
    await book.edit(stored.id, at=later.isoformat())

    await book.settle(granted, Status.SUCCEEDED)

    after = await book.stored(stored.id)
    assert after.job.enabled
    assert isinstance(await book.granted(book.due(after, due=later)), Granted)


async def test_a_one_time_job_run_by_hand_still_fires(book: Book) -> None:
    at = book.clock.now().replace(microsecond=0) + timedelta(minutes=5)
    stored = await book.add(at=at.isoformat())
    row = await claims.request(book.ledger, stored, "1", "manual")
    await book.settled(book.asked(row), Status.SUCCEEDED)

    assert (await book.stored(stored.id)).job.enabled


async def test_the_end_of_a_run_does_not_undo_an_edit(book: Book) -> None:
    stored = await book.add(prompt="Old", cron="0 * * * *")
    granted = await book.begun(book.due(stored))
    await book.edit(stored.id, prompt="New", enabled=False)

    await book.settle(granted, Status.SUCCEEDED)

    after = await book.stored(stored.id)
    assert (after.job.parameters()["prompt"], after.job.enabled) == ("New", False)
    assert after.row.last_status == "succeeded"


async def test_the_same_request_twice_is_one_run(book: Book) -> None:
    stored = await book.add()

    first = await claims.request(book.ledger, stored, "same", "api")
    book.clock.move(SECOND)
    second = await claims.request(book.ledger, stored, "same", "api")
    other = await claims.request(book.ledger, stored, "other", "api")

    assert first.id == second.id != other.id
    assert first.due == second.due
    assert len(await book.rows()) == 2


async def test_a_request_acts_with_the_parameters_it_was_made_with(book: Book) -> None:
    stored = await book.add(prompt="Then", cron="0 * * * *")
    row = await claims.request(book.ledger, stored, "1", "manual")
    book.clock.move(SECOND)
    await book.edit(stored.id, prompt="Now")

    granted = await book.granted(book.asked(row))

    assert granted.parameters["prompt"] == "Then"


async def test_a_request_ended_is_not_run_again_by_a_second_prefect_run(book: Book) -> None:
    row = await claims.request(book.ledger, await book.add(), "1", "manual")
    await claims.carried_by(book.ledger, row, "first")
    await book.settled(book.asked(row, flow_run_id="first"), Status.SUCCEEDED)

    answer = await book.claim(book.asked(row, flow_run_id="second"))

    assert isinstance(answer, Ended)
    assert answer.status is Status.SUCCEEDED


async def test_carried_by_counts_the_prefect_runs_of_a_waiting_row_only(book: Book) -> None:
    row = await claims.request(book.ledger, await book.add(), "1", "manual")
    assert await claims.carried_by(book.ledger, row, "first")
    assert await claims.carried_by(book.ledger, await book.row(row.id), "second")
    await book.granted(book.asked(row, flow_run_id="second"))
    assert not await claims.carried_by(book.ledger, await book.row(row.id), "third")

    found = await book.row(row.id)
    assert (found.prefect_runs, found.flow_run_id) == (2, "second")


async def test_a_prefect_run_that_two_have_made_at_once_counts_once(book: Book) -> None:
    row = await claims.request(book.ledger, await book.add(), "1", "manual")
    assert await claims.carried_by(book.ledger, row, "first")
    assert not await claims.carried_by(book.ledger, row, "first")
    assert (await book.row(row.id)).prefect_runs == 1

    # Who is late does not put it in the place of the one that came after it.
    assert await claims.carried_by(book.ledger, await book.row(row.id), "second")
    assert not await claims.carried_by(book.ledger, row, "first")
    found = await book.row(row.id)
    assert (found.prefect_runs, found.flow_run_id) == (2, "second")


async def test_a_run_without_a_job_needs_none(book: Book, clock: MovedClock) -> None:
    offer = offers.Offer(
        offers.flow_key("f"), "agent-prompt", "direct", clock.now(), "here:1", {"prompt": "Hi"}
    )

    granted = await book.settled(replace(offer, flow_run_id="f"), Status.SUCCEEDED)

    assert granted.job is None
    assert (await book.row(granted.run_id)).job_id is None


async def test_a_foreign_schedule_is_not_judged(book: Book, clock: MovedClock) -> None:
    # What Prefect schedules of a deployment that is no job of ours has a `flow:` key.
    offer = offers.Offer(
        offers.flow_key("f"), "agent-prompt", "schedule", clock.now(), "here:1", flow_run_id="f"
    )
    clock.move(timedelta(days=1))

    assert isinstance(await book.claim(offer), Granted)


async def test_a_custom_run_of_a_job_acts_with_what_it_was_given(book: Book) -> None:
    stored = await book.add()
    given = stored.job.parameters() | {"prompt": "Something else"}
    offer = book.due(
        stored,
        due=book.clock.now(),
        occurrence=offers.flow_key("f"),
        trigger="manual",
        parameters=given,
    )

    granted = await book.granted(offer)

    assert granted.parameters == given
    assert (await book.row(granted.run_id)).job_id == stored.id


async def test_between_two_attempts_a_run_is_still_at_work(book: Book) -> None:
    stored = await book.add(every="1m")
    first = book.due(stored)
    running = await book.begun(first)
    until = book.clock.now() + timedelta(seconds=90)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(book.ledger, running.run_id, running.fence, failed, until)

    skipped = await book.claim(book.due(stored))  # due in a minute, before the retry
    assert isinstance(skipped, Waiting)
    book.clock.set(skipped.until)
    skipped = await book.claim(book.due(stored, due=book.clock.now()))

    assert isinstance(skipped, Ended)
    assert skipped.reason.startswith(f"overlap: run {running.run_id[:8]}")
    book.clock.set(until)
    again = await book.claim(first)
    assert isinstance(again, Granted)
    assert (again.run_id, again.fence) == (running.run_id, 3)


async def test_a_retry_that_nobody_comes_back_for_does_not_block_its_job(book: Book) -> None:
    stored = await book.add(every="1m")
    running = await book.begun(book.due(stored))
    failed = Outcome(Status.FAILED, error="429")
    until = book.clock.now() + timedelta(seconds=5)
    await claims.retry(book.ledger, running.run_id, running.fence, failed, until)
    book.clock.set(until + TIMING.run_lease + timedelta(seconds=55))

    granted = await book.claim(book.due(stored, due=book.clock.now().replace(second=0)))

    assert isinstance(granted, Granted)
