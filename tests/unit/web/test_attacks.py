"""Attacks on the pages: requests that are not from them, and texts that try to become part of them.

The list of routes is that of the application, so a new route is attacked too.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from starlette.routing import BaseRoute, Mount, Route

from daybook import api, feature
from daybook.diagnosis.health import HealthMonitor
from daybook.features.memory import operations
from daybook.ledger.engine import sharing
from daybook.operations.login import LINKS_PATH, LOGIN_PATH
from daybook.web import app, login
from daybook.web import pages as site
from daybook.web.login import CSRF_FIELD, PageLogin
from tests import attack, morning
from tests.unit.web.conftest import OWN, no_health
from tests.unit.web.submitting import Forms, everything, post
from tests.unit.web.test_actions import dispute, message, send
from tests.unit.web.test_job_form import NEW
from tests.world import World

pytestmark = pytest.mark.anyio

SAFE = {"GET", "HEAD"}
ENDPOINTS = {"/health", "/metrics", "/hooks/{name}"}
"""Routes that are not behind the login of the pages; they have tests of their own.

So have the routes below `login.SIGNED_PATH` (`test_signed_links`).
"""


def routes_of(routes: list[BaseRoute]) -> list[Route]:
    """Return all routes, those of mounted applications included."""
    found = list[Route]()
    for each in routes:
        if isinstance(each, Mount):
            inner: Any = each.app
            while not hasattr(inner, "routes"):
                inner = inner.application  # a middleware, such as the login
            found += routes_of(inner.routes)
        else:
            assert isinstance(each, Route), each
            found.append(each)
    return found


class Target:
    """The server as `python -m daybook.web` builds it, with one of each thing that a path names."""

    def __init__(self, server: PageLogin, guarded: Any, routes: list[Route]) -> None:
        self.server, self.guarded = server, guarded
        self.refs = dict[str, str]()
        own = [
            each
            for each in routes
            if each.path not in ENDPOINTS and not each.path.startswith(login.SIGNED_PATH)
        ]
        self.writes = [each.path for each in own if not (each.methods or SAFE) <= SAFE]
        self.pages = [
            each.path
            for each in own
            if (each.methods or SAFE) <= SAFE and not each.path.startswith(login.STATIC_PATH)
        ]

    def address(self, path: str) -> str:
        address = re.sub(r"{ref(:path)?}", self.refs.get(path.split("/")[1], ""), path)
        address = address.replace("{path:path}", "notes/a.md")
        assert "{" not in address, path
        return address

    def browser(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.guarded), base_url=OWN)


@pytest.fixture
async def target(world: World, of_this_user: None) -> AsyncIterator[Target]:
    address = world.ledger.address
    application = site.application(no_health, world.ledger)
    server = login.protect(application, 4280)
    endpoints = [make(address, world.clock) for make in feature.loaded("endpoint")]
    whole = app.application(HealthMonitor(address, clock=world.clock), endpoints, server)
    guarded = app.RequestGuard(whole, accepts_writes=login.accepts_writes, endpoints=endpoints)
    found = Target(server, guarded, routes_of(whole.routes))
    job = await world.jobs.add("secret-plan")
    await dispute(world, job)
    found.refs = {
        "jobs": job.id,
        "runs": (await world.runs.request(job)).id,
        "callbacks": await send(world, "a", "failed"),
        "inbox": await message(world, "b"),
        "tasks": (await world.tasks.add("tidy up")).task_id,
        "memory": await notebook(world),
        "changes": await change(world),
        "sessions": "none",
        "agents": "nobody",
        "settings": "nothing",
    }
    yield found
    await application.state.site.close()


async def notebook(world: World) -> str:
    with sharing(world.ledger):
        return (await operations.create("house")).id


async def change(world: World) -> str:
    run = await world.runs.request(await world.jobs.add("fix"))
    async with world.ledger.write() as session:
        session.add(morning.change(run, "secret-plan.md"))
    return run.id


async def token_of(browser: httpx.AsyncClient) -> str:
    (form,) = Forms((await browser.get("/jobs/new")).text).forms
    return dict(form.fields)[CSRF_FIELD]


async def test_no_write_is_done_without_the_token_the_origin_the_host_and_the_session(
    world: World, target: Target, nothing_to_sync: None, runs_are_requested_only: None
) -> None:
    assert len(target.writes) > 20
    typed = [*NEW.items(), ("until", "2h"), ("prefer", "prefect")]
    typed += [("message", target.refs["inbox"])]
    own = {"origin": OWN}
    rebound = {"host": "rebound.example:4280", "origin": "http://rebound.example:4280"}
    async with target.browser() as browser, target.browser() as other, target.browser() as stranger:
        for each in (browser, other):
            assert (await each.get(target.server.new_link())).status_code == 200
        token, foreign = await token_of(browser), await token_of(other)
        assert token != foreign
        wrong = ("x" if token[0] != "x" else "y") + token[1:]
        before = await everything(world)
        for path in target.writes:
            address = target.address(path)
            for who, sent, headers in (
                (browser, None, own),
                (browser, "", own),
                (browser, wrong, own),
                (browser, foreign, own),
                (browser, token, {"origin": "http://evil.example"}),
                (browser, token, {"origin": "http://127.0.0.1:9999"}),
                (browser, token, {"origin": "null"}),
                (browser, token, {}),
                (browser, token, own | {"sec-fetch-site": "same-site"}),
                (browser, token, own | {"host": "evil.example"}),
                (browser, token, rebound),
                (stranger, token, own),
            ):
                fields = [*typed, *([] if sent is None else [(CSRF_FIELD, sent)])]
                answer = await post(who, address, fields, headers)
                assert answer.status_code == 403, (address, sent, headers)
            in_address = await browser.get(f"{address}?{CSRF_FIELD}={token}")
            assert in_address.status_code in (200, 404, 405), address
        assert await everything(world) == before


async def test_no_page_shows_anything_without_a_session_or_to_a_rebound_name(
    world: World, target: Target
) -> None:
    assert len(target.pages) > 15
    async with target.browser() as browser, target.browser() as stranger:
        refused = await stranger.get("/")
        assert refused.status_code == 401
        assert "daybook open" in refused.text
        assert (await browser.get(target.server.new_link())).status_code == 200
        assert "secret-plan" in (await browser.get("/jobs")).text
        for path in (*target.pages, "/nothing"):
            address = target.address(path)
            answer = await stranger.get(address)
            # The same page for every address: it does not even show which of them exist.
            assert (answer.status_code, answer.text) == (401, refused.text), address
            rebound = await browser.get(address, headers={"host": "rebound.example:4280"})
            assert (rebound.status_code, rebound.text) == (403, "not a name of this server\n")
            for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
                answer = await browser.get(address, headers=headers)
                assert answer.status_code == 403, (address, headers)
                assert "secret-plan" not in answer.text
        for path in (LINKS_PATH, LOGIN_PATH):
            for answer in (await stranger.get(path), await stranger.post(path)):
                assert answer.status_code in (401, 403)
                assert "secret-plan" not in answer.text


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_harmless(path: str, text: str) -> None:
    """Assert that no element or attribute of a page is made of stored texts."""
    for tag, given in Elements(text).found:
        assert tag not in attack.TAGS, (path, tag, given)
        assert tag != "script" or given.get("src", "").startswith("/static/"), (path, given)
        for name, value in given.items():
            assert not name.startswith("on"), (path, tag, name)
            assert name not in attack.ATTRIBUTES, (path, tag, name)
            if name in ("href", "src", "action", "formaction") or name.startswith("hx-"):
                assert not value.strip().lower().startswith(attack.SCHEMES), (path, tag, value)


async def test_stored_texts_are_shown_as_text_wherever_they_come_from(
    world: World, browser: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = await attack.store(world.ledger)
    monkeypatch.setattr(api.runs, "logs", attack.log)
    monkeypatch.setattr(site.runs, "load_prefect", attack.no_prefect)
    shown = ""
    for path in stored.pages:
        answer = await browser.get(path)
        assert answer.status_code == 200, (path, answer.text)
        assert_harmless(path, answer.text)
        shown += Elements(answer.text).text
        shown += "".join(
            value
            for tag, given in Elements(answer.text).found
            for name, value in given.items()
            if name in ("value", "title", "placeholder", "aria-label")
        )
    texts = {each: attack.payload(each) for each in attack.MARKS}
    missing = [
        each
        for each, text in texts.items()
        if text not in shown
        and json.dumps(text) not in shown  # in a JSON value, quotes are escaped
    ]
    assert not missing  # each place was shown, so none of them was left out of this test
