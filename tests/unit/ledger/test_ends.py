"""Ends made in Prefect, by the state the row is in (`docs/promise.md` 13, the other way)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daybook.errors import FenceRefused
from daybook.ledger import claims, ends
from daybook.ledger.offers import Ended, Granted, Offer
from daybook.ledger.outcomes import Outcome
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from tests.unit.ledger.conftest import Book
from tests.unit.ledger.ending import BY_HAND, SAID, TYPES, Type, end, take

pytestmark = pytest.mark.anyio


async def _waiting(book: Book, **fields: Any) -> tuple[Offer, RunRow]:
    """A run that was asked for, and the Prefect run that was made for it."""
    stored = await book.add(**({"every": "1h"} | fields))
    row = await claims.request(book.ledger, stored, "1", "manual")
    await claims.carried_by(book.ledger, row, "f1")
    return book.asked(row, flow_run_id="f1"), await book.row(row.id)


async def _claimed(book: Book) -> tuple[Offer, Granted]:
    offer = book.due(await book.add())
    return offer, await book.granted(offer)


# --- waiting


async def test_a_waiting_one_that_is_cancelled_there_is_cancelled(book: Book) -> None:
    offer, row = await _waiting(book)

    assert await take(book, offer, "CANCELLED") is Status.CANCELLED

    found = await book.row(row.id)
    assert (found.status, found.reason) == ("cancelled", "cancelled in Prefect")
    assert (found.finished_at, found.until) == (book.clock.now(), None)
    assert found.unmirrored
    assert (await book.job(str(row.job_id))).last_status == "cancelled"
    assert await take(book, offer, "CANCELLED") is None
    assert isinstance(await book.claim(offer), Ended)


async def test_a_waiting_one_that_is_completed_there_is_skipped(book: Book) -> None:
    offer, row = await _waiting(book)

    assert await take(book, offer, "COMPLETED") is Status.SKIPPED

    assert (await book.row(row.id)).reason == BY_HAND


async def test_a_waiting_one_that_we_refused_there_has_the_reason_of_that(book: Book) -> None:
    offer, row = await _waiting(book)

    refused = end(offer, "SKIPPED", message="the job was removed")
    assert await ends.take(book.ledger, refused) is Status.SKIPPED

    assert (await book.row(row.id)).reason == "the job was removed"


@pytest.mark.parametrize("state", ["CRASHED", "FAILED"])
async def test_a_waiting_one_whose_run_broke_waits_for_another(book: Book, state: Type) -> None:
    offer, row = await _waiting(book)
    book.clock.move(timedelta(seconds=5))

    assert await take(book, offer, state) is Status.WAITING

    found = await book.row(row.id)
    assert (found.status, found.flow_run_id, found.until) == ("waiting", None, book.clock.now())
    assert found.reason == f"its Prefect run ended as {state.title()}: {SAID}"
    # The same end once more, as the next poll brings it.
    book.clock.move(timedelta(seconds=5))
    assert await take(book, offer, state) is None
    assert await book.row(row.id) == found
    # And after another run was made.
    await claims.carried_by(book.ledger, row, "f2")
    assert await take(book, offer, state) is None
    assert (await book.row(row.id)).flow_run_id == "f2"
    assert isinstance(await book.claim(replace(offer, flow_run_id="f2")), Granted)


async def test_a_backoff_is_not_cut_short_by_a_crash(book: Book) -> None:
    offer, row = await _waiting(book)
    granted = await book.begun(offer)
    until = book.clock.now() + timedelta(minutes=5)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(book.ledger, granted.run_id, granted.fence, failed, until)

    assert await take(book, offer, "CRASHED") is Status.WAITING

    found = await book.row(row.id)
    assert (found.until, found.flow_run_id) == (until, None)


async def test_after_three_runs_that_never_began_it_has_failed(book: Book) -> None:
    offer, row = await _waiting(book)
    waits = []
    for flow in ("f1", "f2"):
        assert await take(book, replace(offer, flow_run_id=flow), "FAILED") is Status.WAITING
        until = (await book.row(row.id)).until
        assert until is not None
        waits.append((until - book.clock.now()).total_seconds())
        await claims.carried_by(book.ledger, await book.row(row.id), f"f{len(waits) + 1}")
    assert waits == [0, 2]

    assert await take(book, replace(offer, flow_run_id="f3"), "FAILED") is Status.FAILED

    found = await book.row(row.id)
    assert found.error == f"its Prefect runs ended 3 times before it began: {SAID}"
    assert (found.status, found.attempts, found.flow_run_id) == ("failed", 0, "f3")
    assert found.unmirrored
    job = await book.job(str(row.job_id))
    assert (job.last_error, job.consecutive_failures) == (found.error, 1)


async def test_one_that_has_begun_before_is_not_failed_for_its_runs(book: Book) -> None:
    offer, row = await _waiting(book)
    for number in (2, 3, 4):
        await claims.carried_by(book.ledger, await book.row(row.id), f"f{number}")
    offer = replace(offer, flow_run_id="f4")
    granted = await book.begun(offer)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(book.ledger, granted.run_id, granted.fence, failed, book.clock.now())

    assert await take(book, offer, "CRASHED") is Status.WAITING


# --- waiting, and no Prefect run written down


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("CANCELLED", "cancelled"),
        ("COMPLETED", "skipped"),
        ("CRASHED", "waiting"),
        ("FAILED", "waiting"),
    ],
)
async def test_of_a_run_that_is_not_written_down_a_persons_wish_counts(
    book: Book, state: Type, status: str
) -> None:
    # A crash between the making of the Prefect run and `carried_by`.
    stored = await book.add(every="1h")
    row = await claims.request(book.ledger, stored, "1", "manual")
    offer = book.asked(row, flow_run_id="f1")

    answer = await take(book, offer, state)

    found = await book.row(row.id)
    assert found.status == status
    if status == "waiting":
        assert answer is None
        assert found == row
    else:
        assert answer == status
        assert (found.flow_run_id, found.unmirrored) == ("f1", True)


async def test_our_own_refusal_is_no_persons_wish(book: Book) -> None:
    stored = await book.add(every="1h")
    row = await claims.request(book.ledger, stored, "1", "manual")

    made = end(book.asked(row), "SKIPPED")
    assert await ends.take(book.ledger, made) is None

    assert (await book.row(row.id)).status == "waiting"


# --- claimed


@pytest.mark.parametrize(
    ("state", "status", "reason", "error"),
    [
        ("CANCELLED", Status.CANCELLED, "cancelled in Prefect", None),
        ("FAILED", Status.FAILED, "", SAID),
        ("COMPLETED", Status.SKIPPED, BY_HAND, None),
    ],
)
async def test_a_claimed_one_ends_as_it_ended_there(
    book: Book, state: Type, status: Status, reason: str, error: str | None
) -> None:
    offer, granted = await _claimed(book)

    assert await take(book, offer, state) is status

    row = await book.row(granted.run_id)
    assert (row.status, row.reason, row.error) == (status, reason, error)
    assert row.unmirrored
    with pytest.raises(FenceRefused):
        await claims.begin(book.ledger, granted.run_id, granted.fence)


async def test_a_claimed_one_that_crashed_there_waits_at_once(book: Book) -> None:
    offer, granted = await _claimed(book)

    assert await take(book, offer, "CRASHED") is Status.WAITING

    row = await book.row(granted.run_id)
    assert (row.status, row.flow_run_id, row.until) == ("waiting", None, book.clock.now())
    assert row.fence == granted.fence + 1
    assert row.reason == f"its Prefect run ended as Crashed: {SAID}"
    with pytest.raises(FenceRefused):
        await claims.begin(book.ledger, granted.run_id, granted.fence)


# --- acting


async def test_an_acting_one_that_was_cancelled_there_is_cancelled(book: Book) -> None:
    offer = book.due(await book.add())
    granted = await book.begun(offer)

    assert await take(book, offer, "CANCELLED") is Status.CANCELLED

    (attempt,) = await book.attempts(granted.run_id)
    assert attempt.status == "cancelled"


@pytest.mark.parametrize("state", ["CRASHED", "FAILED", "COMPLETED"])
async def test_an_acting_one_cannot_be_known(book: Book, state: Type) -> None:
    offer = book.due(await book.add())
    granted = await book.begun(offer)

    assert await take(book, offer, state) is Status.UNKNOWN

    row = await book.row(granted.run_id)
    assert row.reason == f"its Prefect run ended as {state.title()}: {SAID}"
    # It was at work all the same: its outcome comes late, and counts.
    assert await book.settle(granted, Status.SUCCEEDED) is Status.SUCCEEDED


async def test_an_acting_one_is_run_again_where_the_job_says_so(book: Book) -> None:
    offer = book.due(await book.add(every="1h", on_lost="rerun"))
    granted = await book.begun(offer)

    assert await take(book, offer, "CRASHED") is Status.WAITING

    row = await book.row(granted.run_id)
    assert (row.status, row.flow_run_id) == ("waiting", None)
    assert row.until is not None
    assert row.until > book.clock.now()


# --- whose end it is


@pytest.mark.parametrize("state", TYPES)
async def test_an_end_of_what_has_ended_changes_nothing(book: Book, state: Type) -> None:
    offer = book.due(await book.add())
    granted = await book.settled(offer, Status.SUCCEEDED)
    before = await book.row(granted.run_id)

    assert await take(book, offer, state) is None

    assert await book.row(granted.run_id) == before


@pytest.mark.parametrize("state", TYPES)
@pytest.mark.parametrize("begun", [True, False])
async def test_an_end_of_a_run_that_another_replaced_changes_nothing(
    book: Book, state: Type, begun: bool
) -> None:
    offer, granted = await _claimed(book)
    if begun:
        await claims.begin(book.ledger, granted.run_id, granted.fence)
    before = await book.row(granted.run_id)

    assert await take(book, replace(offer, flow_run_id="another"), state) is None

    assert await book.row(granted.run_id) == before


async def test_an_end_seen_before_the_last_claim_changes_nothing(book: Book) -> None:
    offer, granted = await _claimed(book)
    seen = (await book.row(granted.run_id)).fence
    until = book.clock.now()
    await claims.postpone(book.ledger, granted.run_id, granted.fence, until, "set back")
    again = await book.begun(offer)

    assert await ends.take(book.ledger, end(offer, "CRASHED"), seen) is None
    assert (await book.row(granted.run_id)).status == "acting"
    assert await ends.take(book.ledger, end(offer, "CRASHED"), again.fence) is Status.UNKNOWN


async def test_a_row_is_found_without_an_offer_too(book: Book) -> None:
    offer, row = await _waiting(book)

    assert await ends.take(book.ledger, replace(end(offer, "CANCELLED"), offer=None)) is (
        Status.CANCELLED
    )

    assert (await book.row(row.id)).status == "cancelled"


async def test_of_several_starts_the_live_one_is_meant(book: Book) -> None:
    offer = book.due(await book.add())
    first = await book.settled(offer, Status.FAILED)
    retried = await book.claim(replace(offer, flow_starts=2, retries=(1,)))
    assert isinstance(retried, Granted)

    assert await take(book, replace(offer, flow_starts=2), "CANCELLED") is Status.CANCELLED

    assert (await book.row(retried.run_id)).status == "cancelled"
    assert (await book.row(first.run_id)).status == "failed"


# --- refused


async def test_a_run_that_prefect_refuses_waits_longer_each_time_and_has_failed_then(
    book: Book,
) -> None:
    row = await claims.request(book.ledger, await book.add(), "1", "manual")
    pauses = []
    for _ in range(2):
        assert await ends.refused(book.ledger, await book.row(row.id), "no") is Status.WAITING
        until = (await book.row(row.id)).until
        assert until is not None
        pauses.append((until - book.clock.now()).total_seconds())
    assert pauses == [15, 30]

    assert await ends.refused(book.ledger, await book.row(row.id), "no") is Status.FAILED

    found = await book.row(row.id)
    assert found.error == "Prefect refused to make its run, 3 were asked for: no"
    assert (found.status, found.waits_for, found.attempts) == ("failed", "", 0)
    assert await ends.refused(book.ledger, found, "no") is None


async def test_of_two_that_are_refused_at_once_one_counts(book: Book) -> None:
    row = await claims.request(book.ledger, await book.add(), "1", "manual")

    assert await ends.refused(book.ledger, row, "no") is Status.WAITING
    assert await ends.refused(book.ledger, row, "no") is None

    assert (await book.row(row.id)).prefect_runs == 1


async def test_a_run_that_was_carried_meanwhile_was_not_refused(book: Book) -> None:
    row = await claims.request(book.ledger, await book.add(), "1", "manual")
    await claims.carried_by(book.ledger, row, "f1")

    assert await ends.refused(book.ledger, row, "no") is None

    assert (await book.row(row.id)).flow_run_id == "f1"


async def test_a_backoff_is_not_cut_short_by_a_refusal_and_an_attempt_gives_patience(
    book: Book,
) -> None:
    offer, row = await _waiting(book)
    granted = await book.begun(offer)
    until = book.clock.now() + timedelta(minutes=5)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(book.ledger, granted.run_id, granted.fence, failed, until)

    for count in (2, 3):
        assert await ends.refused(book.ledger, await book.row(row.id), "no") is Status.WAITING
        found = await book.row(row.id)
        assert (found.prefect_runs, found.until) == (count, until)

    assert await ends.refused(book.ledger, await book.row(row.id), "no") is Status.FAILED
