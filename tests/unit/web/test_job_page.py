"""The page of a job: its last answer, its prompt, and due times in its zone."""

from __future__ import annotations

import re

import httpx
import pytest

from daybook.ledger.states import Status
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("shared_ledger")]


async def test_the_last_answer_comes_first_and_due_times_are_in_the_zone_of_the_job(
    world: World, browser: httpx.AsyncClient
) -> None:
    job = await world.jobs.add("tokyo", prompt="Say <it>.", cron="0 8 * * *", timezone="Asia/Tokyo")
    await world.runs.finished(job, Status.SUCCEEDED, output="# Markets\n\n**up**")
    world.passes(minutes=1)
    await world.runs.finished(job, Status.FAILED, error="refused")
    page = (await browser.get(f"/jobs/{job.id}")).text
    shown = ("<strong>up</strong>", '<pre tabindex="0" class="text">Say &lt;it&gt;.', "History")
    places = [page.index(each) for each in shown]
    assert places == sorted(places)
    assert "<span>Markets</span>" in page
    assert re.search(r", 08:00</time> <span[^>]*>Asia/Tokyo, (\w+ \d+ \w+, )?23:00 Etc/UTC<", page)
    at_home = await world.jobs.add("home", prompt="x", cron="0 8 * * *", timezone="Etc/UTC")
    assert "Etc/UTC, " not in (await browser.get(f"/jobs/{at_home.id}")).text
