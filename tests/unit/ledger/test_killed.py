"""`kill -9` at each write: all of it is there or nothing, and the next who comes goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from daybook.errors import FenceRefused
from daybook.ledger import claims, leases
from daybook.ledger.states import Status
from daybook.timing import TIMING
from tests.unit.ledger import killed
from tests.unit.ledger.conftest import Book
from tests.unit.ledger.ending import end
from tests.unit.ledger.killed import VERBS, When

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> Iterator[None]:
    """The process that all others are forked from: it has imported the ledger."""
    killed.CONTEXT.set_forkserver_preload(["tests.unit.ledger.killed"])
    yield
    from multiprocessing import forkserver

    forkserver._forkserver._stop()  # type: ignore[attr-defined]


async def _scene(book: Book, verb: str) -> tuple[Any, ...]:
    """A run in the state in which that write changes it, and what the write is given."""
    stored = await book.add(every="1h", on_lost="rerun")
    offer = book.due(stored)
    match verb:
        case "claim":
            book.clock.set(offer.due)
            return (replace(offer, most=1, full=True),)
        case "cancel":
            return ((await claims.request(book.ledger, stored, "1", "manual")).id,)
        case "died":
            granted = await book.begun(offer)
            return granted.run_id, granted.fence, "killed", "last words"
        case "take":
            await book.granted(offer)
            return (end(offer, "FAILED"),)
        case "expire_all":
            await book.begun(offer)
            await book.lose()
            return ()
        case "renew_all":
            granted = await book.begun(offer)
            book.clock.move(TIMING.run_lease_renewal)
            return "here:1", [granted.run_id]
        case _:
            granted = await book.settled(offer, Status.SUCCEEDED)
            return ([granted.run_id],)


async def _told(book: Book) -> list[dict[str, Any]]:
    """All that the ledger says."""
    rows = await book.rows()
    told = [row.model_dump() for row in rows]
    for row in rows:
        told += [attempt.model_dump() for attempt in await book.attempts(row.id)]
        told.append((await book.job(str(row.job_id))).model_dump())
    return told


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", sorted(VERBS))
async def test_a_write_is_there_whole_or_not_at_all(book: Book, verb: str, when: When) -> None:
    given = await _scene(book, verb)
    before = await _told(book)

    code = killed.killed(book.ledger.address, book.clock, verb, given, when)

    assert code == -signal.SIGKILL
    left = await _told(book)
    assert (left == before) is (when == "before")
    # Who comes next does it, or finds it done: nothing is counted twice.
    await _again(book, verb, given, done=when == "after")
    (row,) = await book.rows()
    job = await book.job(str(row.job_id))
    expected = {
        "claim": ("waiting", 0, 0),
        "cancel": ("cancelled", 0, 0),
        "died": ("waiting", 1, 0),
        "take": ("failed", 0, 1),
        "expire_all": ("waiting", 1, 0),
        "renew_all": ("acting", 1, 0),
        "mirrored": ("succeeded", 1, 0),
    }
    assert (row.status, row.attempts, job.consecutive_failures) == expected[verb]
    assert row.fence <= 2


async def _again(book: Book, verb: str, given: tuple[Any, ...], *, done: bool) -> None:
    before = await _told(book)
    if verb == "died" and done:
        with pytest.raises(FenceRefused):
            await claims.died(book.ledger, *given)
        return
    await VERBS[verb](book.ledger, *given)
    assert (await _told(book) == before) is done


async def test_what_was_left_held_is_found_by_the_pass(book: Book) -> None:
    # The whole of a worker was killed between a grant and all that follows.
    (offer,) = await _scene(book, "claim")
    offer = replace(offer, most=None, full=False)
    code = killed.killed(book.ledger.address, book.clock, "claim", (offer,), "after")
    assert code == -signal.SIGKILL
    assert [row.status for row in await book.rows()] == ["claimed"]

    book.clock.move(TIMING.run_lease)
    assert await leases.expire_all(book.ledger) == []
    book.clock.move(TIMING.run_lease)

    assert [row.status for row in await leases.expire_all(book.ledger)] == ["waiting"]
    assert [row.until for row in await book.rows()] == [book.clock.now()]
