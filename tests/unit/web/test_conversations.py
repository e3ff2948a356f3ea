"""Sessions as conversations on the pages: what they show, and what a person may send."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import httpx
import pytest

from daybook import api
from daybook.api import changes
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.runs import claims, steps
from tests.unit.web.submitting import Forms, post, submit
from tests.world import World
from tests.world.runs import step_of

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("shared_ledger")]


@pytest.mark.usefixtures("runs_are_requested_only")
async def test_a_question_is_asked_once_and_its_page_waits_for_the_answer(
    world: World, browser: httpx.AsyncClient
) -> None:
    answer, after = await submit(browser, "/sessions", "/sessions", prompt="Which <one>?")
    (row,) = await world.runs.rows()
    parts = urlsplit(answer.headers["location"])
    assert (unquote(parts.path), parts.fragment) == (
        f"/sessions/{row.session_id}",
        f"prompt-{row.id}",
    )
    assert [each.action for each in after.forms] == [f"/runs/{row.id}/cancel", reply_path(row)]
    page = (await browser.get(answer.headers["location"])).text
    assert '<p class="said-text">Which &lt;one&gt;?</p>' in page
    form = next(each for each in after.forms if each.action == reply_path(row))
    fields = [(name, "And why?" if name == "prompt" else value) for name, value in form.fields]
    for _ in range(2):
        assert (await post(browser, form.action, fields)).status_code == 303
    rows = await world.runs.rows()
    assert {each.session_id for each in rows} == {row.session_id}
    assert sorted(each.parameters["prompt"] for each in rows) == ["And why?", "Which <one>?"]


def reply_path(row: RunRow) -> str:
    return f"/sessions/{str(row.session_id).replace(':', '%3A')}/reply"


@pytest.mark.usefixtures("runs_are_requested_only")
async def test_a_blank_question_is_refused_at_its_field(
    world: World, browser: httpx.AsyncClient
) -> None:
    answer, after = await submit(browser, "/sessions", "/sessions", prompt=" ")
    assert (answer.status_code, after.invalid) == (400, ["prompt"])
    assert await world.runs.rows() == []


@pytest.mark.usefixtures("runs_are_requested_only")
async def test_a_message_without_an_answer_can_be_sent_again(
    world: World, browser: httpx.AsyncClient
) -> None:
    await submit(browser, "/sessions", "/sessions", prompt="Still there?")
    (row,) = await world.runs.rows()
    await claims.cancel(world.ledger, row.id, "stopped by hand")
    page = f"/sessions/{row.session_id}"
    assert "stopped by hand" in (await browser.get(page)).text
    _, after = await submit(browser, page, reply_path(row), choice="Still there?")
    assert after.problems == {}
    again = next(each for each in await world.runs.rows() if each.id != row.id)
    assert (again.parameters["prompt"], again.session_id) == ("Still there?", row.session_id)


async def test_nothing_is_stored_if_prefect_does_not_answer(
    world: World, browser: httpx.AsyncClient
) -> None:
    answer, _ = await submit(browser, "/sessions", "/sessions", prompt="Anyone?")
    assert answer.status_code == 503
    assert await world.runs.rows() == []


async def test_a_run_and_today_lead_to_the_reply(world: World, browser: httpx.AsyncClient) -> None:
    job = await world.jobs.add("brief")
    await world.runs.finished(job, Status.SUCCEEDED, output="# Markets\n\nup")
    (run,) = await world.runs.rows(job)
    assert run.session_id == f"default:job:{job.id}"
    link = f'href="/sessions/default%3Ajob%3A{job.id}#reply"'
    assert link in (await browser.get("/")).text
    assert link in (await browser.get(f"/runs/{run.id}")).text
    work = (await browser.get(f"/runs/{run.id}/work")).text
    assert "<html" not in work
    assert f'href="/runs/{run.id}"' in work
    assert Forms(work).forms == []


@pytest.mark.usefixtures("runs_are_requested_only")
async def test_the_text_of_an_answer_appears_while_the_agent_writes_it(
    world: World, browser: httpx.AsyncClient
) -> None:
    await submit(browser, "/sessions", "/sessions", prompt="Which?")
    (row,) = await world.runs.rows()
    granted = await world.runs.running(row)
    await steps.start(world.ledger, granted.fence, step_of(row.id, granted.due, 1))
    pages = f"/sessions/{row.session_id}", f"/runs/{row.id}"
    before = (await changes.read()).text
    for text, html in (("The **first**", "<strong>first</strong>"), ("The <i>", "&lt;i&gt;")):
        await steps.show(world.ledger, granted.fence, row.id, 1, text)
        after = (await changes.read()).text
        assert after != before
        before = after
        for path in pages:
            page = (await browser.get(path)).text
            assert html in page.partition('class="prose writing"')[2], path
    found = await api.sessions.show(row.session_id or "")
    assert [each.partial_answer for each in found.unanswered] == ["The <i>"]
    await world.runs.finish(granted, Status.FAILED, error="503")
    for path in pages:
        assert "prose writing" not in (await browser.get(path)).text
    async with world.ledger.read() as session:
        assert [each.output for each in await steps.of_run(session, row.id)] == [None]
