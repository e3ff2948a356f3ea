"""The page of a job: its last answer, its prompt, and due times in its zone."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from daybook import api
from daybook.ledger.states import Status
from daybook.runs import daily
from daybook.runs.daily import Total
from daybook.web.pages.site import Site
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


@pytest.mark.parametrize("path", ["/jobs", "/jobs/{}"])
async def test_a_page_of_jobs_adds_up_only_the_runs_of_the_shown_jobs(
    world: World, browser: httpx.AsyncClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = await world.jobs.add("shown", prompt="x", cron="0 8 * * *")
    for number in range(2):
        other = await world.jobs.add(f"z-{number}", prompt="x", cron="0 8 * * *")
        await world.runs.finished(other, Status.SUCCEEDED, usage={"cost_usd": 70.0})
    await world.runs.finished(shown, Status.SUCCEEDED, usage={"cost_usd": 0.25})
    monkeypatch.setattr(api.job_pages, "PER_PAGE", 1)
    add_up, read = daily.add_up_jobs, list[Total]()

    async def note(*arguments: Any) -> list[Total]:
        read.extend(found := await add_up(*arguments))
        return found

    monkeypatch.setattr(daily, "add_up_jobs", note)
    monkeypatch.setattr(Site, "totals", None)  # the totals of all jobs
    page = await browser.get(path.format(shown.id))
    assert page.status_code == 200
    assert "$0.25" in page.text
    assert {each.job_id for each in read} == {shown.id}
