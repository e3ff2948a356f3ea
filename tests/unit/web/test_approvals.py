"""Approvals on the run's page: the call that the page shows is approved or rejected."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import httpx
import pytest

from daybook.features.approvals.page import MESSAGES
from daybook.ledger import arguments
from daybook.runs import approvals, claims
from daybook.runs.approvals import Question
from tests.unit.web.submitting import Forms, post, submit
from tests.world import World

pytestmark = pytest.mark.anyio

MAIL = Question("1.1", "d" * 64, 1, "mail_send", 'to="<b>ann</b>"', timedelta(hours=1))


async def asked(world: World) -> str:
    granted = await world.runs.running(await world.jobs.add("brief"))
    await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, MAIL)
    return granted.run_id


async def statuses(world: World, run_id: str) -> list[tuple[str, str]]:
    async with world.ledger.read() as session:
        return [(each.status, each.reason) for each in await approvals.of_run(session, run_id)]


@pytest.mark.parametrize("verb", ["approve", "reject"])
async def test_a_person_decides_on_the_page_of_the_run(
    world: World, browser: httpx.AsyncClient, verb: str
) -> None:
    run_id = await asked(world)
    page = f"/runs/{run_id}"
    assert f"{page}#approvals" in (await browser.get("/")).text
    text = (await browser.get(page)).text
    assert "mail_send" in text
    assert text.count("&lt;b&gt;ann") == 1  # not again in the events

    fields = {"reason": "No."} if verb == "reject" else {}
    _, after = await submit(browser, page, f"{page}/{verb}", **fields)
    status = "approved" if verb == "approve" else "rejected"
    assert after.status == MESSAGES[status]
    assert await statuses(world, run_id) == [(status, fields.get("reason", ""))]
    assert not any(each.action.endswith(verb) for each in after.forms)


async def test_the_page_shows_the_whole_arguments(world: World, browser: httpx.AsyncClient) -> None:
    given = {"body": "x" * 9_000, "to": "ann"}
    granted = await world.runs.running(await world.jobs.add("brief"))
    question = replace(MAIL, input=arguments.write(given))
    await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, question)
    text = (await browser.get(f"/runs/{granted.run_id}")).text
    assert "x" * 9_000 in text and "to=&#34;ann&#34;" in text
    assert "with body, to" in (await browser.get("/")).text


async def test_an_old_page_decides_nothing_about_the_next_call(
    world: World, browser: httpx.AsyncClient
) -> None:
    run_id = await asked(world)
    page = f"/runs/{run_id}"
    forms = Forms((await browser.get(page)).text).forms
    (form,) = [each for each in forms if each.action == f"{page}/approve"]
    await claims.decide_approval(world.ledger, run_id, 1, approve=False, by="bob (cli)")
    again = await world.runs.running(await world.runs.row(run_id))
    second = replace(MAIL, position="2.1", after=3)
    await claims.wait_for_approval(world.ledger, run_id, again.fence, second)

    answer = await post(browser, form.action, form.fields)
    assert answer.status_code == 400 and "was rejected by bob (cli)" in answer.text
    assert await statuses(world, run_id) == [("rejected", ""), ("open", "")]
