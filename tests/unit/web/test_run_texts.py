"""The page of a run, and rows of runs: each error once, and what was delivered."""

from __future__ import annotations

import httpx
import pytest

from daybook.api import run_life
from daybook.ledger.states import Status
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("shared_ledger")]


async def test_an_error_stands_once_and_the_list_has_it_too(
    world: World, browser: httpx.AsyncClient
) -> None:
    job = await world.jobs.add("broken", prompt="x", cron="0 * * * *")
    run = await world.runs.finished(job, Status.FAILED, error="no way in", reason="no way in")
    page = (await browser.get(f"/runs/{run.run_id}")).text
    main = page[page.index("<h1") : page.index("<h2>Delivery") if "<h2>Delivery" in page else None]
    assert main.count("no way in") == 1
    assert "no way in" in (await browser.get("/runs")).text
    world.passes(minutes=1)
    await world.runs.finished(job, Status.SUCCEEDED, output="# Two **mails**\n\nmore")
    assert "<span>Two mails</span>" in (await browser.get("/runs")).text
    world.passes(minutes=1)
    await world.runs.finished(job, Status.SUCCEEDED, output="[SILENT]")
    assert "<span>nothing to report</span>" in (await browser.get("/runs")).text


async def test_the_results_of_steps_are_formatted(world: World, browser: httpx.AsyncClient) -> None:
    job = await world.jobs.add("fix", prompt="x", on_demand=True)
    granted = await world.runs.running(await world.runs.request(job))
    call = {"kind": "tool", "name": "shell"}
    for number, output in enumerate(
        ("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-<b>\n+<i>", "# News\n\nAll is **well**.", "# none\n- x")
    ):
        await world.runs.stepped(
            granted, Status.SUCCEEDED, number=number + 1, output=output, input="ls", **call
        )
    page = (await browser.get(f"/runs/{granted.run_id}")).text
    assert "<del>&lt;b&gt;</del><ins>&lt;i&gt;</ins>" in page
    assert "<p>All is <strong>well</strong>.</p>" in page
    assert "# none\n- x</pre>" in page


async def test_a_message_in_the_inbox_counts_as_delivered(world: World) -> None:
    job = await world.jobs.add("brief", prompt="x", cron="0 * * * *", channel="inbox")
    run = await world.runs.finished(job, Status.SUCCEEDED, output="news")
    events = (await run_life.show(run.run_id)).events
    assert [each.kind for each in events if each.what == "Delivered message to inbox"] == [
        "succeeded"
    ]
