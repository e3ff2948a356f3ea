"""Rule 10: up to the watermark each due time has its row, and the claim makes none there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daybook.keeper import audit as keeper
from daybook.ledger import audit, claims, ends, jobs
from daybook.ledger.audit import Audited
from daybook.ledger.ends import EndInPrefect
from daybook.ledger.jobs import StoredJob
from daybook.ledger.offers import Compare, Ended, Granted, Waiting
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.spec import upcoming
from tests.unit.ledger.conftest import Book
from tests.unit.spec import oracle

pytestmark = pytest.mark.anyio

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


async def advance(book: Book, stored: StoredJob, up_to: datetime | None = None) -> Audited:
    done = await audit.advance(book.ledger, stored.id, up_to or book.clock.now())
    assert done is not None
    return done


def told(row: RunRow) -> tuple[str, datetime, datetime | None, int]:
    return row.status, row.due, row.due_to, row.count


def outcomes(rows: list[RunRow], step: timedelta) -> Iterator[tuple[datetime, str]]:
    """Each due time with its status, ranges taken apart by the job's own step."""
    for row in rows:
        assert ((row.due_to or row.due) - row.due) // step == row.count - 1
        for place in range(row.count):
            yield row.due + place * step, row.status


# --- down for an hour


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        ("none", [("missed", 10, 60, 6), ("waiting", 70, None, 1)]),
        ("latest", [("missed", 10, 60, 6), ("waiting", 70, None, 1)]),
        ("all", [("waiting", minute, None, 1) for minute in range(10, 80, 10)]),
    ],
)
async def test_down_for_an_hour(
    book: Book, catch_up: str, expected: list[tuple[str, int, int | None, int]]
) -> None:
    # Due from 12:10 on; at 13:11 that of 13:10 is a minute late, which is on time.
    stored = await book.add(cron="*/10 * * * *", catch_up=catch_up)
    book.clock.set(NOON + 71 * MINUTE)

    done = await advance(book, stored)

    assert [told(row) for row in await book.rows()] == [
        (status, NOON + first * MINUTE, NOON + last * MINUTE if last else None, count)
        for status, first, last, count in expected
    ]
    assert (done.until, done.more) == (NOON + 70 * MINUTE, False)
    assert done.following == NOON + 80 * MINUTE
    assert (await book.job(stored.id)).audited_until == NOON + 70 * MINUTE


async def test_a_minute_later_none_of_them_is_on_time(book: Book) -> None:
    stored = await book.add(cron="*/10 * * * *", catch_up="none")
    book.clock.set(NOON + 72 * MINUTE)

    done = await advance(book, stored)

    (row,) = await book.rows()
    assert told(row) == ("missed", NOON + 10 * MINUTE, NOON + 70 * MINUTE, 7)
    assert row.reason == "nothing ran it in time, and the job catches up on none"
    assert (done.missed, done.waiting, done.skipped) == (7, 0, 0)


async def test_latest_runs_inside_its_window_and_not_after_it(book: Book) -> None:
    # Half the gap of ten minutes: until 13:15.
    stored = await book.add(cron="*/10 * * * *", catch_up="latest")
    book.clock.set(NOON + 75 * MINUTE)
    later = await book.add("later", cron="*/10 * * * *", catch_up="latest")

    assert (await advance(book, stored)).waiting == 1
    rows = await book.rows()
    assert [row.trigger for row in rows] == ["schedule", "catch_up"]
    assert rows[1].until == book.clock.now()

    book.clock.set(NOON + 85 * MINUTE + SECOND)
    assert (await advance(book, later)).waiting == 0
    assert told((await book.rows())[-1]) == ("missed", NOON + 80 * MINUTE, None, 1)


async def test_what_waits_for_a_later_look_is_superseded_by_a_later_due_time(book: Book) -> None:
    stored = await book.add(cron="*/10 * * * *", catch_up="latest")
    for minutes in (12, 22, 32):
        book.clock.set(NOON + minutes * MINUTE)
        await advance(book, stored)

    assert [row.status for row in await book.rows()] == ["skipped", "skipped", "waiting"]


