"""Attempts: how each ended stays as it was written, what each took is added up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from daybook.errors import FenceRefused, IllegalTransition
from daybook.ledger import claims, outcomes, usage
from daybook.ledger.offers import Granted, Offer
from daybook.ledger.outcomes import Outcome
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from tests.unit.ledger.conftest import Book

pytestmark = pytest.mark.anyio

ONE = {"requests": 1, "input_tokens": 10, "output_tokens": 5, "cost_usd": 0.25}
TWO = {"requests": 2, "input_tokens": 20, "output_tokens": 10, "cost_usd": 0.5}
LIMITED = Outcome(Status.FAILED, error="429")
TIMED_OUT = Outcome(Status.TIMED_OUT, error="no answer within 1 s", usage=ONE)
DELAY = timedelta(seconds=7)


async def _retried(book: Book, granted: Granted, outcome: Outcome = LIMITED) -> Status:
    until = book.clock.now() + DELAY
    return await claims.retry(book.ledger, granted.run_id, granted.fence, outcome, until)


async def _all(book: Book, run_id: str) -> list[Any]:
    row = (await book.row(run_id)).model_dump()
    return [row, *(each.model_dump() for each in await book.attempts(run_id))]


# --- what they took


async def test_a_run_took_what_all_its_attempts_took(book: Book) -> None:
    offer = book.due(await book.add())
    first = await book.begun(offer)
    await _retried(book, first, TIMED_OUT)
    assert (await book.row(first.run_id)).usage == ONE

    book.clock.move(DELAY)
    await _retried(book, await book.begun(offer))
    assert (await book.row(first.run_id)).usage == ONE
    book.clock.move(DELAY)
    await book.settled(offer, Status.SUCCEEDED, usage=TWO)

    row, *attempts = await _all(book, first.run_id)
    assert [each["usage"] for each in attempts] == [ONE, None, TWO]
    assert row["usage"] == {
        "requests": 3,
        "input_tokens": 30,
        "output_tokens": 15,
        "cost_usd": 0.75,
    }


async def test_a_late_outcome_adds_what_it_took(book: Book) -> None:
    offer = book.due(await book.add())
    await _retried(book, await book.begun(offer), TIMED_OUT)
    book.clock.move(DELAY)
    lost = await book.settled(offer, Status.UNKNOWN)
    assert (await book.row(lost.run_id)).usage == ONE

    await book.settle(lost, Status.SUCCEEDED, usage=ONE)

    assert (await book.row(lost.run_id)).usage == TWO


async def test_what_a_refused_writer_had_paid_for_is_in_its_evidence(book: Book) -> None:
    granted = await book.settled(book.due(await book.add()), Status.CANCELLED)

    with pytest.raises(IllegalTransition):
        await book.settle(granted, Status.SUCCEEDED, usage=ONE)

    (known,) = (await book.row(granted.run_id)).evidence
    assert known["usage"] == ONE


@pytest.mark.parametrize(
    ("parts", "total"),
    [
        ([], None),
        ([None, None], None),
        ([None, ONE], ONE),
        ([ONE, {"requests": 1, "cost_usd": None}, ONE], TWO | {"requests": 3, "cost_usd": None}),
        ([ONE, ONE | {"cache_read_tokens": 3}], TWO | {"cache_read_tokens": 3}),
        # An agent of another's making may tell anything.
        ([{"tier": "fast"}, {"tier": "slow"}, ONE], ONE | {"tier": "slow"}),
    ],
)
def test_the_sum(parts: list[dict[str, Any] | None], total: dict[str, Any] | None) -> None:
    assert usage.total(parts) == total


# --- how they ended


async def test_a_run_that_cannot_begin_again_leaves_its_last_attempt_as_it_ended(
    book: Book,
) -> None:
    offer = book.due(await book.add())
    await _retried(book, await book.begun(offer), TIMED_OUT)
    book.clock.move(DELAY)
    again = await book.granted(offer)
    before = await book.attempts(again.run_id)

    await book.settle(again, Status.FAILED, error='unknown agent "x"')

    assert await book.attempts(again.run_id) == before
    assert [each.status for each in before] == ["timed_out"]
    row = await book.row(again.run_id)
    assert (row.status, row.error, row.usage) == ("failed", 'unknown agent "x"', ONE)


async def test_of_a_lost_attempt_that_is_to_be_run_again_the_end_stays_unknown(
    book: Book,
) -> None:
    granted = await book.begun(book.due(await book.add(every="1h", on_lost="rerun")))
    await claims.died(book.ledger, granted.run_id, granted.fence, "killed")
    before = await book.attempts(granted.run_id)

    cancelled = await claims.cancel(book.ledger, granted.run_id)

    assert cancelled.status == "cancelled"
    assert await book.attempts(granted.run_id) == before
    assert [each.status for each in before] == ["unknown"]


async def test_an_attempt_that_has_ended_is_not_closed_again(book: Book) -> None:
    ended = await book.settled(book.due(await book.add()), Status.SUCCEEDED, usage=ONE)
    before = await _all(book, ended.run_id)
    book.clock.move(DELAY)

    async with book.ledger.write() as session:
        row = await session.get(RunRow, ended.run_id)
        assert row is not None
        await outcomes.close_attempt(session, row, LIMITED, book.clock.now())

    assert await _all(book, ended.run_id) == before


async def test_what_is_only_said_twice_is_kept_once(book: Book) -> None:
    said = {"reason": "no answer within 4 s", "error": "no answer within 4 s"}
    ended = await book.settled(book.due(await book.add()), Status.TIMED_OUT, **said)

    row = await book.row(ended.run_id)
    assert (row.reason, row.error) == ("", "no answer within 4 s")


# --- another attempt is to follow


async def _begun(book: Book) -> tuple[Offer, Granted]:
    offer = book.due(await book.add())
    return offer, await book.begun(offer)


async def test_judged_unknown_meanwhile_it_ends_as_its_attempt_did(book: Book) -> None:
    _, granted = await _begun(book)
    await book.settle(granted, Status.UNKNOWN, reason="the lease was lost")

    assert await _retried(book, granted, TIMED_OUT) is Status.TIMED_OUT

    row, attempt = await _all(book, granted.run_id)
    assert (row["status"], row["error"]) == ("timed_out", TIMED_OUT.error)
    assert (row["until"], row["usage"], row["evidence"]) == (None, ONE, [])
    assert (attempt["status"], attempt["usage"]) == ("timed_out", ONE)
    assert await _retried(book, granted, TIMED_OUT) is Status.TIMED_OUT


@pytest.mark.parametrize("since", ["waiting", "claimed", "acting", "succeeded", "cancelled"])
async def test_written_again_after_an_answer_that_was_lost_it_changes_nothing(
    book: Book, since: str
) -> None:
    offer, granted = await _begun(book)
    assert await _retried(book, granted) is Status.WAITING
    if since == "cancelled":
        await claims.cancel(book.ledger, granted.run_id)
    elif since != "waiting":
        book.clock.move(DELAY)
        again = await book.granted(offer)
        if since != "claimed":
            await claims.begin(book.ledger, again.run_id, again.fence)
        if since == "succeeded":
            await book.settle(again, Status.SUCCEEDED)
    before = await _all(book, granted.run_id)

    assert await _retried(book, granted) is Status(since)

    assert await _all(book, granted.run_id) == before


async def test_who_lost_its_claim_is_refused_and_what_it_knew_is_kept(book: Book) -> None:
    _, granted = await _begun(book)
    await _retried(book, granted)

    with pytest.raises(FenceRefused):
        await _retried(book, granted, TIMED_OUT)

    row, attempt = await _all(book, granted.run_id)
    assert (row["status"], row["fence"]) == ("waiting", granted.fence + 1)
    (known,) = row["evidence"]
    assert (known["fence"], known["status"]) == (granted.fence, "timed_out")
    assert (known["error"], known["usage"]) == (TIMED_OUT.error, ONE)
    assert (attempt["status"], attempt["error"]) == ("failed", "429")


@pytest.mark.parametrize("status", [Status.CANCELLED, Status.SUCCEEDED, Status.FAILED])
async def test_what_has_another_outcome_keeps_it(book: Book, status: Status) -> None:
    _, granted = await _begun(book)
    await book.settle(granted, status, error="another")

    with pytest.raises(IllegalTransition):
        await _retried(book, granted)

    row, attempt = await _all(book, granted.run_id)
    assert row["status"] == attempt["status"] == status
    assert [known["error"] for known in row["evidence"]] == ["429"]


async def test_what_was_not_begun_has_no_attempt_to_end(book: Book) -> None:
    granted = await book.granted(book.due(await book.add()))

    with pytest.raises(IllegalTransition, match="claimed"):
        await _retried(book, granted)

    assert (await book.row(granted.run_id)).status == "claimed"
