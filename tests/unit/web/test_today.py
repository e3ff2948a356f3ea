"""The page Today: incidents with what a button does, and the latest answers."""

from __future__ import annotations

import re

import httpx
import pytest
from sqlalchemy import update

from daybook.ledger.states import Status
from daybook.ledger.tables import JobRow
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("shared_ledger")]


def words(page: str) -> str:
    """Return the visible words of a page on one line."""
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


async def synced(world: World) -> None:
    """Let Prefect have the changes of all jobs."""
    async with world.ledger.write() as session:
        await session.execute(update(JobRow).values(sync_pending=False))


async def test_an_incident_is_one_entry_whose_button_says_what_it_does(
    world: World, browser: httpx.AsyncClient
) -> None:
    job = await world.jobs.add("broken", prompt="x", cron="0 * * * *")
    await world.runs.finished(job, Status.FAILED, error="refused")
    await synced(world)
    page = (await browser.get("/")).text
    assert page.count('class="need ') == 1
    assert "Run again: starts a new run" in words(page)
    assert 'href="/inbox">1 unread alert</a>' in page
    world.passes(minutes=1)
    lost = await world.runs.finished(job, Status.UNKNOWN, reason="the worker vanished")
    page = (await browser.get("/")).text
    assert page.count('class="need ') == 1
    assert "Run again: the run may already have had an effect" in words(page)
    assert f'href="/runs/{lost.run_id}"' in page


async def test_alerts_of_recovered_jobs_are_a_quiet_line(
    world: World, browser: httpx.AsyncClient
) -> None:
    job = await world.jobs.add("healed", prompt="x", cron="0 * * * *")
    await world.runs.finished(job, Status.FAILED, error="refused")
    world.passes(minutes=1)
    await world.runs.finished(job, Status.SUCCEEDED, output="fine")
    page = (await browser.get("/")).text
    assert "An alert of a job that has recovered" in words(page)
    assert "healed failed" not in words(page)