async def test_all_are_made_up_for_oldest_first_and_one_after_the_other(book: Book) -> None:
    stored = await book.add(cron="0 * * * *", catch_up="all", overlap="allow")
    book.clock.set(NOON + timedelta(hours=30, minutes=5))

    done = await advance(book, stored)

    # Due from 13:00 on, thirty times; those of the last 24 hours are from 19:00 the first day on.
    assert (done.missed, done.waiting) == (6, 24)
    rows = (await book.rows())[1:]
    # Their Prefect runs come in any order: the last one first.
    assert isinstance(await book.claim(book.asked(rows[-1])), Waiting)
    began = []
    while waiting := [row for row in await book.rows() if row.status == "waiting"]:
        for row in {row.id: row for row in (waiting[-1], *waiting[1::-1])}.values():
            answer = await book.claim(book.asked(row))
            if isinstance(answer, Granted):
                began.append(answer.due)
                await claims.begin(book.ledger, answer.run_id, answer.fence)
                assert await book.settle(answer, Status.SUCCEEDED) is Status.SUCCEEDED
    assert began == [row.due for row in rows]


# --- a weekend


@pytest.mark.parametrize("catch_up", ["none", "latest", "all"])
@pytest.mark.slow
async def test_a_weekend_of_a_job_of_every_five_seconds(book: Book, catch_up: str) -> None:
    stored = await book.add(every="5s", catch_up=catch_up)
    anchor = stored.job.schedule.anchor  # type: ignore[union-attr]
    down = timedelta(hours=62)
    book.clock.set(anchor + down + 2 * SECOND)
    steps = 0
    while (await advance(book, stored)).more:
        steps += 1

    rows = await book.rows()

    now = book.clock.now()
    expected = {}
    for place in range(1, int(down / (5 * SECOND)) + 1):
        due = anchor + place * 5 * SECOND
        late = now - due
        if late < MINUTE:
            break
        day = catch_up == "all" and late <= timedelta(hours=24)
        expected[due] = "waiting" if late <= MINUTE or day else "missed"
    assert dict(outcomes(rows, 5 * SECOND)) == expected
    assert sum(row.count for row in rows) == len(expected)
    assert steps == len(expected) // audit.MOST
    assert len([row for row in rows if row.status == "missed"]) == 1


# --- daylight saving


@pytest.mark.parametrize(
    ("cron", "zone", "change"),
    [
        ("30 2 * * *", "America/New_York", datetime(2027, 3, 14, 7, tzinfo=UTC)),
        ("0 0 * * *", "America/Santiago", datetime(2027, 9, 5, 4, tzinfo=UTC)),
        ("*/30 * * * *", "Europe/Berlin", datetime(2026, 10, 25, 1, tzinfo=UTC)),
        ("15 2 * * *", "Europe/Berlin", datetime(2026, 10, 25, 1, tzinfo=UTC)),
    ],
    ids=["gap", "midnight", "repeated", "twice"],
)
async def test_across_a_change_of_the_clocks(
    book: Book, cron: str, zone: str, change: datetime
) -> None:
    start, end = change - 30 * HOUR, change + 30 * HOUR
    book.clock.set(start)
    stored = await book.add(cron=cron, timezone=zone, catch_up="none")
    book.clock.set(end + HOUR)

    await advance(book, stored, end)

    expected = oracle.due(cron, zone, start, end)
    (row,) = await book.rows()
    assert (row.due, row.due_to, row.count) == (expected[0], expected[-1], len(expected))


# --- what is not to be judged, and by what


async def test_what_has_its_row_keeps_it_and_parts_the_range(book: Book) -> None:
    stored = await book.add(every="10m", catch_up="none")
    offers = [
        book.due(stored, due=book.due(stored).due + place * 10 * MINUTE) for place in range(5)
    ]
    await book.settled(offers[2], Status.SUCCEEDED)
    book.clock.set(offers[4].due + 2 * MINUTE)

    await advance(book, stored)

    assert [(row.status, row.due, row.count) for row in await book.rows()] == [
        ("missed", offers[0].due, 2),
        ("succeeded", offers[2].due, 1),
        ("missed", offers[3].due, 2),
    ]


