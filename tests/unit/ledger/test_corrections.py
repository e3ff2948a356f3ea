"""Due times that have a row ahead of their time: judged when, and by what (promise.md 14)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from daybook.ledger import audit, claims, corrections, ends, jobs, leases
from daybook.ledger.ends import EndInPrefect
from daybook.ledger.jobs import StoredJob
from daybook.ledger.offers import Ended, Granted, Waiting
from daybook.ledger.outcomes import Outcome
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.spec import upcoming
from daybook.spec.job import edit
from tests.unit.ledger.conftest import Book

pytestmark = pytest.mark.anyio

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


async def advance(book: Book, stored: StoredJob) -> audit.Audited:
    done = await audit.advance(book.ledger, stored.id, book.clock.now())
    assert done is not None
    return done


async def test_a_corrected_due_time_waits_for_its_time_and_is_judged_then(book: Book) -> None:
    stored = await book.add(cron="0 * * * *", catch_up="none")
    dues = [NOON + HOUR, NOON + 2 * HOUR]
    assert await corrections.ask(book.ledger, stored.id, 1, dues, "a change of the clocks") == 2
    assert await corrections.ask(book.ledger, stored.id, 1, dues, "a change of the clocks") == 0
    first, second = await book.rows()

    assert isinstance(await book.claim(book.asked(first)), Waiting)
    granted = await book.granted(book.asked(first))
    assert (granted.due, granted.trigger) == (dues[0], "schedule")

    book.clock.set(dues[1] + 2 * MINUTE)
    late = await book.claim(book.asked(second))
    assert isinstance(late, Ended)
    assert late.status is Status.MISSED


async def test_one_for_which_nobody_came_is_judged_by_the_audit(book: Book) -> None:
    none = await book.add("none", cron="0 * * * *", catch_up="none")
    latest = await book.add("latest", cron="0 * * * *", catch_up="latest")
    for stored in (none, latest):
        await corrections.ask(book.ledger, stored.id, 1, [NOON + HOUR], "a change of the clocks")
    book.clock.set(NOON + HOUR + 2 * MINUTE)

    assert (await advance(book, none)).missed == 1
    assert (await advance(book, latest)).waiting == 1

    by_job = {row.job_id: (row.status, row.trigger, row.waits_for) for row in await book.rows()}
    assert by_job == {none.id: ("missed", "schedule", ""), latest.id: ("waiting", "catch_up", "")}


async def test_one_that_is_not_due_any_more_is_skipped(book: Book) -> None:
    stored = await book.add(cron="0 * * * *")
    await corrections.ask(book.ledger, stored.id, 1, [NOON + HOUR], "a change of the clocks")
    (row,) = await book.rows()
    await book.edit(stored.id, cron="30 * * * *")
    assert await corrections.ask(book.ledger, stored.id, 1, [NOON + 2 * HOUR], "by the old") == 0
    book.clock.set(NOON + HOUR)

    answer = await book.claim(book.asked(row))

    assert isinstance(answer, Ended)
    assert (answer.status, answer.reason) == (Status.SKIPPED, "not due any more")


async def _corrected(book: Book, how: str, **fields: str) -> tuple[StoredJob, RunRow]:
    """A job with a row for its next due time, made an hour ahead, and then edited."""
    stored = await book.add(cron="0 * * * *", prompt="The old", deadline="30s", **fields)
    if how == "crashed":
        crashed = EndInPrefect("f", "CRASHED", "Crashed", "", book.due(stored, flow_run_id="f"))
        assert await ends.take(book.ledger, crashed) is Status.WAITING
    else:
        await corrections.ask(book.ledger, stored.id, 1, [NOON + HOUR], "a change of the clocks")
    book.clock.move(MINUTE)
    edited = await book.edit(stored.id, prompt="The new", agent="other", deadline="")
    (row,) = await book.rows()
    return edited, row


@pytest.mark.parametrize("how", ["asked", "crashed"])
@pytest.mark.parametrize("late", [0, 40])
async def test_one_acts_with_the_revision_in_force_at_its_due_time(
    book: Book, how: str, late: int
) -> None:
    edited, row = await _corrected(book, how)
    book.clock.set(NOON + HOUR + late * SECOND)
    await leases.expire_all(book.ledger)  # the deadline of before is withdrawn

    granted = await book.granted(book.asked(row))

    assert granted.parameters == edited.job.parameters()
    assert granted.parameters["prompt"] == "The new"
    assert (granted.due, granted.queued_at) == (NOON + HOUR, NOON + HOUR)
    row = await book.row(granted.run_id)
    assert (row.revision, row.agent, row.parameters) == (2, "other", granted.parameters)


@pytest.mark.parametrize("how", ["asked", "crashed"])
@pytest.mark.parametrize(("catch_up", "status"), [("none", "missed"), ("latest", "waiting")])
async def test_the_audit_judges_one_by_the_revision_in_force_at_its_due_time(
    book: Book, how: str, catch_up: str, status: str
) -> None:
    edited, row = await _corrected(book, how, catch_up=catch_up)
    book.clock.set(NOON + HOUR + 2 * MINUTE)
    await book.edit(edited.id, prompt="Later than that")

    await advance(book, edited)

    (row,) = await book.rows()
    assert (row.status, row.revision, row.agent) == (status, 2, "other")
    assert row.parameters == edited.job.parameters()


async def test_one_is_staggered_by_the_revision_in_force_at_its_due_time(book: Book) -> None:
    for name in ("a", "b", "c", "d", "e", "f"):
        stored = await book.add(name, cron="0 * * * *", stagger="30m", catch_up="none")
        if upcoming.offset(stored.id, timedelta(minutes=30)) > 2 * MINUTE:
            break
    await corrections.ask(book.ledger, stored.id, 1, [NOON + HOUR], "a change of the clocks")
    (row,) = await book.rows()
    book.clock.move(MINUTE)
    await book.edit(stored.id, stagger="")
    book.clock.set(NOON + HOUR)

    assert isinstance(await book.claim(book.asked(row)), Granted)


async def test_what_began_goes_on_with_what_it_began_with(book: Book) -> None:
    stored = await book.add(cron="0 * * * *", prompt="The old")
    offer = book.due(stored)
    granted = await book.begun(offer)
    broke = Outcome(Status.FAILED, error="it broke")
    until = book.clock.now() + MINUTE
    await claims.retry(book.ledger, granted.run_id, granted.fence, broke, until)
    await _known_late(book, stored, prompt="The new")
    book.clock.set(until)

    assert (await book.granted(offer)).parameters["prompt"] == "The old"


async def _known_late(book: Book, stored: StoredJob, **changes: str) -> None:
    """An edit in Prefect of a minute after the job was made, of which the ledger knows only now."""
    async with book.ledger.write() as session:
        now, at = book.clock.now(), stored.row.created_at + MINUTE
        job = edit(stored.job, changes, now=now)
        await jobs.change(session, stored, job, now, edited=at, source="prefect")


async def test_one_edited_in_prefect_before_its_time_acts_as_edited(book: Book) -> None:
    # It waits for a slot that another has, when the ledger gets to know of the edit.
    stored = await book.add(cron="0 * * * *", prompt="The old")
    other = await book.begun(book.due(await book.add("other")))
    offer = book.due(stored, due=other.due, most=1)
    assert isinstance(await book.claim(offer), Waiting)
    await _known_late(book, stored, prompt="The new")
    await book.settle(other, Status.SUCCEEDED)

    assert (await book.granted(offer)).parameters["prompt"] == "The new"
