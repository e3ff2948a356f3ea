"""Live pages: which pages update themselves, and what the server renders for several viewers."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from daybook import api
from daybook.web import live
from daybook.web.login import CSRF_FIELD, PageLogin
from tests.unit.jobs.test_store import rename_id
from tests.unit.web.conftest import client, pages_of_one, site_of
from tests.unit.web.submitting import Forms, post, submit
from tests.world import World

pytestmark = pytest.mark.anyio

ASKS = {live.HEADER: "1"}
IS_LIVE = "data-live="


async def test_pages_of_what_changes_are_live_and_forms_are_not(
    world: World, browser: httpx.AsyncClient
) -> None:
    job, run, task = await pages_of_one(world)
    for path in ("/", "/jobs", "/runs", "/inbox", "/callbacks", "/tasks", job, run, task):
        text = (await browser.get(path)).text
        assert IS_LIVE in text, path
        assert "/static/live.js" in text, path
    for path in ("/jobs/new", "/spend", "/agents", "/sessions", "/nothing"):
        text = (await browser.get(path)).text
        assert IS_LIVE not in text, path
        assert "/static/live.js" not in text, path
    _, after = await submit(browser, job, f"{job}/snooze", until="yesterday")
    assert after.invalid == ["until"]
    fields = [(CSRF_FIELD, ""), ("until", "yesterday")]
    answer = await post(browser, f"{job}/snooze", fields)
    assert IS_LIVE not in answer.text  # its address has no page to ask for again


async def test_a_page_is_rendered_once_for_all_viewers_each_with_its_own_forms(
    world: World, server: PageLogin, browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await world.jobs.add("brief")
    path, site, read = f"/jobs/{job.id}", site_of(server), api.job_pages.overview
    rendered = 0

    async def counted(ref: str, **limits: int) -> Any:
        nonlocal rendered
        rendered += 1
        return await read(ref, **limits)

    monkeypatch.setattr(api.job_pages, "overview", counted)
    async with client(server) as other:
        await other.get(server.new_link())
        await browser.get(path, headers=ASKS)
        assert rendered == 1
        site.live.version = "one"
        texts = [(await each.get(path, headers=ASKS)).text for each in (browser, browser, other)]
        assert rendered == 2
        assert 'data-live="one"' in texts[0]
        forms = [Forms(text).forms for text in texts]
        tokens = [{dict(each.fields)[CSRF_FIELD] for each in found} for found in forms]
        ids = [dict(each.fields).get("request_id") for found in forms for each in found]
        ids = [each for each in ids if each is not None]
        assert tokens[0] == tokens[1] != tokens[2]
        assert len(tokens[0]) == 1
        assert len(set(ids)) == len(ids) == 2 * 3  # two forms of three pages request a run
        own = await post(other, f"{path}/pause", forms[2][2].fields)
        assert own.status_code == 303
        assert (await post(other, f"{path}/resume", forms[0][2].fields)).status_code == 403
        site.live.version = "two"
        text = (await browser.get(path, headers=ASKS)).text
        assert rendered == 3
        assert "paused" in text
        monkeypatch.undo()


async def test_a_shared_page_is_that_of_its_address_and_a_failed_one_is_not_kept(
    world: World, server: PageLogin, browser: httpx.AsyncClient
) -> None:
    await world.jobs.add("brief")
    await world.jobs.add("export")
    site_of(server).live.version = "one"

    async def names(query: str) -> set[str]:
        text = (await browser.get(f"/jobs?{query}", headers=ASKS)).text
        return set(re.findall(r'<td class="name"><a href="/jobs/\w+">(.*?)</a>', text))

    assert await names("q=bri") == {"brief"}
    assert await names("q=exp") == {"export"}
    page = f"/jobs/{'f' * 32}"
    assert (await browser.get(page, headers=ASKS)).status_code == 404
    await rename_id(world, (await world.jobs.add("later")).id, "f" * 32)
    assert (await browser.get(page, headers=ASKS)).status_code == 200
    assert (await browser.get("/jobs/later", headers=ASKS)).status_code == 404  # only whole ids


async def test_a_session_that_logged_out_shows_nothing_also_with_a_copy_of_its_cookie(
    server: PageLogin, browser: httpx.AsyncClient
) -> None:
    (cookie,) = browser.cookies.jar
    (form,) = Forms((await browser.get("/daybook/logout")).text).forms
    answer = await post(browser, form.action, form.fields)
    assert (answer.status_code, "Logged out" in answer.text) == (200, True)
    assert len(browser.cookies.jar) == 0
    async with client(server) as thief:
        copied = {"cookie": f"{cookie.name}={cookie.value}"}
        for path in ("/", live.PATH):
            assert (await thief.get(path, headers=copied)).status_code == 401


async def test_nobody_else_can_log_a_browser_out(browser: httpx.AsyncClient) -> None:
    for headers in ({"origin": "http://evil.example"}, {}, {"origin": "http://127.0.0.1:9999"}):
        assert (await browser.post("/daybook/logout", headers=headers)).status_code == 403
    assert (await browser.get("/")).status_code == 200


async def test_a_stream_needs_a_session_and_a_page_of_this_server(
    server: PageLogin, browser: httpx.AsyncClient
) -> None:
    async with client(server) as stranger:
        assert (await stranger.get(live.PATH)).status_code == 401
    for headers in (
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://127.0.0.1:9999"},
    ):
        answer = await browser.get(live.PATH, headers=headers)
        assert answer.status_code in (401, 403)
    assert site_of(server).live.version == ""