async def test_each_by_the_revision_in_force_and_none_of_a_time_when_it_was_off(book: Book) -> None:
    stored = await book.add(cron="0 * * * *", catch_up="none")
    book.clock.set(NOON + 2 * HOUR + 30 * MINUTE)
    await book.edit(stored.id, cron="15 * * * *")
    book.clock.set(NOON + 4 * HOUR + 15 * MINUTE)  # in force from its due time on
    await book.edit(stored.id, enabled=False)
    book.clock.set(NOON + 6 * HOUR)
    await book.edit(stored.id, enabled=True)
    book.clock.set(NOON + 8 * HOUR)

    await advance(book, stored)

    assert [(row.due - NOON, row.due_to and row.due_to - NOON) for row in await book.rows()] == [
        (HOUR, 2 * HOUR),
        (3 * HOUR + 15 * MINUTE, None),
        (6 * HOUR + 15 * MINUTE, 7 * HOUR + 15 * MINUTE),
    ]
    assert [row.revision for row in await book.rows()] == [1, 2, 4]


async def test_one_range_goes_on_in_the_next_pass_until_something_else_comes(book: Book) -> None:
    stored = await book.add(cron="*/10 * * * *", catch_up="none")
    for minutes in (15, 25, 35, 36, 55):
        book.clock.set(NOON + minutes * MINUTE)
        await advance(book, stored)
    (row,) = await book.rows()
    assert (row.due, row.due_to, row.count) == (NOON + 10 * MINUTE, NOON + 50 * MINUTE, 5)
    job = await book.job(stored.id)
    assert (job.last_run_id, job.last_run_at, job.last_status) == (row.id, row.due_to, "missed")

    await book.settled(book.due(stored), Status.SUCCEEDED)  # 13:00
    book.clock.set(NOON + 75 * MINUTE)
    await advance(book, stored)

    assert [row.count for row in await book.rows()] == [5, 1, 1]
    await book.edit(stored.id, prompt="Another")
    book.clock.set(NOON + 85 * MINUTE)
    await advance(book, stored)
    assert [row.count for row in await book.rows()] == [5, 1, 1, 1]


async def test_no_more_than_so_many_in_one_transaction(book: Book) -> None:
    stored = await book.add(cron="* * * * *", catch_up="none")
    book.clock.set(NOON + 12 * MINUTE)

    said = [await audit.advance(book.ledger, stored.id, book.clock.now(), 4) for _ in range(4)]

    assert [each and (each.until - NOON, each.missed, each.more) for each in said] == [
        (4 * MINUTE, 4, True),
        (8 * MINUTE, 4, True),
        (11 * MINUTE, 2, False),
        (11 * MINUTE, 0, False),
    ]
    assert [told(row) for row in await book.rows()] == [
        ("missed", NOON + MINUTE, NOON + 10 * MINUTE, 10),
        ("waiting", NOON + 11 * MINUTE, None, 1),
    ]


async def test_nothing_is_judged_before_it_is_a_minute_late(book: Book) -> None:
    stored = await book.add(cron="*/10 * * * *", catch_up="none")
    book.clock.set(NOON + 10 * MINUTE + 59 * SECOND)

    done = await advance(book, stored, book.clock.now() + HOUR)

    assert done.until == NOON + 10 * MINUTE - SECOND
    assert await book.rows() == []
    assert isinstance(await book.claim(book.due(stored, due=NOON + 10 * MINUTE)), Granted)


@pytest.mark.parametrize(
    ("what", "status", "reason", "count"),
    [
        ("off", "skipped", "the job is off: disabled", 3),
        ("snoozed", "skipped", "snoozed until 2026-01-16 12:00:00 UTC", 3),
        ("skipped", "skipped", "skipped by hand", 1),
        ("spent", "skipped", "max runs: 1 are done or at work", 2),
        ("removed", "skipped", "the job is off: removed", 3),
    ],
)
async def test_what_is_not_wanted_is_skipped(
    book: Book, what: str, status: str, reason: str, count: int
) -> None:
    fields: dict[str, Any] = {"max_runs": 1} if what == "spent" else {}
    stored = await book.add(cron="0 * * * *", catch_up="none", **fields)
    if what == "spent":
        await book.begun(book.due(stored))
    book.clock.set(NOON + 3 * HOUR + 30 * MINUTE)
    if what == "off":
        await book.edit(stored.id, enabled=False)
    elif what == "removed":
        await book.archive(stored.id)
    elif what != "spent":
        async with book.ledger.write() as session:
            row = (await jobs.find(session, stored.id)).row
            row.skips = [(NOON + HOUR).isoformat()] if what == "skipped" else []
            row.snoozed_until = NOON + 24 * HOUR if what == "snoozed" else None
            session.add(row)
    book.clock.move(2 * MINUTE)

    await advance(book, stored)

    rows = [row for row in await book.rows() if row.status == status]
    assert [(row.reason, row.count) for row in rows] == [(reason, count)]


