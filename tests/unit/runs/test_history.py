"""The history of runs: its order, and how a name or an id selects a run."""

from __future__ import annotations

from datetime import timedelta

import pytest

from daybook.errors import NotFound
from daybook.ledger.states import Status
from daybook.runs import claims, history
from tests.world import World

pytestmark = pytest.mark.anyio


@pytest.mark.floor("C", "The history is newest first, and can be of one job")
async def test_history_is_newest_first_and_can_be_limited_to_one_job(world: World) -> None:
    one, two = await world.jobs.add("one", every="10m"), await world.jobs.add("two", every="15m")
    for stored in (one, one, two, one):
        granted = await world.runs.running(stored)
        await world.runs.finish(granted, Status.SUCCEEDED)
    world.clock.move(timedelta(seconds=1))

    async with world.ledger.read() as session:
        every = await history.recent(session, None, 10)
        of_one = await history.recent(session, one.id, 2)

    due = [row.due for row, _ in every]
    assert due == sorted(due, reverse=True)
    assert [job.name for _, job in every if job].count("one") == 3
    assert [row.job_id for row, _ in of_one] == [one.id, one.id]
    assert of_one[0][0].due == max(row.due for row, _ in every if row.job_id == one.id)


async def test_runs_that_ended_at_one_instant_are_read_in_pages(world: World) -> None:
    stored, at = await world.jobs.add(), world.ledger.now()
    for _ in range(3):
        row = await world.runs.request(stored)
        await world.runs.set_row(row, status=Status.CANCELLED, finished_at=at)
    until, last, read = at, "", list[str]()
    async with world.ledger.read() as session:
        while page := await history.ended_since(session, until, last, limit=2):
            read += [row.id for row, _ in page]
            until, last = page[-1][0].finished_at or until, page[-1][0].id
    assert (len(read), sorted(set(read))) == (3, read)


async def test_a_run_is_found_by_its_id_or_a_prefix_of_it(world: World) -> None:
    stored = await world.jobs.add()
    ran = await world.runs.finished(stored, Status.SUCCEEDED)

    async with world.ledger.read() as session:
        for ref in (ran.run_id, ran.run_id[:12]):
            row, job = await history.find(session, ref)
            assert (row.id, job and job.name) == (ran.run_id, "brief")
        for ref in ("", "%", "brief"):
            with pytest.raises(NotFound, match=f'run "{ref}" not found'):
                await history.find(session, ref)


async def test_find_logged_returns_the_newest_run_that_has_a_prefect_run(world: World) -> None:
    stored = await world.jobs.add()
    async with world.ledger.read() as session:
        with pytest.raises(NotFound, match='no log, of "brief"'):
            await history.find_logged(session, "brief")
    ran = await world.runs.finished(stored, Status.SUCCEEDED)
    world.clock.move(timedelta(seconds=1))
    asked = await claims.request(world.ledger, stored, "later", "manual")

    async def meant(ref: str) -> str:
        async with world.ledger.read() as session:
            return (await history.find_logged(session, ref))[0].id

    for ref in ("brief", stored.id, ran.run_id[:12]):
        assert await meant(ref) == ran.run_id
    with pytest.raises(NotFound, match="no log, of"):
        await meant(asked.id)

    await world.jobs.archive(stored.id)
    assert await meant("brief") == ran.run_id
