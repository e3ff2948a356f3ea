"""What the book holds of due times that a job's bounds leave out, and of its last run."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daybook.ledger import claims, jobs
from daybook.ledger.offers import Compare, Ended, Granted, Waiting
from daybook.ledger.states import Status
from daybook.spec.upcoming import between
from tests.unit.ledger.conftest import Book

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


async def test_two_days_of_an_hourly_job_hold_what_next_had_shown(book: Book) -> None:
    """It is Thursday 15 January 2026, noon; Prefect offers every hour."""
    bounds: dict[str, Any] = {
        "start": "2026-01-15T14:00",
        "until": "2026-01-17T11:00",
        "exclude": ["2026-01-16"],
        "active_hours": "10:00-18:00",
    }
    stored = await book.add(cron="0 * * * *", timezone="UTC", **bounds)
    begin = book.clock.now()
    shown = list(between(stored.job.schedule, stored.job.policy, begin, begin + 48 * HOUR))

    for place in range(1, 49):
        offer = book.due(stored, due=begin.replace(microsecond=0) + place * HOUR)
        book.clock.set(offer.due)
        answer = await book.claim(offer)
        if isinstance(answer, Granted):
            await claims.begin(book.ledger, answer.run_id, answer.fence)
            await book.settle(answer, Status.SUCCEEDED)
        else:
            assert isinstance(answer, Ended)
            assert (answer.status, answer.run_id) == (Status.SKIPPED, None)
            assert answer.reason.startswith("not due: ")

    rows = await book.rows()
    assert [row.due for row in rows] == shown
    assert [f"{row.due:%d %H}" for row in rows] == [
        *("15 14", "15 15", "15 16", "15 17", "17 10", "17 11")
    ]


async def test_what_was_edited_in_prefect_is_looked_at_before_it_is_left_out(book: Book) -> None:
    stored = await book.add(cron="0 * * * *", timezone="UTC", active_hours="00:00-01:00")
    offer = book.due(stored)
    policy = stored.job.policy.model_copy(update={"active_hours": ""}).model_dump(mode="json")
    edited = replace(offer, parameters=stored.job.parameters() | {"policy": policy})
    book.clock.set(offer.due)

    assert await book.claim(edited) == Compare(stored.id)
    answer = await book.claim(replace(edited, compared=True))
    assert isinstance(answer, Ended)
    assert answer.reason == "not due: 13:00 is not within the active hours"


async def test_a_late_one_is_the_latest_where_those_after_it_are_left_out(book: Book) -> None:
    """13:00 is the last of the day: at 14:30 no later one has passed, and it is in its window."""
    stored = await book.add(cron="0 * * * *", timezone="UTC", active_hours="09:00-14:00")
    offer = book.due(stored)
    book.clock.set(offer.due + 1.5 * HOUR)

    assert isinstance(await book.claim(offer), Granted)


async def test_after_its_last_run_a_job_is_off_and_says_why(book: Book) -> None:
    stored = await book.add(every="10m", max_runs=2)
    for status in (Status.SUCCEEDED, Status.FAILED):
        assert (await book.stored(stored.id)).job.enabled
        await book.settled(book.due(stored), status)

    after = await book.stored(stored.id)

    assert (after.job.enabled, after.row.disabled_reason) == (
        False,
        "max runs: it has had its 2",
    )
    more = await book.edit(stored.id, max_runs=3)
    assert not more.job.enabled  # that is the service's to decide:
    assert jobs.with_new_time(after, more.job).enabled
    assert not jobs.with_new_time(after, after.job).enabled


async def test_at_once_no_more_than_its_runs_are_at_work(book: Book) -> None:
    stored = await book.add(every="10s", session="new", overlap="allow", max_runs=3)
    answers = []
    for _ in range(5):
        offer = book.due(stored)
        book.clock.set(offer.due)
        answers.append(await book.claim(offer))

    assert [type(each) for each in answers] == [Granted] * 3 + [Ended] * 2
    told = answers[-1]
    assert isinstance(told, Ended)
    assert told.reason == "max runs: 3 are done or at work"
    assert [row.status for row in await book.rows()] == ["claimed"] * 3 + ["skipped"] * 2


async def test_one_that_queued_is_skipped_when_the_last_run_was_had(book: Book) -> None:
    stored = await book.add(every="10s", session="new", overlap="queue_all", max_runs=2)
    running = await book.begun(book.due(stored))
    queued = []
    for _ in range(2):
        queued.append(book.due(stored))
        book.clock.set(queued[-1].due)
        answer = await book.claim(queued[-1])
    assert isinstance(answer, Waiting)
    await book.settle(running, Status.SUCCEEDED)
    await book.settled(queued[0], Status.SUCCEEDED)

    told = await book.claim(queued[1])

    assert isinstance(told, Ended)
    assert told.reason == "the job is off: max runs: it has had its 2"


async def test_by_hand_a_job_runs_that_has_had_its_runs(book: Book) -> None:
    stored = await book.add(every="10m", max_runs=1)
    await book.settled(book.due(stored), Status.SUCCEEDED)
    row = await claims.request(book.ledger, stored, "1", "manual")

    await book.settled(book.asked(row), Status.SUCCEEDED)

    assert (await book.job(stored.id)).run_count == 2
