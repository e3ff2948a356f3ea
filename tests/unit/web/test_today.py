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


async def test_the_latest_answers_are_rendered_with_their_actions(
    world: World, browser: httpx.AsyncClient
) -> None:
    job = await world.jobs.add("brief", prompt="x", cron="0 * * * *", session="reuse")
    body = "\n".join(f"- line {number}" for number in range(20))
    run = await world.runs.finished(
        job, Status.SUCCEEDED, output=f"# Two <b>mails</b>\n\n{body}", warnings=["fetch failed"]
    )
    quiet = await world.jobs.add("watch", prompt="x", cron="0 * * * *")
    await world.runs.finished(quiet, Status.SUCCEEDED, output="[SILENT]")
    page = (await browser.get("/")).text
    article = page[page.index("<article") : page.index("</article>")]
    assert ">Two &lt;b&gt;mails&lt;/b&gt;</h3>" in article
    assert "<li>line 19</li>" in article
    assert "fetch failed" in article
    assert "Show all" in article
    assert f'href="/runs/{run.run_id}"' in article
    assert f'action="/jobs/{job.id}/run"' in article
    assert page.count("<article") == 1
    assert "1 job had nothing to report" in words(page)
