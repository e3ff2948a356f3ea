"""Browser login at the Prefect server of `daybook up`, and the use of its cookie."""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import pytest

from daybook.operations import login, peers
from daybook.operations.host_names import Receive, Scope, Send
from daybook.operations.prefect_login import PrefectLogin

CREDENTIAL = "daybook:secret"
BASIC = f"Basic {base64.b64encode(CREDENTIAL.encode()).decode()}"
OWN = "http://127.0.0.1:4200"
is_another_user = peers.is_another_user
"""The function itself, which these tests replace."""
SETTINGS = {"api_url": f"{OWN}/api", "auth": "BASIC", "flags": []}


@pytest.fixture(autouse=True)
def asked_by_this_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat each request as from this user: these tests open no sockets to check."""
    monkeypatch.setattr(peers, "is_another_user", lambda scope: False)


class FakeServer:
    """A fake Prefect that records its requests and answers with its UI settings."""

    def __init__(self) -> None:
        self.authorization: str | None = None
        self.messages: list[Any] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        self.authorization = headers.get(b"authorization", b"").decode() or None
        if scope["type"] == "websocket":
            self.messages += [await receive(), await receive(), await receive()]
            return
        body = json.dumps(SETTINGS).encode()
        head = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body[:5], "more_body": True})
        await send({"type": "http.response.body", "body": body[5:]})

    async def refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse every request, as Prefect does without a credential."""
        body = b'{"exception_message":"Unauthorized"}'
        head = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 401, "headers": head})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class Site:
    """A server with the login, and a browser with cookies; ``now`` is the server's clock."""

    def __init__(self, key: str = "key", credential: str = CREDENTIAL) -> None:
        self.now = 1_000_000.0
        self.prefect = FakeServer()
        self.login = PrefectLogin(self.prefect, credential, key, 4200, lambda: self.now)
        transport = httpx.ASGITransport(self.login)
        self.browser = httpx.AsyncClient(transport=transport, base_url=OWN)

    async def token(self) -> str:
        made = await self.browser.post(login.LINKS_PATH, headers={"Authorization": BASIC})
        assert made.status_code == 201
        return str(made.json()["token"])

    async def open(self, token: str) -> httpx.Response:
        return await self.browser.get(login.LOGIN_PATH, params={"token": token})

    async def logged_in(self) -> Site:
        assert (await self.open(await self.token())).status_code == 200
        return self

    async def sent(self, path: str = "/api/flows/", method: str = "GET", **headers: str) -> Any:
        """Send a request, and return the `Authorization` header that Prefect received."""
        self.prefect.authorization = None
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        await self.browser.request(method, path, headers=headers)
        return self.prefect.authorization


async def test_a_link_logs_a_browser_in_once() -> None:
    site = Site()
    token = await site.token()
    answer = await site.open(token)
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("daybook-session-4200=")
    for word in ("HttpOnly", "SameSite=Strict", "Path=/"):
        assert word in cookie
    assert answer.headers["cache-control"] == "no-store"
    assert CREDENTIAL not in cookie + answer.text
    assert await site.sent() == BASIC

    again = await Site.open(site, token)
    assert again.status_code == 403
    assert "set-cookie" not in again.headers
    assert "daybook open" in again.text


async def test_prefects_pages_may_connect_only_to_this_machine() -> None:
    """Check the CSP header: Prefect's UI contacts an analytics host even if that is disabled."""
    site = await Site().logged_in()
    page = await site.browser.get("/dashboard", headers={"Accept": "text/html"})
    (policy,) = page.headers.get_list("content-security-policy")
    what, *allowed = policy.split()
    assert what == "connect-src"
    assert {urlsplit(each).hostname for each in allowed if each != "'self'"} == {
        "127.0.0.1",
        "localhost",
    }


