"""Every pair of states, by what `docs/promise.md` joins, through the functions that make steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from daybook.errors import IllegalTransition, LedgerError, NotFound
from daybook.ledger import claims, corrections, ends, offers, states
from daybook.ledger.ends import EndInPrefect
from daybook.ledger.offers import Answer, Ended, Granted, Offer
from daybook.ledger.outcomes import Outcome
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from tests.unit.ledger.conftest import Book

pytestmark = pytest.mark.anyio

# "The states" of docs/promise.md, line by line.
JOINED = {
    "none": "waiting claimed skipped missed cancelled failed",
    "waiting": "claimed skipped missed cancelled timed_out",
    "claimed": "acting waiting skipped cancelled failed timed_out",
    "acting": "succeeded failed timed_out cancelled unknown waiting",
    "unknown": "succeeded failed timed_out cancelled",
    "succeeded": "",
    "failed": "",
    "timed_out": "",
    "cancelled": "",
    "skipped": "",
    "missed": "",
}
NAMES = [name for name in JOINED if name != "none"]
PAIRS = list(product(JOINED, NAMES))
LEGAL = [(old, new) for old, new in PAIRS if new in JOINED[old].split()]
ILLEGAL = [pair for pair in PAIRS if pair not in LEGAL]


def _status(name: str) -> Status | None:
    return None if name == "none" else Status(name)


def test_the_table_names_every_state() -> None:
    assert sorted(NAMES) == sorted(Status)
    assert len(LEGAL) == 27
    assert len(PAIRS) == 110


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_the_check_knows_the_table(old: str, new: str) -> None:
    if (old, new) in LEGAL:
        states.check("run", _status(old), Status(new))
    else:
        with pytest.raises(IllegalTransition, match=f"from {old} to {new}"):
            states.check("run", _status(old), Status(new))


async def _bring(book: Book, state: str) -> tuple[Offer, RunRow | None]:
    """A run in that state, made by the functions that really make it, and its offer."""
    stored = await book.add()
    offer = book.due(stored)
    match state:
        case "none":
            return offer, None
        case "waiting":
            row = await claims.request(book.ledger, stored, "1", "manual")
            return book.asked(row), row
        case "skipped":
            answer = await _switched_off(book, offer, None)
        case "missed":
            book.clock.set(offer.due + timedelta(hours=1))
            answer = await book.claim(offer)
        case "claimed":
            answer = await book.granted(offer)
        case "unknown":
            answer = await book.begun(offer)
            await book.lose()
            await book.claim(offer)
        case "acting":
            answer = await book.begun(offer)
        case _:
            answer = await book.settled(offer, Status(state))
    assert isinstance(answer, Granted | Ended)
    row = await book.row(str(answer.run_id))
    assert row.status == state
    return offer, row


async def _step(book: Book, offer: Offer, row: RunRow | None, new: str) -> Answer | None:
    """Try to make the step by the one function whose work it would be."""
    run_id, fence = (row.id, row.fence) if row else ("nobody", 0)
    match new:
        case "waiting":
            until = book.clock.now() + timedelta(minutes=1)
            await claims.postpone(book.ledger, run_id, fence, until, "not now")
        case "claimed":
            return await book.claim(offer)
        case "acting":
            await claims.begin(book.ledger, run_id, fence)
        case _:
            await claims.settle(book.ledger, run_id, fence, Outcome(Status(new)))
    return None


def _told(row: RunRow) -> dict[str, Any]:
    return row.model_dump(exclude={"evidence"})


@pytest.mark.parametrize(("old", "new"), ILLEGAL)
async def test_what_the_page_does_not_join_is_refused(book: Book, old: str, new: str) -> None:
    offer, row = await _bring(book, old)

    if new == "claimed":
        assert not isinstance(await _step(book, offer, row, new), Granted)
    elif old == new and old not in ("waiting", "acting"):
        # The same outcome again is a commit whose answer was lost: no step, and no refusal.
        await _step(book, offer, row, new)
    else:
        with pytest.raises((LedgerError, NotFound)):
            await _step(book, offer, row, new)

    if row is None:
        assert await book.rows() == []
    else:
        assert _told(await book.row(row.id)) == _told(row)


Way = Callable[[Book, Offer, RunRow | None], Awaitable[object]]


async def _ask(book: Book, offer: Offer, row: RunRow | None) -> object:
    stored = await book.stored(str(offer.job_id))
    return await claims.request(book.ledger, stored, "2", "manual")


async def _switched_off(book: Book, offer: Offer, row: RunRow | None) -> Answer:
    # After the due time and before its claim: a job that was off at its due time has none.
    book.clock.set(offer.due + timedelta(seconds=1))
    await book.edit(str(offer.job_id), enabled=False)
    return await book.claim(offer)


async def _removed(book: Book, offer: Offer, row: RunRow | None) -> object:
    await book.archive(str(offer.job_id))
    return await book.claim(offer)


async def _in_time(book: Book, offer: Offer, row: RunRow | None) -> object:
    book.clock.set(max(book.clock.now(), offer.due))
    return await book.claim(offer)


async def _too_late(book: Book, offer: Offer, row: RunRow | None) -> object:
    book.clock.set(offer.due + timedelta(hours=1))
    return await book.claim(offer)


async def _cancelled_in_prefect(book: Book, offer: Offer, row: RunRow | None) -> object:
    end = EndInPrefect(str(offer.flow_run_id), "CANCELLED", "Cancelled", "", offer)
    return await ends.take(book.ledger, end)


async def _parameters_do_not_fit(book: Book, offer: Offer, row: RunRow | None) -> object:
    book.clock.set(offer.due)
    key = offers.flow_key(str(offer.flow_run_id))
    return await book.claim(replace(offer, occurrence=key, refused="prompt: is blank"))


async def _cancelled(book: Book, offer: Offer, row: RunRow | None) -> object:
    assert row is not None
    return await claims.cancel(book.ledger, row.id)


async def _past_its_deadline(book: Book, offer: Offer, row: RunRow | None) -> object:
    assert row is not None
    async with book.ledger.write() as session:
        row.parameters = row.parameters | {"policy": {"deadline": "1s"}}
        session.add(row)
    book.clock.move(timedelta(seconds=1))
    return await book.claim(offer)


async def _nobody_came(book: Book, offer: Offer, row: RunRow | None) -> object:
    assert row is not None
    offer = book.due(await book.stored(str(offer.job_id)), flow_run_id=offer.flow_run_id)
    async with book.ledger.write() as session:
        row.occurrence, row.due, row.until = offer.occurrence, offer.due, offer.due
        row.waits_for = corrections.DUE
        session.add(row)
    return await _too_late(book, offer, row)


async def _temporary_error(book: Book, offer: Offer, row: RunRow | None) -> object:
    assert row is not None
    until = book.clock.now() + timedelta(minutes=1)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(book.ledger, row.id, row.fence, failed, until)
    return None


async def _killed(book: Book, offer: Offer, row: RunRow | None) -> object:
    assert row is not None
    return await claims.died(book.ledger, row.id, row.fence, "killed")


WAYS: dict[tuple[str, str], Way] = {
    ("none", "waiting"): _ask,
    ("none", "claimed"): _in_time,
    ("none", "skipped"): _switched_off,
    ("none", "missed"): _too_late,
    ("none", "cancelled"): _cancelled_in_prefect,
    ("none", "failed"): _parameters_do_not_fit,
    ("waiting", "skipped"): _removed,
    ("waiting", "missed"): _nobody_came,
    ("waiting", "cancelled"): _cancelled,
    ("waiting", "timed_out"): _past_its_deadline,
    ("acting", "waiting"): _temporary_error,
    ("acting", "unknown"): _killed,
}


@pytest.mark.parametrize(("old", "new"), LEGAL)
async def test_what_the_page_joins_can_be_gone(book: Book, old: str, new: str) -> None:
    offer, row = await _bring(book, old)

    if way := WAYS.get((old, new)):
        await way(book, offer, row)
    else:
        await _step(book, offer, row, new)

    (found,) = await book.rows()
    assert found.status == new


async def test_what_has_begun_is_never_given_back(book: Book) -> None:
    offer, row = await _bring(book, "acting")

    with pytest.raises(IllegalTransition):
        await _step(book, offer, row, "waiting")
