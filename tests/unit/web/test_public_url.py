"""The pages behind a reverse proxy: only with a public URL, and only under its name."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from daybook import settings
from daybook.api import tokens, web_address
from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.ledger.engine import sharing
from daybook.operations import peers
from daybook.web import live, login, pages
from daybook.web.__main__ import public_names
from daybook.web.app import RequestGuard
from daybook.web.login import PageLogin
from tests.unit.web.conftest import OWN, no_health
from tests.world import World

pytestmark = pytest.mark.anyio

PUBLIC = "https://daybook.example.org"
HOST = "daybook.example.org"
FORWARDED = {"x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "https"}


@pytest.fixture(autouse=True)
def has_public_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBOOK_PUBLIC_URL", PUBLIC)


@pytest.fixture
async def server(
    world: World, daybook_home: Home, has_public_url: None
) -> AsyncIterator[PageLogin]:
    application = pages.application(no_health, world.ledger)
    site = application.state.site
    yield login.protect(application, 4280, site)
    await site.close()


@pytest.fixture
def as_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each request come from another user of this machine, as those of a proxy do."""
    monkeypatch.setattr(peers, "is_another_user", lambda scope: True)


@pytest.fixture
def as_this_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "is_another_user", lambda scope: False)


def browser_of(server: PageLogin, url: str = PUBLIC) -> httpx.AsyncClient:
    guarded = RequestGuard(
        server,
        public_names(settings.load()),
        accepts_writes=login.accepts_writes,
    )
    transport = httpx.ASGITransport(guarded)
    headers = FORWARDED if url == PUBLIC else {}
    return httpx.AsyncClient(transport=transport, base_url=url, headers=headers)


async def test_behind_the_proxy_the_cookie_is_bound_to_tls(
    server: PageLogin, as_another_user: None
) -> None:
    async with browser_of(server) as browser:
        assert (await browser.get("/")).status_code == 401
        answer = await browser.get(server.new_link(is_public=True))
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-daybook-session-4280=")
        for word in ("Secure", "HttpOnly", "SameSite=Strict", "Path=/;"):
            assert word in cookie
        assert "Domain" not in cookie
        assert (await browser.get("/")).status_code == 200


async def test_a_write_behind_the_proxy_needs_exactly_its_origin(
    server: PageLogin, as_another_user: None
) -> None:
    async with browser_of(server) as browser:
        await browser.get(server.new_link(is_public=True))
        for origin, code in (
            (PUBLIC, 405),  # the list accepts no form, but the request gets that far
            ("http://daybook.example.org", 403),
            ("https://daybook.example.org:8443", 403),
            ("https://evil.example", 403),
            (OWN, 403),
            ("null", 403),
        ):
            answer = await browser.post("/jobs", headers={"origin": origin})
            assert answer.status_code == code, origin


async def test_links_and_cookies_are_valid_either_here_or_at_the_public_url(
    server: PageLogin, as_this_user: None
) -> None:
    """A cookie of this machine's names reaches other users' servers, which could send it here."""
    async with browser_of(server, OWN) as here, browser_of(server) as outside:
        local, public = server.new_link(), server.new_link(is_public=True)
        assert (await outside.get(local)).status_code == 403
        assert (await here.get(public)).status_code == 403
        assert (await here.get(local)).status_code == 200
        assert (await outside.get(public)).status_code == 200
        (of_here,), (of_outside,) = here.cookies.jar, outside.cookies.jar
        for client, value in ((here, of_outside.value), (outside, of_here.value)):
            names = ("daybook-session-4280", "__Host-daybook-session-4280")
            cookie = "; ".join(f"{name}={value}" for name in names)
            client.cookies.clear()
            assert (await client.get("/", headers={"cookie": cookie})).status_code == 401


async def test_another_user_is_still_refused_under_the_names_of_this_machine(
    server: PageLogin, as_another_user: None
) -> None:
    async with browser_of(server, OWN) as browser:
        answer = await browser.get(server.new_link())
        assert (answer.status_code, "another user" in answer.text) == (403, True)