async def test_a_link_expires_and_its_token_is_not_stored() -> None:
    site = Site()
    token = await site.token()
    assert token not in repr(vars(site.login))
    site.now += login.LINK_LIFETIME_SECONDS
    assert (await site.open(token)).status_code == 403
    assert (await site.open("")).status_code == 403
    assert (await site.browser.get(login.LOGIN_PATH)).status_code == 403


async def test_a_link_needs_the_credential_and_the_oldest_of_too_many_is_dropped() -> None:
    site = await Site().logged_in()
    for headers in ({}, {"Authorization": "Basic bm9ib2R5"}, {"Origin": OWN}):
        assert (await site.browser.post(login.LINKS_PATH, headers=headers)).status_code == 401
    tokens = [await site.token() for _ in range(login.MAX_LINKS + 1)]
    assert (await site.open(tokens[0])).status_code == 403  # the oldest link was dropped
    assert (await site.open(tokens[-1])).status_code == 200


async def test_a_link_opened_by_another_user_is_refused_and_not_used_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site()
    token = await site.token()
    monkeypatch.setattr(peers, "is_another_user", lambda scope: True)
    assert (await site.open(token)).status_code == 403
    monkeypatch.setattr(peers, "is_another_user", lambda scope: False)
    assert (await site.open(token)).status_code == 200  # the refused attempt did not use it up


@pytest.mark.skipif(sys.platform != "linux", reason="Linux lists sockets with their users")
@pytest.mark.parametrize(
    ("family", "address"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::ffff:127.0.0.1")],
    ids=["IPv4", "IPv4-mapped"],
)
def test_the_user_of_a_connection_is_determined(
    monkeypatch: pytest.MonkeyPatch, family: socket.AddressFamily, address: str
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(family) as client,
    ):
        client.connect((address, server.getsockname()[1]))
        accepted, peer = server.accept()
        with accepted:
            scope = {"client": peer, "server": accepted.getsockname()}
            assert peers.uid_of(peer, accepted.getsockname()) == os.getuid()
            assert not is_another_user(scope)
            monkeypatch.setattr(os, "getuid", lambda: 1234567)
            monkeypatch.setattr(peers, "_ROOT", -1)
            assert is_another_user(scope)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux lists sockets with their users")
def test_a_closed_socket_is_not_taken_for_one_of_root() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, peer = server.accept()
        with accepted:
            client.sendall(b"POST")
            client.close()
            assert accepted.recv(10) == b"POST"
            assert accepted.recv(10) == b""  # the system lists the closed socket as root's
            assert peers.uid_of(peer, accepted.getsockname()) is None
            assert is_another_user({"client": peer, "server": accepted.getsockname()})


@pytest.mark.skipif(sys.platform != "linux", reason="Linux lists sockets with their users")
def test_the_user_of_a_connection_over_ipv6_is_found() -> None:
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as server,
        socket.create_connection(server.getsockname()[:2]),
    ):
        accepted, peer = server.accept()
        with accepted:
            client, to = peer[:2], accepted.getsockname()[:2]
            assert peers.uid_of(client, to) == os.getuid()
            assert peers.uid_of((client[0], 1), to) is None
            assert peers.uid_of(client, ("127.0.0.1", to[1])) is None


def test_a_connection_that_the_system_does_not_list_is_of_another_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peers, "SOCKET_TABLES", tmp_path)
    scope = {"client": ("127.0.0.1", 40001), "server": ("127.0.0.1", 4200)}
    assert not is_another_user(scope)  # the system has no socket tables
    (tmp_path / "tcp").write_text("  sl  local_address rem_address   st tx_queue\n")
    assert is_another_user(scope)
    assert is_another_user(scope | {"client": ("10.0.0.1", 40001)})
    assert not is_another_user({"client": None, "server": None})


