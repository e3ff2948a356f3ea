"""Which runs are shown, in which order, and which one a name or an id means."""

from __future__ import annotations

from datetime import timedelta

import pytest

from daybook.errors import NotFound
from daybook.ledger import claims, history
from daybook.ledger.states import Status
from tests.unit.ledger.conftest import Book

pytestmark = pytest.mark.anyio


async def test_history_is_newest_first_and_by_job(book: Book) -> None:
    one, two = await book.add("one", every="10m"), await book.add("two", every="15m")
    for stored in (one, one, two, one):
        granted = await book.begun(book.due(stored))
        await book.settle(granted, Status.SUCCEEDED)
    book.clock.move(timedelta(seconds=1))

    async with book.ledger.read() as session:
        every = await history.recent(session, None, 10)
        of_one = await history.recent(session, one.id, 2)

    due = [row.due for row, _ in every]
    assert due == sorted(due, reverse=True)
    assert [job.name for _, job in every if job].count("one") == 3
    assert [row.job_id for row, _ in of_one] == [one.id, one.id]
    assert of_one[0][0].due == max(row.due for row, _ in every if row.job_id == one.id)


async def test_a_run_is_found_by_its_id_and_by_the_beginning_of_it(book: Book) -> None:
    stored = await book.add()
    ran = await book.settled(book.due(stored), Status.SUCCEEDED)

    async with book.ledger.read() as session:
        for ref in (ran.run_id, ran.run_id[:12]):
            row, job = await history.find(session, ref)
            assert (row.id, job and job.name) == (ran.run_id, "brief")
        for ref in ("", "%", "brief"):
            with pytest.raises(NotFound, match=f'run "{ref}" not found'):
                await history.find(session, ref)


async def test_the_log_meant_is_that_of_the_newest_run_which_prefect_knows(book: Book) -> None:
    stored = await book.add()
    async with book.ledger.read() as session:
        with pytest.raises(NotFound, match='log of "brief"'):
            await history.find_logged(session, "brief")
    ran = await book.settled(book.due(stored), Status.SUCCEEDED)
    book.clock.move(timedelta(seconds=1))
    asked = await claims.request(book.ledger, stored, "later", "manual")

    async def meant(ref: str) -> str:
        async with book.ledger.read() as session:
            return (await history.find_logged(session, ref))[0].id

    for ref in ("brief", stored.id, ran.run_id[:12]):
        assert await meant(ref) == ran.run_id
    with pytest.raises(NotFound, match="log of"):
        await meant(asked.id)

    await book.archive(stored.id)
    assert await meant("brief") == ran.run_id