async def test_of_a_removed_job_nothing_after_its_removal(book: Book) -> None:
    stored = await book.add(cron="0 * * * *")
    book.clock.set(NOON + 90 * MINUTE)
    await book.archive(stored.id)
    book.clock.set(NOON + 10 * HOUR)

    done = await keeper.audit(book.ledger, {})

    assert (done.jobs, done.skipped, done.missed) == (1, 1, 0)
    assert (await book.job(stored.id)).audited_until == NOON + 90 * MINUTE
    assert (await keeper.audit(book.ledger, {})).jobs == 0


async def test_a_one_time_job_has_a_day_and_then_is_missed_and_off(book: Book) -> None:
    early = await book.add("early", at=(NOON + HOUR).isoformat())
    late = await book.add("late", at=(NOON + HOUR).isoformat())
    never = await book.add("never", on_demand=True)
    book.clock.set(NOON + 24 * HOUR)
    assert (await advance(book, early)).waiting == 1
    book.clock.set(NOON + 26 * HOUR)
    assert (await advance(book, late)).missed == 1
    assert (await advance(book, never)).following is None

    assert [row.status for row in await book.rows()] in (
        ["missed", "waiting"],
        ["waiting", "missed"],
    )
    assert (await book.job(late.id)).disabled_reason == "fired, missed"
    (waiting,) = [row for row in await book.rows() if row.status == "waiting"]
    await book.settled(book.asked(waiting), Status.SUCCEEDED)
    assert (await book.job(early.id)).disabled_reason == "fired, succeeded"


async def test_staggered_ones_count_from_when_they_would_begin(book: Book) -> None:
    stored = await book.add(cron="0 * * * *", catch_up="none", stagger="30m")
    later = upcoming.offset(stored.id, timedelta(minutes=30))
    book.clock.set(NOON + HOUR + MINUTE)

    assert (await advance(book, stored)).waiting == 1

    (row,) = await book.rows()
    assert (row.until, row.trigger) == (max(book.clock.now(), row.due + later), "schedule")


async def test_a_last_run_is_the_last_due_time_not_the_last_that_was_judged(book: Book) -> None:
    stored = await book.add(cron="*/10 * * * *", catch_up="none")
    book.clock.set(NOON + 15 * MINUTE)
    done = await book.settled(book.due(stored), Status.SUCCEEDED)

    await advance(book, stored, book.clock.now() + HOUR)

    job = await book.job(stored.id)
    assert (job.last_run_id, job.last_status) == (done.run_id, "succeeded")


# --- the claim behind the watermark


async def test_behind_the_watermark_the_claim_makes_no_row(book: Book) -> None:
    stored = await book.add(every="10m", catch_up="none")
    first = book.due(stored)
    second = book.due(stored, due=first.due + 10 * MINUTE)
    other = book.due(stored, due=first.due + 5 * MINUTE, compared=True)
    book.clock.set(second.due + 2 * MINUTE)
    await advance(book, stored)

    answers = [await book.claim(each) for each in (first, second, other)]

    reasons = [(each.status, each.reason) for each in answers if isinstance(each, Ended)]
    missed = "nothing ran it in time, and the job catches up on none"
    assert reasons == [
        (Status.MISSED, missed),
        (Status.MISSED, missed),  # it is of the same range
        (Status.SKIPPED, "not due"),
    ]
    assert len(await book.rows()) == 1
    late = EndInPrefect("another", "CRASHED", "Crashed", "", replace(second, flow_run_id="another"))
    assert await ends.take(book.ledger, late) is None
    assert len(await book.rows()) == 1


