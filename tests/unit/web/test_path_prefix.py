"""The pages below the path of the public URL, and without it at this machine's own names."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from starlette.responses import HTMLResponse, RedirectResponse, StreamingResponse
from starlette.types import ASGIApp

from daybook import settings
from daybook.features.approvals import links
from daybook.home import Home
from daybook.operations import peers
from daybook.web import login, pages
from daybook.web.__main__ import public_names
from daybook.web.app import RequestGuard
from daybook.web.login import PageLogin
from daybook.web.path_prefix import PathPrefix
from tests.unit.web.conftest import OWN, no_health
from tests.unit.web.submitting import Forms, post
from tests.unit.web.test_signed_links import asked
from tests.world import World

pytestmark = pytest.mark.anyio

ORIGIN, PREFIX = "https://example.org", "/Tools/daybook"


@pytest.fixture
async def server(
    world: World, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PageLogin]:
    """Yield the pages with a public URL. Requests come from this user, as in both places."""
    monkeypatch.setenv("DAYBOOK_PUBLIC_URL", f"HTTPS://Example.org:443{PREFIX}/")
    monkeypatch.setattr(peers, "is_another_user", lambda scope: False)
    application = pages.application(no_health, world.ledger)
    yield login.protect(application, 4280, application.state.site)
    await application.state.site.close()


def client(application: ASGIApp, origin: str = ORIGIN) -> httpx.AsyncClient:
    """Return a browser at ``origin`` of an application below the prefix."""
    behind = PathPrefix(application, f"{ORIGIN}{PREFIX}")
    return httpx.AsyncClient(transport=httpx.ASGITransport(behind), base_url=origin)


def browser_of(server: PageLogin, origin: str = ORIGIN) -> httpx.AsyncClient:
    names = public_names(settings.load())
    return client(RequestGuard(server, names, accepts_writes=login.accepts_writes), origin)


async def test_a_browser_logs_in_and_writes_below_the_prefix(
    server: PageLogin, world: World
) -> None:
    job = await world.jobs.add("brief", every="1d", tags=["news"])
    async with browser_of(server) as browser:
        opened = await browser.get(PREFIX + server.new_link(is_public=True))
        cookie = opened.headers["set-cookie"]
        assert cookie.startswith("__Secure-daybook-session-4280=")
        assert f"; Path={PREFIX}; Secure;" in cookie
        assert re.search(f'content="0;url={PREFIX}/[a-z]*"', opened.text)
        page = await browser.get(f"{PREFIX}/jobs/{job.id}")
        assert page.status_code == 200
        linked = re.findall(
            r'\s(?:href|src|action|formaction|hx-get|hx-post)="(/[^"]*)"', page.text
        )
        assert f"{PREFIX}/jobs?tag=news" in linked
        assert f"{PREFIX}/jobs/{job.id}/skip" in linked
        assert [each for each in linked if not each.startswith(f"{PREFIX}/")] == []
        for path in {each for each in linked if "/static/" in each}:
            assert (await browser.get(path)).status_code == 200, path
        (form,) = [each for each in Forms(page.text).forms if each.action.endswith("/skip")]
        refused = await post(browser, form.action, form.fields, {"origin": f"{ORIGIN}:8443"})
        assert refused.status_code == 403
        done = await post(browser, form.action, form.fields, {"origin": ORIGIN})
        assert done.status_code == 303
        assert done.headers["location"].startswith(f"{PREFIX}/jobs/{job.id}?")
        assert (await browser.get(done.headers["location"])).status_code == 200


async def test_a_signed_link_below_the_prefix_needs_no_login(
    server: PageLogin, world: World
) -> None:
    run_id = await asked(world)
    path = links.PATH + links.token(run_id, 1, world.clock.now() + timedelta(hours=1))
    async with browser_of(server) as browser:
        page = await browser.get(PREFIX + path)
        (form, *_) = Forms(page.text).forms
        assert (page.status_code, form.action) == (200, PREFIX + path)
        done = await post(browser, form.action, form.fields, {"origin": ORIGIN})
        assert done.status_code == 303
        assert done.headers["location"].startswith(PREFIX + path)
        assert (await browser.get(done.headers["location"])).status_code == 200


async def test_the_names_of_this_machine_have_no_prefix(server: PageLogin) -> None:
    async with browser_of(server, OWN) as here:
        opened = await here.get(server.new_link())
        assert "; Path=/;" in opened.headers["set-cookie"]
        page = await here.get("/jobs")
        assert 'href="/runs"' in page.text
        assert PREFIX not in page.text
        assert (await here.get(f"{PREFIX}/jobs")).status_code == 404


@pytest.mark.parametrize("path", ["/", "/jobs", "/tools/daybook/jobs", "/Tools/daybooks"])
async def test_a_proxy_that_removes_the_prefix_is_refused_with_the_remedy(
    server: PageLogin, path: str
) -> None:
    """A path like `/jobs/jobs` would otherwise have two meanings."""
    async with browser_of(server) as browser:
        answer = await browser.get(path)
        assert (answer.status_code, answer.text) == (
            404,
            "the path does not begin with /Tools/daybook; let the proxy keep it\n",
        )


async def test_only_the_attributes_of_pages_and_redirects_get_the_prefix() -> None:
    text = (
        '<meta http-equiv="refresh" content="0;url=/a"><a href="/b">href=&quot;/c</a>'
        '<a href="//example.com/d"><a href="#e"><a href="f"><input value="/g">'
        '<button formaction="/h"></button>'
    )
    moved = re.sub('(=)(/a)|(")(/[bh])', rf"\1\3{PREFIX}\2\4", text)

    async def asked(response: ASGIApp) -> httpx.Response:
        async with client(response) as browser:
            return await browser.get(PREFIX)

    async def parts() -> AsyncIterator[str]:
        for each in text:
            yield each

    assert (await asked(HTMLResponse(text))).text == moved
    assert (await asked(StreamingResponse(parts(), media_type="text/html"))).text == moved
    assert (await asked(HTMLResponse(text, media_type="text/plain"))).text == text
    for given, sent in (
        ("/jobs", f"{PREFIX}/jobs"),
        ("https://a.example/b", "https://a.example/b"),
    ):
        assert (await asked(RedirectResponse(given))).headers["location"] == sent