async def test_a_request_that_a_proxy_forwarded_elsewhere_is_refused_with_the_setting(
    server: PageLogin, as_this_user: None
) -> None:
    async with browser_of(server, OWN) as browser:
        await browser.get(server.new_link())
        assert (await browser.get("/")).status_code == 200
        for name in ("forwarded", "via", "x-forwarded-for", "x-forwarded-host"):
            answer = await browser.get("/", headers={name: "x"})
            assert answer.status_code == 403
            assert "DAYBOOK_PUBLIC_URL" in answer.text


@pytest.mark.parametrize("host", ["evil.example", "daybook.example.org.evil.example", "10.0.0.5"])
async def test_another_host_is_refused_with_and_without_a_public_url(
    server: PageLogin, as_this_user: None, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    for url in (PUBLIC, ""):
        monkeypatch.setenv("DAYBOOK_PUBLIC_URL", url)
        async with browser_of(server, f"https://{host}") as browser:
            for path in ("/", live.PATH, server.new_link(is_public=True)):
                answer = await browser.get(path)
                assert (answer.status_code, answer.text) == (403, "not a name of this server\n")


async def test_without_a_public_url_its_name_is_a_foreign_one(
    server: PageLogin, as_this_user: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_PUBLIC_URL", "")
    async with browser_of(server) as browser:
        assert (await browser.get("/")).status_code == 403


async def test_a_stream_of_another_origin_is_refused(server: PageLogin, as_this_user: None) -> None:
    async with browser_of(server, OWN) as browser:
        await browser.get(server.new_link())
        for headers in (
            {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
            {"origin": "http://127.0.0.1:9999", "sec-fetch-site": "same-site"},
            {"origin": "http://127.0.0.1:9999"},
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"},
        ):
            answer = await browser.get(live.PATH, headers=headers)
            assert answer.status_code in (401, 403), headers
            assert "text/event-stream" not in answer.headers["content-type"]


async def test_links_for_others_have_the_public_url(world: World, daybook_home: Home) -> None:
    with sharing(world.ledger):
        assert (await tokens.share("hall")).url.startswith(f"{PUBLIC}/daybook/login?token=")
    assert web_address.local_url() == OWN


async def test_no_link_is_made_for_a_request_from_outside(
    server: PageLogin, as_this_user: None
) -> None:
    headers = {"authorization": server.basic.decode()}
    async with browser_of(server) as outside, browser_of(server, OWN) as here:
        assert (await outside.post(login.LINKS_PATH, headers=headers)).status_code == 403
        assert (await here.post(login.LINKS_PATH, headers=headers)).status_code == 201


@pytest.mark.parametrize(
    "url",
    [
        "daybook.example.org",
        "ftp://daybook.example.org",
        "https://",
        "https://daybook.example.org//pages",
        "https://daybook.example.org/../pages",
        "https://daybook.example.org/p%61ges",
        'https://daybook.example.org/"pages',
        "https://daybook.example.org?x",
        "https://user:secret@daybook.example.org",
        "https://daybook.example.org:0",
        "https://daybook.example.org:70000",
        "https://daybook.example.org ",
    ],
)
def test_a_public_url_that_is_no_site_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBOOK_PUBLIC_URL", url)
    with pytest.raises(InvalidInput, match="write a scheme and a name") as refused:
        settings.load()
    assert refused.value.field == "DAYBOOK_PUBLIC_URL"


@pytest.mark.parametrize("url", ["http://localhost", "https://LOCALHOST:8443", "http://127.0.0.1"])
def test_a_public_url_of_this_machine_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its requests would not be checked for other users of the machine."""
    monkeypatch.setenv("DAYBOOK_PUBLIC_URL", url)
    with pytest.raises(InvalidInput, match="this machine itself"):
        settings.load()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("https://Daybook.Example.org/", PUBLIC),
        ("https://daybook.example.org:443", PUBLIC),
        ("http://daybook:80", "http://daybook"),
        ("https://daybook.example.org:8443", f"{PUBLIC}:8443"),
        ("https://Daybook.example.org:443/My/pages/", f"{PUBLIC}/My/pages"),
        ("", ""),
    ],
)
def test_a_public_url_is_written_as_browsers_do(
    given: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_PUBLIC_URL", given)
    assert settings.load().public_url == meant
