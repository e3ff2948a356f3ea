"""Shared links: they show the pages, change nothing, and can be revoked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from daybook.api import tokens
from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.ledger.engine import sharing
from daybook.web import live, login
from daybook.web.login import CSRF_FIELD, PageLogin
from tests.unit.web.conftest import OWN, client, pages_of_one, site_of
from tests.unit.web.submitting import Forms, everything, post
from tests.unit.web.test_job_form import NEW
from tests.waiting import becomes_true
from tests.world import World

pytestmark = pytest.mark.anyio

SHOWN = (
    "/",
    "/jobs",
    "/runs",
    "/inbox",
    "/callbacks",
    "/tasks",
    "/sessions",
    "/agents",
    "/memory",
    "/changes",
    "/spend",
)


def path_of(url: str) -> str:
    assert url.startswith(f"{OWN}/")
    return url.removeprefix(OWN)


@pytest.fixture
async def link(world: World, daybook_home: Home) -> str:
    """Return the path of a shared link with the name `hall`."""
    with sharing(world.ledger):
        return path_of((await tokens.share("hall")).url)


@pytest.fixture
async def display(server: PageLogin, link: str) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a browser that has opened the link."""
    async with client(server) as found:
        assert (await found.get(link)).status_code == 200
        yield found


async def test_a_link_opens_the_pages_again_and_again_also_after_a_restart(
    world: World, server: PageLogin, display: httpx.AsyncClient, link: str
) -> None:
    async with client(server) as second:
        assert (await second.get(link)).status_code == 200
        assert (await second.get("/")).status_code == 200
    site: Any = server.viewers
    restarted = login.protect(server.application, 4280, site)
    async with client(restarted) as after:
        after.cookies = display.cookies
        assert (await after.get("/")).status_code == 200
        assert (await client(restarted).get(link)).status_code == 200


async def test_only_the_digest_of_a_link_is_stored(world: World, link: str) -> None:
    token = link.partition("token=")[2]
    assert token.startswith(tokens.VIEWER_PREFIX)
    assert token not in str(await everything(world))
    with sharing(world.ledger):
        (listed,) = await tokens.list_tokens()
    assert (listed.name, listed.owner) == ("hall", "viewer")


async def test_the_pages_of_a_link_have_no_form_that_writes(
    world: World, display: httpx.AsyncClient
) -> None:
    for path in (*SHOWN, *await pages_of_one(world)):
        answer = await display.get(path)
        assert answer.status_code == 200, path
        assert Forms(answer.text).forms == [], path
        assert CSRF_FIELD not in answer.text, path
        assert "/jobs/new" not in answer.text, path
        assert "Log out" not in answer.text, path
    for path in ("/jobs/new", "/agents/found", login.LOGOUT_PATH):
        answer = await display.get(path)
        assert (answer.status_code, Forms(answer.text).forms) == (403, []), path
        assert "cannot change anything" in answer.text, path


async def test_each_write_with_a_link_is_refused_and_says_why(
    world: World, server: PageLogin, display: httpx.AsyncClient
) -> None:
    job = await world.jobs.add("brief")
    refs = {"jobs": job.id, "runs": (await world.runs.request(job)).id}
    (cookie,) = display.cookies.jar
    session = str(cookie.value).rpartition(".")[0]
    token = server._signature(f"csrf {session}")  # the best that an attacker could have
    writes = [
        each.path
        for each in server.application.routes  # type: ignore[attr-defined]
        if not (getattr(each, "methods", None) or {"GET"}) <= {"GET", "HEAD"}
    ]
    before = await everything(world)
    for path in (*writes, login.LOGOUT_PATH):
        address = path.replace("{ref}", refs.get(path.split("/")[1], "x"))
        answer = await post(display, address, [*NEW.items(), (CSRF_FIELD, token)])
        assert answer.status_code == 403, path
        if not path.startswith("/decide/"):  # it needs no session but a token of its own
            assert "This link shows the pages. It cannot change anything." in answer.text, path
    assert await everything(world) == before


async def test_a_cookie_of_a_link_cannot_become_one_of_the_operator(
    server: PageLogin, display: httpx.AsyncClient
) -> None:
    (cookie,) = display.cookies.jar
    name, value = cookie.name, str(cookie.value)
    *_, viewer, signature = value.split(".")
    for forged in (
        value.replace(f".{viewer}.", ".."),
        value.replace(f".{viewer}.{signature}", f".{signature}"),
        value.replace(viewer, "0" * 32),
    ):
        assert forged != value
        async with client(server) as attacker:
            answer = await attacker.get("/", headers={"cookie": f"{name}={forged}"})
            assert answer.status_code == 401


async def test_a_revoked_link_shows_nothing_any_more_and_ends_its_streams(
    world: World,
    server: PageLogin,
    display: httpx.AsyncClient,
    link: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "POLL_INTERVAL_SECONDS", 0.01)
    stream = asyncio.create_task(display.get(live.PATH))  # the answer comes when it has ended

    async def is_shown() -> bool:
        return site_of(server).live.version != ""

    assert await becomes_true(is_shown, 20.0)
    with sharing(world.ledger):
        await tokens.remove("hall")
    assert (await stream).text.startswith(":\n\ndata: ")
    for path in ("/", live.PATH):
        answer = await display.get(path)
        assert answer.status_code == 401
        assert "This link was revoked." in answer.text
    async with client(server) as other:
        assert (await other.get(link)).status_code == 403


async def test_a_link_authenticates_no_mcp_client_and_an_mcp_token_opens_no_page(
    world: World, server: PageLogin, link: str
) -> None:
    with sharing(world.ledger):
        token = link.partition("token=")[2]
        assert await tokens.authenticate(world.ledger, token) is None
        of_agent = (await tokens.add("agent:claude")).token
    async with client(server) as browser:
        for each in (of_agent, tokens.VIEWER_PREFIX + of_agent, "", token[:-1]):
            answer = await browser.get(login.LOGIN_PATH, params={"token": each})
            assert answer.status_code == 403
    with pytest.raises(InvalidInput, match="not valid"):
        await tokens.add("viewer")


async def test_the_name_of_a_link_is_checked_and_unique(world: World, link: str) -> None:
    with sharing(world.ledger):
        for name, problem in (("hall", "is taken"), ("", "name"), ("a\nb", "name")):
            with pytest.raises(InvalidInput, match=problem):
                await tokens.share(name)
        assert len(await tokens.list_tokens()) == 1