async def test_another_user_cannot_use_a_stolen_login_cookie(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = await Site().logged_in()
    page = {"Sec-Fetch-Site": "same-origin"}
    await site.browser.get("/api/flows", headers=page)
    assert site.prefect.authorization == BASIC
    monkeypatch.setattr(peers, "is_another_user", lambda scope: True)
    await site.browser.get("/api/flows", headers=page)
    assert site.prefect.authorization is None


async def test_a_request_whose_connection_becomes_another_users_has_no_complete_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = await Site().logged_in()
    received = list[Any]()

    async def prefect(scope: Scope, receive: Receive, send: Send) -> None:
        assert dict(scope["headers"])[b"authorization"].decode() == BASIC
        received.append(await receive())
        monkeypatch.setattr(peers, "is_another_user", lambda scope: True)
        received.extend([await receive(), await receive()])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        yield b"second"

    site.login = PrefectLogin(prefect, CREDENTIAL, "key", 4200, lambda: site.now)
    transport = httpx.ASGITransport(site.login)
    headers = {"Sec-Fetch-Site": "same-origin"}
    async with httpx.AsyncClient(
        transport=transport, base_url=OWN, cookies=site.browser.cookies
    ) as browser:
        await browser.post("/api/flows", headers=headers, content=body())
    assert [each.get("body") for each in received] == [b"first", b"second", None]
    assert received[-1]["type"] == "http.disconnect"


@pytest.mark.parametrize(
    ("method", "headers", "accepted"),
    [
        ("GET", {}, True),
        ("GET", {"sec-fetch-site": "same-origin"}, True),
        ("GET", {"sec-fetch-site": "none"}, True),
        # Another port of this machine is the same site, so the browser sends it the cookie.
        ("GET", {"sec-fetch-site": "same-site"}, False),
        ("GET", {"sec-fetch-site": "cross-site"}, False),
        ("GET", {"origin": "http://127.0.0.1:9999"}, False),
        ("POST", {"origin": OWN}, True),
        ("POST", {"origin": OWN, "sec-fetch-site": "same-origin"}, True),
        ("POST", {"sec-fetch-site": "same-origin"}, True),
        ("POST", {}, False),
        ("POST", {"origin": "null"}, False),
        ("POST", {"origin": "http://127.0.0.1:9999"}, False),
        ("POST", {"origin": "http://[broken"}, False),
        ("POST", {"origin": OWN, "sec-fetch-site": "same-site"}, False),
        ("POST", {"sec-fetch-site": "none"}, False),
        ("DELETE", {}, False),
        ("PATCH", {"origin": "http://rebound.example:4200"}, False),
    ],
)
async def test_the_login_cookie_is_accepted_only_from_pages_of_this_server(
    method: str, headers: dict[str, str], accepted: bool
) -> None:
    site = await Site().logged_in()
    assert await site.sent(method=method, **headers) == (BASIC if accepted else None)


async def test_a_stale_credential_of_a_logged_in_browser_is_replaced() -> None:
    site = await Site().logged_in()
    assert await site.sent(authorization="Basic c3RhbGU=") == BASIC
    site.browser.cookies.clear()
    assert await site.sent(authorization="Basic c3RhbGU=") == "Basic c3RhbGU="


async def test_a_login_survives_a_restart_but_not_its_expiry_or_a_new_key_or_credential() -> None:
    site = await Site().logged_in()
    (cookie,) = [f"{name}={value}" for name, value in site.browser.cookies.items()]
    assert await Site().sent(cookie=cookie) == BASIC
    assert await Site(key="other").sent(cookie=cookie) is None
    assert await Site(credential="daybook:other").sent(cookie=cookie) is None
    name, _, value = cookie.partition("=")
    until, rest = value.split(".", 1)
    for forged in ("", f"{int(until) + 1}.{rest}", value[:-1], "x.y", "..", "; ;"):
        assert await Site().sent(cookie=f"{name}={forged}") is None
    assert await Site().sent(cookie=f'theirs={{"a": [1]}}; {cookie}') == BASIC  # another port's
    later = Site()
    later.now += login.SESSION_LIFETIME_SECONDS
    assert await later.sent(cookie=cookie) is None


async def test_the_ui_asks_a_logged_in_browser_for_no_password() -> None:
    site = Site()
    assert (await site.browser.get("/ui-settings")).json() == SETTINGS
    await site.logged_in()
    response = await site.browser.get("/ui-settings")
    assert response.json() == {**SETTINGS, "auth": None}
    elsewhere = {"sec-fetch-site": "cross-site"}
    assert (await site.browser.get("/ui-settings", headers=elsewhere)).json() == SETTINGS
    named = {"host": "localhost:4200", "cookie": response.request.headers["cookie"]}
    settings = await site.browser.get("/v2/ui-settings", headers=named)
    assert settings.json()["api_url"] == "http://localhost:4200/api"  # the host that has the cookie


async def test_a_page_opened_without_a_login_says_how_to_log_in() -> None:
    site = Site()
    html = {"accept": "text/html,*/*"}
    page = await site.browser.get("/v2/dashboard", headers=html)
    assert page.status_code == 401
    assert "daybook open" in page.text
    assert (await site.browser.get("/v2/assets/a.js")).status_code == 200
    await site.logged_in()
    assert (await site.browser.get("/v2/dashboard", headers=html)).status_code == 200


async def test_a_person_can_log_in_by_typing_the_credential() -> None:
    site = Site()

    async def typed(password: str, **headers: str) -> int:
        form = urlencode({"password": password})
        answer = await site.browser.post(login.LOGIN_PATH, content=form, headers=headers)
        return answer.status_code

    assert await typed("wrong", origin=OWN) == 403
    assert await typed(CREDENTIAL) == 403  # without the origin of an own page
    assert await typed(CREDENTIAL, origin="http://127.0.0.1:9999") == 403
    assert await typed(CREDENTIAL + " " * login.MAX_PASSWORD_BYTES, origin=OWN) == 403
    assert await site.sent() is None
    assert await typed(CREDENTIAL, origin=OWN) == 200
    assert await site.sent() == BASIC


@pytest.mark.parametrize(
    ("origin", "session", "sent"),
    [(OWN, True, CREDENTIAL), ("http://127.0.0.1:9999", True, None), (OWN, False, None)],
)
async def test_the_first_message_of_a_websocket_from_own_pages_gets_the_credential(
    origin: str, session: bool, sent: str | None
) -> None:
    site = await Site().logged_in()
    cookies = "; ".join(f"{name}={value}" for name, value in site.browser.cookies.items())
    headers = {"host": "127.0.0.1:4200", "origin": origin, "cookie": cookies if session else ""}
    messages = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": json.dumps({"type": "auth", "token": None})},
        {"type": "websocket.receive", "text": json.dumps({"type": "auth", "token": "second"})},
    ]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        raise AssertionError(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "websocket", "path": "/api/events/out", "headers": raw}
    await site.login(scope, receive, send)
    _, first, second = site.prefect.messages
    assert json.loads(first["text"])["token"] == sent
    assert json.loads(second["text"])["token"] == "second"


@pytest.mark.parametrize("more", [0, 1])
async def test_a_form_that_is_too_long_is_read_as_an_empty_one(more: int) -> None:
    body = b"x" * (login.MAX_PASSWORD_BYTES + more)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    assert await login._body(receive) == (b"" if more else body)


async def test_a_program_without_the_credential_is_told_how_to_get_it() -> None:
    site = Site()
    site.login.application = site.prefect.refuse
    refused = await site.browser.get("/api/admin/version")
    assert refused.status_code == 401
    assert 'eval "$(daybook env)"' in refused.json()["exception_message"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/docs", 404),
        ("/docs/oauth2-redirect", 404),
        ("/redoc", 404),
        ("/openapi.json", 404),
        ("/api/docs", 404),
        ("/api/redoc", 404),
        ("/api/openapi.json", 200),  # Prefect requires the credential
        ("/docs-of-mine", 200),
    ],
)
async def test_no_page_of_the_api_runs_scripts_of_other_servers(path: str, status: int) -> None:
    site = await Site().logged_in()
    site.prefect.authorization = None
    assert (await site.browser.get(path)).status_code == status
