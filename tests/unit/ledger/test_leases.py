"""Fences and leases: who may write, and what a lost lease means (`docs/promise.md` 3, 5, 6)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from daybook.errors import FenceRefused, IllegalTransition
from daybook.ledger import claims, leases
from daybook.ledger.offers import Ended, Granted, Waiting
from daybook.ledger.outcomes import Outcome
from daybook.ledger.states import Status
from daybook.timing import TIMING
from tests.unit.ledger.conftest import Book

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

MICROSECOND = timedelta(microseconds=1)


def test_the_figures_of_the_page() -> None:
    assert timedelta(seconds=60) == TIMING.run_lease
    assert timedelta(seconds=20) == TIMING.run_lease_renewal


async def test_a_renewed_lease_counts_from_the_renewal(book: Book) -> None:
    granted = await book.begun(book.due(await book.add()))
    book.clock.move(timedelta(seconds=59))

    assert await leases.renew(book.ledger, granted.run_id, granted.fence)

    assert (await book.row(granted.run_id)).lease_until == book.clock.now() + TIMING.run_lease


async def test_a_lease_is_judged_one_lease_after_it_was_found_to_have_run_out(book: Book) -> None:
    stored = await book.add(every="10m")
    granted = await book.begun(book.due(stored))
    await book.suspect()
    book.clock.move(TIMING.run_lease - MICROSECOND)
    async with book.ledger.write() as session:
        assert await leases.expire(session, stored.id, book.clock.now()) == 0
    book.clock.move(MICROSECOND)
    async with book.ledger.write() as session:
        assert await leases.expire(session, stored.id, book.clock.now()) == 1
    assert (await book.row(granted.run_id)).status == "unknown"


async def test_a_machine_that_slept_loses_no_run(book: Book) -> None:
    # Nobody looked for hours: who claims first after that must not judge the sleeper.
    stored = await book.add(every="10m")
    granted = await book.begun(book.due(stored))
    book.clock.move(timedelta(hours=5))

    offer = book.due(stored, due=book.clock.now())
    answer = await book.claim(offer)

    assert isinstance(answer, Waiting)
    assert answer.why.startswith("overlap: it is not known yet")
    assert await leases.renew(book.ledger, granted.run_id, granted.fence)
    answer = await book.claim(offer)
    assert isinstance(answer, Ended)
    assert answer.reason.startswith("overlap: ")
    book.clock.move(TIMING.run_lease - MICROSECOND)
    async with book.ledger.write() as session:
        assert await leases.expire(session, stored.id, book.clock.now()) == 0
    assert await book.settle(granted, Status.SUCCEEDED) is Status.SUCCEEDED


@pytest.mark.parametrize("fence", [0, 2])
async def test_only_the_fence_in_force_renews(book: Book, fence: int) -> None:
    granted = await book.begun(book.due(await book.add()))
    before = await book.row(granted.run_id)
    book.clock.move(timedelta(seconds=1))

    assert not await leases.renew(book.ledger, granted.run_id, fence)
    assert (await book.row(granted.run_id)).lease_until == before.lease_until


async def test_nothing_that_has_ended_or_is_nowhere_is_renewed(book: Book) -> None:
    granted = await book.settled(book.due(await book.add()), Status.SUCCEEDED)

    assert not await leases.renew(book.ledger, granted.run_id, granted.fence)
    assert not await leases.renew(book.ledger, "nobody", 1)


async def test_lost_before_the_effect_it_waits_under_a_higher_fence(book: Book) -> None:
    stored = await book.add()
    offer = book.due(stored)
    granted = await book.granted(offer)
    await book.lose()

    async with book.ledger.write() as session:
        assert await leases.expire(session, stored.id, book.clock.now()) == 1

    row = await book.row(granted.run_id)
    assert (row.status, row.fence, row.holder, row.lease_until) == ("waiting", 2, "", None)
    assert row.until == book.clock.now()
    assert row.reason == "the lease was lost before the effect"
    with pytest.raises(FenceRefused):
        await claims.begin(book.ledger, granted.run_id, granted.fence)
    assert await book.attempts(granted.run_id) == []
    assert not await leases.renew(book.ledger, granted.run_id, granted.fence)


async def test_lost_after_begin_it_is_unknown_and_never_repeated(book: Book) -> None:
    offer = book.due(await book.add())
    granted = await book.begun(offer)
    await book.lose()

    answer = await book.claim(replace(offer, flow_run_id="another", holder="there:2"))

    assert isinstance(answer, Ended)
    assert answer.status is Status.UNKNOWN
    row = await book.row(granted.run_id)
    assert (row.status, row.fence, row.finished_at) == ("unknown", 1, book.clock.now())
    assert row.reason == "the lease of here:1 was lost while it was acting"
    (attempt,) = await book.attempts(granted.run_id)
    assert (attempt.status, attempt.finished_at) == ("unknown", book.clock.now())


@pytest.mark.parametrize(
    "status", [Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT, Status.CANCELLED]
)
async def test_the_last_fence_may_bring_its_outcome_late(book: Book, status: Status) -> None:
    offer = book.due(await book.add())
    granted = await book.begun(offer)
    await book.lose()
    await book.claim(replace(offer, flow_run_id="another"))
    book.clock.move(timedelta(hours=1))

    assert await book.settle(granted, status, output="at last") is status

    row = await book.row(granted.run_id)
    assert (row.status, row.output, row.finished_at) == (status, "at last", book.clock.now())
    assert row.reason == ""
    (attempt,) = await book.attempts(granted.run_id)
    assert attempt.status == status


async def test_a_lower_fence_is_refused_and_what_it_knew_is_kept(book: Book) -> None:
    offer = book.due(await book.add())
    old = await book.granted(offer)
    await book.lose()
    new = await book.claim(replace(offer, flow_run_id="another", holder="there:2"))
    assert isinstance(new, Granted)
    await claims.begin(book.ledger, new.run_id, new.fence)

    with pytest.raises(FenceRefused) as refused:
        await book.settle(old, Status.FAILED, output="half", error="cut off", reason="r")

    assert (refused.value.fence, refused.value.current) == (1, 3)
    row = await book.row(old.run_id)
    assert (row.status, row.output) == ("acting", None)
    known = {"fence": 1, "status": "failed", "reason": "r", "error": "cut off", "output": "half"}
    assert row.evidence == [known | {"at": book.clock.now().isoformat()}]


async def test_a_fence_from_the_future_is_refused_as_well(book: Book) -> None:
    granted = await book.begun(book.due(await book.add()))

    with pytest.raises(FenceRefused):
        await claims.settle(
            book.ledger, granted.run_id, granted.fence + 1, Outcome(Status.SUCCEEDED)
        )


async def test_settled_twice_is_settled_once(book: Book) -> None:
    stored = await book.add()
    granted = await book.settled(book.due(stored), Status.SUCCEEDED, output="yes")
    before = await book.row(granted.run_id)
    book.clock.move(timedelta(minutes=1))

    assert await book.settle(granted, Status.SUCCEEDED, output="other") is Status.SUCCEEDED

    assert await book.row(granted.run_id) == before
    assert (await book.job(stored.id)).run_count == 1


async def test_another_outcome_of_the_same_fence_is_refused_and_kept(book: Book) -> None:
    granted = await book.settled(book.due(await book.add()), Status.CANCELLED)

    with pytest.raises(IllegalTransition, match="from cancelled to succeeded"):
        await book.settle(granted, Status.SUCCEEDED, output="done all the same")

    row = await book.row(granted.run_id)
    assert row.status == "cancelled"
    assert row.evidence[0]["output"] == "done all the same"


async def test_begun_twice_is_refused(book: Book) -> None:
    granted = await book.begun(book.due(await book.add()))

    with pytest.raises(IllegalTransition):
        await claims.begin(book.ledger, granted.run_id, granted.fence)

    assert len(await book.attempts(granted.run_id)) == 1


async def test_begin_extends_the_lease_and_notes_the_start(book: Book) -> None:
    granted = await book.granted(book.due(await book.add()))
    book.clock.move(timedelta(seconds=30))

    assert await claims.begin(book.ledger, granted.run_id, granted.fence) == 1

    row = await book.row(granted.run_id)
    assert row.started_at == book.clock.now()
    assert row.lease_until == book.clock.now() + TIMING.run_lease


async def test_postponed_it_waits_and_the_giver_is_fenced_off(book: Book) -> None:
    granted = await book.granted(book.due(await book.add()))
    until = book.clock.now() + timedelta(minutes=3)

    await claims.postpone(book.ledger, granted.run_id, granted.fence, until, "the session is busy")

    row = await book.row(granted.run_id)
    assert (row.status, row.until, row.reason) == ("waiting", until, "the session is busy")
    with pytest.raises(FenceRefused):
        await claims.postpone(book.ledger, granted.run_id, granted.fence, until, "again")
    with pytest.raises(FenceRefused):
        await claims.begin(book.ledger, granted.run_id, granted.fence)


async def test_only_the_leases_of_one_job_are_judged(book: Book) -> None:
    one, two = await book.add("one"), await book.add("two")
    await book.begun(book.due(one))
    other = await book.begun(book.due(two, due=book.clock.now()))
    await book.lose()

    async with book.ledger.write() as session:
        assert await leases.expire(session, one.id, book.clock.now()) == 1

    assert (await book.row(other.run_id)).status == "acting"