async def test_behind_the_watermark_the_waiting_row_is_taken(book: Book) -> None:
    stored = await book.add(every="10m", catch_up="latest")
    offer = book.due(stored)
    book.clock.set(offer.due + 2 * MINUTE)
    await advance(book, stored)

    answer = await book.claim(offer)

    assert isinstance(answer, Granted)
    assert (answer.trigger, answer.due) == ("catch_up", offer.due)


async def test_after_the_watermark_an_unknown_instant_is_compared_still(book: Book) -> None:
    stored = await book.add(every="10m")
    book.clock.set(NOON + 15 * MINUTE)
    await advance(book, stored)

    answer = await book.claim(book.due(stored, due=NOON + 14 * MINUTE + 30 * SECOND))

    assert answer == Compare(stored.id)


async def test_an_edit_of_before_the_watermark_counts_from_there_on(book: Book) -> None:
    stored = await book.add(cron="0 * * * *", catch_up="none")
    book.clock.set(NOON + 3 * HOUR + 10 * MINUTE)
    await advance(book, stored)
    mark = (await book.job(stored.id)).audited_until
    async with book.ledger.write() as session:
        found = await jobs.find(session, stored.id)
        job = found.job.model_copy(update={"enabled": False})
        now = book.clock.now()
        edited = await jobs.change(session, found, job, now, edited=NOON + HOUR, source="prefect")

    assert edited.revision.effective_from == mark
    before = [told(row) for row in await book.rows()]
    await advance(book, stored)
    assert [told(row) for row in await book.rows()] == before


async def test_a_watermark_that_a_clock_set_back_left_ahead_puts_no_edit_off(book: Book) -> None:
    stored = await book.add(cron="0 * * * *", catch_up="none")
    book.clock.set(NOON + 24 * HOUR)
    await advance(book, stored)
    assert (await book.job(stored.id)).audited_until == NOON + 24 * HOUR - MINUTE
    book.clock.set(NOON + HOUR)

    edited = await book.edit(stored.id, prompt="The new")

    assert edited.revision.effective_from == NOON + HOUR


# --- the keeper's pass


async def test_only_what_was_observed_is_audited_and_up_to_then(book: Book) -> None:
    seen = await book.add("seen", cron="*/10 * * * *", catch_up="none")
    unseen = await book.add("unseen", cron="*/10 * * * *", catch_up="none")
    book.clock.set(NOON + HOUR)

    done = await keeper.audit(book.ledger, {seen.id: NOON + 25 * MINUTE})

    assert (done.jobs, done.missed) == (1, 2)
    assert (await book.job(seen.id)).audited_until == NOON + 25 * MINUTE
    assert (await book.job(unseen.id)).audited_until == (await book.job(unseen.id)).created_at


async def test_where_nothing_is_due_no_job_is_looked_at(book: Book) -> None:
    stored = await book.add(cron="0 * * * *", catch_up="none")
    memory = keeper.Memory()

    async def passes(minutes: float) -> keeper.Audit:
        book.clock.set(NOON + minutes * MINUTE)
        observed = {stored.id: book.clock.now()}
        return await keeper.audit(book.ledger, observed, memory=memory)

    looked = [(await passes(minutes)).jobs for minutes in (2, 3, 59, 60.5)]
    assert looked == [1, 0, 0, 0]
    assert (await passes(62)).missed == 1
    assert (await passes(63)).jobs == 0
    await book.edit(stored.id, cron="*/5 * * * *")
    assert (await passes(67)).missed == 1
    assert [told(row) for row in await book.rows()] == [
        ("missed", NOON + 60 * MINUTE, None, 1),
        ("missed", NOON + 65 * MINUTE, None, 1),
    ]


async def test_a_pass_ends_when_its_time_is_up_and_the_next_goes_on(book: Book) -> None:
    added = [await book.add(f"job {place}", cron="* * * * *", catch_up="none") for place in "abc"]
    book.clock.set(NOON + HOUR)
    observed = dict.fromkeys([each.id for each in added], book.clock.now())

    first = await keeper.audit(book.ledger, observed, most_seconds=0)
    rest = await keeper.audit(book.ledger, observed)

    assert (first.jobs, first.left) == (0, True)
    assert (rest.jobs, rest.missed, rest.left) == (3, 3 * 58, False)
