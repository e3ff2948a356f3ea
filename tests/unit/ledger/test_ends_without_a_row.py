"""Ends in Prefect of runs that have no row: a due time, a custom run (`docs/promise.md` 13)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daybook.ledger import ends, offers
from daybook.ledger.offers import Ended, Granted, Offer, Waiting
from daybook.ledger.states import Status
from tests.unit.ledger.conftest import Book
from tests.unit.ledger.ending import BY_HAND, SAID, TYPES, Type, end, take

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("state", "status", "reason", "error"),
    [
        ("CANCELLED", Status.CANCELLED, "cancelled in Prefect", None),
        ("FAILED", Status.FAILED, "", SAID),
        ("COMPLETED", Status.SKIPPED, BY_HAND, None),
    ],
)
async def test_a_due_time_that_ended_there_has_its_outcome(
    book: Book, state: Type, status: Status, reason: str, error: str | None
) -> None:
    stored = await book.add()
    offer = book.due(stored)  # lies ahead
    edited = replace(offer, parameters={"prompt": "another"})

    assert await take(book, edited, state) is status

    (row,) = await book.rows()
    assert (row.status, row.reason, row.error) == (status, reason, error)
    assert (row.occurrence, row.due, row.trigger) == (offer.occurrence, offer.due, "schedule")
    assert (row.job_id, row.revision, row.flow_run_id) == (stored.id, 1, offer.flow_run_id)
    assert row.parameters == stored.job.parameters()
    assert row.unmirrored
    assert (await book.job(stored.id)).last_status == status
    assert await take(book, edited, state) is None
    book.clock.set(offer.due)
    answer = await book.claim(offer)
    assert isinstance(answer, Ended)
    assert answer.run_id == row.id


async def test_a_one_time_job_whose_run_was_cancelled_ahead_has_fired(book: Book) -> None:
    at = (book.clock.now() + timedelta(hours=3)).replace(microsecond=0)
    stored = await book.add(at=at.isoformat())

    assert await take(book, book.due(stored), "CANCELLED") is Status.CANCELLED

    assert (await book.job(stored.id)).disabled_reason == "fired, cancelled"


async def test_a_due_time_that_crashed_there_waits_for_another_run(book: Book) -> None:
    stored = await book.add()
    offer = book.due(stored)
    book.clock.set(offer.due + timedelta(seconds=3))

    assert await take(book, offer, "CRASHED") is Status.WAITING

    (row,) = await book.rows()
    assert (row.status, row.flow_run_id, row.until) == ("waiting", None, book.clock.now())
    assert row.reason == f"its Prefect run ended as Crashed: {SAID}"
    assert await take(book, offer, "CRASHED") is None
    assert isinstance(await book.claim(replace(offer, flow_run_id="f2")), Granted)


async def test_one_that_crashed_before_its_time_is_not_early(book: Book) -> None:
    offer = book.due(await book.add())

    assert await take(book, offer, "CRASHED") is Status.WAITING

    (row,) = await book.rows()
    assert row.until == offer.due
    answer = await book.claim(replace(offer, flow_run_id="f2"))
    assert isinstance(answer, Waiting)
    assert answer.until == offer.due


async def test_one_that_crashed_and_was_found_too_late_is_missed(book: Book) -> None:
    offer = book.due(await book.add())
    book.clock.set(offer.due + timedelta(hours=3))

    assert await take(book, offer, "CRASHED") is Status.MISSED

    (row,) = await book.rows()
    assert row.reason == "3 hours late, and a later due time has passed"


@pytest.mark.parametrize("state", TYPES)
async def test_what_is_not_due_has_no_outcome(book: Book, state: Type) -> None:
    stored = await book.add()
    wrong = book.due(stored).due + timedelta(minutes=1)
    offer = book.due(stored, due=wrong)

    assert await take(book, offer, state) is None

    off = await book.edit(stored.id, enabled=False)
    book.clock.move(timedelta(seconds=1))
    due = book.due(stored).due
    assert await take(book, book.due(off, due=due), state) is None
    assert await book.rows() == []


@pytest.mark.parametrize(
    "changes", [{"offer": None}, {"state": "SKIPPED"}, {"job_id": None}, {"occurrence": "request"}]
)
async def test_of_what_nothing_is_known_no_row_is_made(book: Book, changes: dict[str, Any]) -> None:
    stored = await book.add()
    offer = book.due(stored)
    made = end(offer, "COMPLETED")
    if "job_id" in changes:
        made = replace(made, offer=replace(offer, job_id=None))
    elif "occurrence" in changes:
        key = offers.request_key(stored.id, "pruned")
        made = replace(made, offer=replace(offer, occurrence=key))
    else:
        made = replace(made, **changes)

    assert await ends.take(book.ledger, made) is None

    assert await book.rows() == []


def _custom(book: Book, offer: Offer, **changes: Any) -> Offer:
    custom = replace(
        offer,
        occurrence=offers.flow_key(str(offer.flow_run_id)),
        trigger="manual",
        due=book.clock.now(),
        parameters=offer.parameters | {"prompt": "Another"},
    )
    return replace(custom, **changes)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("CANCELLED", "cancelled"),
        ("COMPLETED", "skipped"),
        ("FAILED", "failed"),
        ("CRASHED", "waiting"),
    ],
)
async def test_a_custom_run_that_ended_there_has_its_outcome(
    book: Book, state: Type, status: str
) -> None:
    stored = await book.add()
    offer = _custom(book, book.due(stored))

    assert await take(book, offer, state) == status

    (row,) = await book.rows()
    assert (row.occurrence, row.trigger, row.job_id) == (offer.occurrence, "manual", stored.id)
    assert row.parameters["prompt"] == "Another"


async def test_a_custom_run_with_parameters_that_do_not_fit_is_not_made_again(book: Book) -> None:
    offer = _custom(book, book.due(await book.add()), refused="prompt: is blank")

    assert await take(book, offer, "CRASHED") is Status.FAILED

    (row,) = await book.rows()
    assert (row.reason, row.error) == ("parameters", "prompt: is blank")


async def test_a_removed_jobs_crashed_run_is_skipped(book: Book) -> None:
    stored = await book.add()
    offer = book.due(stored)
    book.clock.set(offer.due + timedelta(seconds=1))
    await book.archive(stored.id)

    assert await take(book, offer, "CRASHED") is Status.SKIPPED

    (row,) = await book.rows()
    assert row.reason == "the job was removed"
