"""Guarded transport: connects only to checked addresses, checks redirects, ignores proxies."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import timedelta
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.errors import InvalidInput, OutgoingRefused
from daybook.http import request
from daybook.http import transport as guarded
from daybook.http.guard import AllowedHosts, Guard, Rule
from daybook.http.httpx2_transport import Httpx2Transport
from daybook.http.httpx_transport import HttpxTransport
from daybook.http.request import NoResponse, Response
from daybook.http.transport import SECRET_BODY, GuardedTransport
from tests import rows
from tests.receiver import Handler, Receiver, Wires, answer, redirect, serving
from tests.unit.http.conftest import Kind
from tests.unit.http.tricks import (
    PRIVATE,
    PUBLIC,
    PUBLIC_IPV6,
    REFUSED,
    TURNS,
    Answers,
    Dns,
)

pytestmark = pytest.mark.anyio

ELSEWHERE = "151.101.1.69"
NAMES: Mapping[str, Answers] = {
    "public.example": ((PUBLIC,),),
    "other.example": ((ELSEWHERE,),),
    "intranet.example": ((PRIVATE,),),
}


def _transport(
    kind: Kind, wires: Wires, rule: Rule = Rule.AGENT, dns: Dns | None = None, allowed: str = ""
) -> HttpxTransport | Httpx2Transport:
    wires.core = kind.library.core
    return kind(Guard(rule, AllowedHosts.parse(allowed), dns or Dns(NAMES)), backend=wires)


async def _ask(transport: GuardedTransport, url: str, method: str = "GET", **more: str) -> Response:
    headers = {name.replace("_", "-"): value for name, value in more.items()}
    body = b"a body" if method == "POST" else b""
    return await request.request(transport, method, url, headers=headers, body=body, timeout=20)


async def test_no_connection_is_opened_to_an_address_that_an_agent_may_not_reach(
    kind: Kind,
) -> None:
    for trick, row in rows.each(REFUSED):
        wires = Wires({})
        with row:
            with pytest.raises(InvalidInput):
                await _ask(_transport(kind, wires, dns=Dns.of(trick)), trick.url)
            assert wires.connected == []


async def test_a_redirect_to_a_refused_address_is_not_followed(kind: Kind) -> None:
    for (turn, rule), row in rows.each(product(TURNS, Rule)):
        with row:
            async with serving() as server:
                server.steps = [redirect(turn.location, turn.status), answer(200, b"the inside")]
                public = {(PUBLIC, port): server for port in (80, 443)}
                inside = {(address, 80): server for address in (PRIVATE, "127.0.0.1")}
                wires = Wires(public | inside)
                transport = _transport(kind, wires, rule, Dns({**NAMES, **(turn.answers or {})}))
                with pytest.raises(InvalidInput):
                    await _ask(transport, turn.start)
            assert wires.connected == [(PUBLIC, 80)]
            assert len(server.requests) == 1


async def test_a_name_is_resolved_once_per_request(kind: Kind) -> None:
    dns = Dns({"public.example": ((PUBLIC,), ("127.0.0.1",))})
    async with serving() as server, serving() as inside:
        wires = Wires({(PUBLIC, 80): server, ("127.0.0.1", 80): inside})
        given = await _ask(_transport(kind, wires, dns=dns), "http://public.example/")
    assert given.status == 200
    assert dns.asked == ["public.example"]
    assert wires.connected == [(PUBLIC, 80)]
    assert inside.requests == []
    assert server.requests[0].headers["host"] == "public.example"


async def test_each_request_of_a_client_is_checked_again(kind: Kind) -> None:
    dns = Dns({"public.example": ((PUBLIC,), ("127.0.0.1",))})
    async with serving() as server:
        wires = Wires({(PUBLIC, 80): server})
        async with _transport(kind, wires, dns=dns).client() as client:
            assert (await client.get("http://public.example/")).text == "done"
            with pytest.raises(OutgoingRefused):
                await client.get("http://public.example/")
    assert wires.connected == [(PUBLIC, 80)]


async def test_the_next_address_is_tried_if_a_connection_is_refused(kind: Kind) -> None:
    dns = Dns({"public.example": ((PUBLIC_IPV6, ELSEWHERE, PUBLIC),)})
    async with serving() as server:
        wires = Wires({(PUBLIC, 8080): server})
        await _ask(_transport(kind, wires, dns=dns), "http://public.example:8080/")
    assert [host for host, _ in wires.connected] == [PUBLIC_IPV6, ELSEWHERE, PUBLIC]


async def test_an_operators_job_reaches_localhost_over_the_real_network(kind: Kind) -> None:
    async with serving() as server:
        transport = kind(Guard(Rule.OPERATOR))
        assert (await _ask(transport, f"{server.address}/x?y=1")).body == b"done"
        assert (await _ask(transport, f"http://localhost:{server.port}/")).status == 200
    assert server.requests[0].path == "/x?y=1"


async def test_an_agents_job_reaches_an_address_that_the_operator_allowed(kind: Kind) -> None:
    async with serving() as server:
        transport = kind(Guard(Rule.AGENT, AllowedHosts.parse("127.0.0.1")))
        assert (await _ask(transport, server.address)).status == 200
        with pytest.raises(OutgoingRefused):
            await _ask(transport, f"http://127.0.0.2:{server.port}/")


async def test_proxies_netrc_and_cookies_of_the_environment_are_not_used(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine public.example login ann password hush\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with serving() as server, serving() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.address)
        server.steps = [answer(200, headers={"Set-Cookie": "a=b"})]
        transport = _transport(kind, Wires({(PUBLIC, 80): server}))
        await _ask(transport, "http://public.example/")
        await _ask(transport, "http://public.example/")
        async with transport.client() as client:
            await client.get("http://public.example/")
    assert proxy.requests == []
    assert len(server.requests) == 3
    assert not [request for request in server.requests if "authorization" in request.headers]
    assert "cookie" not in server.requests[1].headers


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "POST", "GET"),
        (307, "POST", "POST"),
        (308, "POST", "POST"),
        (301, "PUT", "PUT"),
        (302, "DELETE", "DELETE"),
        (303, "PUT", "GET"),
        (302, "HEAD", "HEAD"),
        (307, "GET", "GET"),
    ],
)
async def test_a_redirect_is_sent_with_the_method_that_its_status_requires(
    kind: Kind, status: int, method: str, then: str
) -> None:
    async with serving() as server:
        server.steps = [redirect("/next?to=it#part", status), answer(200)]
        transport = _transport(kind, Wires({(PUBLIC, 80): server}))
        given = await _ask(
            transport, "http://public.example/a", method, Content_Type="text/plain", X_Team="a"
        )
    first, second = server.requests
    assert given.redirects == (
        f"{status} to http://public.example" + (f", sent as {then}" if then != method else ""),
    )
    assert (second.method, second.path) == (then, "/next?to=it")
    assert second.headers["x-team"] == "a"
    if then == method:
        assert second.body == first.body
        assert second.headers["content-type"] == "text/plain"
    else:
        assert second.body == b""
        assert not {"content-type", "content-length"} & set(second.headers)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_303_is_followed_without_the_body_whatever_the_method(
    kind: Kind, method: str
) -> None:
    async with serving() as server:
        server.steps = [redirect("/next", 303), answer(200)]
        transport = _transport(kind, Wires({(PUBLIC, 80): server}))
        headers = {"Content-Type": "text/plain", "X-Team": "a"}
        await request.request(
            transport, method, "http://public.example/", headers=headers, body=b"a body"
        )
    first, second = server.requests
    assert (first.method, first.body) == (method, b"a body")
    assert (second.method, second.body) == (method, b"")
    assert second.headers["x-team"] == "a"
    assert not {"content-type", "content-length"} & set(second.headers)


@pytest.mark.parametrize(
    ("to", "is_sent"),
    [
        ("http://public.example/next", True),
        ("//PUBLIC.example:80/next", True),
        ("http://other.example/next", False),
        ("http://public.example:8080/next", False),
    ],
)
async def test_credentials_are_not_sent_to_another_origin(
    kind: Kind, to: str, is_sent: bool
) -> None:
    secrets = {
        "Authorization": "Bearer hush",
        "Cookie": "a=b",
        "X-Api-Key": "hush",
        "X-Anything": "hush",
        "Webhook-Signature": "v1,hush",
    }
    async with serving() as server:
        server.steps = [redirect(to, 307), answer(200)]
        addresses = ((PUBLIC, 80), (PUBLIC, 8080), (ELSEWHERE, 80))
        transport = _transport(kind, Wires(dict.fromkeys(addresses, server)))
        headers = secrets | {"Idempotency-Key": "due:1", "Accept": "text/plain"}
        await request.request(
            transport, "POST", "http://public.example/", headers=headers, body=b"a body"
        )
    first, second = server.requests
    there = {name for name in secrets if name.lower() in second.headers}
    assert there == (set(secrets) if is_sent else set())
    assert ("hush" in str(second.headers)) is is_sent
    assert second.headers["idempotency-key"] == "due:1"
    assert second.body == first.body == b"a body"


async def test_at_most_five_redirects_are_followed(kind: Kind) -> None:
    async with serving() as server:
        transport = _transport(kind, Wires({(PUBLIC, 80): server}))
        server.steps = [*[redirect(f"/{n}") for n in range(5)], answer(200, b"here")]
        assert (await _ask(transport, "http://public.example/")).body == b"here"
        server.requests.clear()
        server.steps = [redirect("/round")]
        with pytest.raises(OutgoingRefused, match="more than 5 redirects"):
            await _ask(transport, "http://public.example/")
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "step", [answer(304), answer(300), answer(302), answer(201, headers={"Location": "/made"})]
)
async def test_an_answer_that_is_not_a_complete_redirect_is_returned(
    kind: Kind, step: Handler
) -> None:
    async with serving() as server:
        server.steps = [step]
        given = await _ask(
            _transport(kind, Wires({(PUBLIC, 80): server})), "http://public.example/"
        )
    assert given.status in {201, 300, 302, 304}
    assert len(server.requests) == 1


async def test_a_secret_is_not_sent_over_plain_http_to_a_public_address(kind: Kind) -> None:
    async with serving() as server:
        wires = Wires({(PUBLIC, 80): server, (PRIVATE, 80): server})
        header = {"X-Team": "hush"}

        async def ask(url: str, allowed: str = "") -> Response:
            transport = _transport(kind, wires, Rule.OPERATOR, allowed=allowed)
            return await request.request(transport, "GET", url, headers=header, secret=["x-team"])

        with pytest.raises(OutgoingRefused, match="over plain http") as refused:
            await ask("http://public.example/")
        assert "hush" not in str(refused.value)
        assert server.requests == []
        assert (await ask("http://intranet.example/")).status == 200


@pytest.mark.parametrize("length", ["Content-Length", "Transfer-Encoding"])
def test_a_secret_body_is_not_sent_over_plain_http_to_a_public_address(length: str) -> None:
    sent = cast("Any", SimpleNamespace(headers={length: "chunked"}))
    target = cast("Any", SimpleNamespace(url=httpx.URL("http://public.example/"), exposed=True))
    with pytest.raises(OutgoingRefused, match="over plain http"):
        guarded._refuse_plain_secret(sent, target, frozenset({SECRET_BODY}), "operator")


class Deaf(Wires):
    """Network without any server; ``waited`` is the timeout of each connection attempt."""

    def __init__(self) -> None:
        super().__init__({})
        self.waited: list[float | None] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Any:
        self.waited.append(timeout)
        raise self.core.ConnectTimeout("no answer")


async def test_a_connection_attempt_leaves_half_of_the_timeout_for_the_next_address(
    kind: Kind,
) -> None:
    wires = Deaf()
    dns = Dns({"public.example": ((PUBLIC, ELSEWHERE),)})
    with pytest.raises(NoResponse) as failed:
        await request.request(
            _transport(kind, wires, dns=dns), "GET", "http://public.example/", headers={}, timeout=8
        )
    assert (failed.value.sent, failed.value.timed_out) == (False, True)
    assert wires.waited == [4, 4]


async def test_the_timeout_includes_the_name_resolution(kind: Kind) -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    transport = kind(Guard(Rule.AGENT, resolver=never))
    began = SYSTEM_CLOCK.now()
    with pytest.raises(NoResponse) as failed:
        await request.request(transport, "GET", "http://public.example/", headers={}, timeout=0.2)
    assert SYSTEM_CLOCK.now() - began < timedelta(seconds=10)
    assert (failed.value.sent, failed.value.timed_out) == (False, True)


async def test_an_unknown_host_name_counts_as_not_sent(kind: Kind) -> None:
    with pytest.raises(NoResponse, match=r"nowhere\.example") as failed:
        await _ask(_transport(kind, Wires({})), "http://nowhere.example/")
    assert (failed.value.sent, failed.value.misconfigured) == (False, False)


MIXED: Mapping[str, Answers] = {**NAMES, "mixed.example": ((PUBLIC, "127.0.0.1"),)}
"""A name with a public address and one of this machine, as the owner of the name chooses."""


@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize("location", ["http://intranet.example/", "http://10.0.0.1/", "/next"])
async def test_a_redirect_is_checked_by_the_address_of_the_connection(
    kind: Kind, rule: Rule, location: str
) -> None:
    async with serving() as server, serving() as inside:
        server.steps = [redirect(location), answer(200, b"the inside")]
        wires = Wires({(PUBLIC, 80): server, (PRIVATE, 80): inside, ("127.0.0.1", 80): inside})
        transport = _transport(kind, wires, rule, Dns(MIXED), allowed="127.0.0.1, 10.0.0.0/8")
        with pytest.raises(OutgoingRefused, match="from a public to a private"):
            await _ask(transport, "http://mixed.example/")
    assert wires.connected == [(PUBLIC, 80)]
    assert inside.requests == []


async def test_a_host_reached_by_its_private_address_may_redirect_to_a_private_one(
    kind: Kind,
) -> None:
    async with serving() as server:
        server.steps = [redirect("http://intranet.example/"), answer(200, b"the inside")]
        wires = Wires(
            {("127.0.0.1", 80): server, (PRIVATE, 80): server}
        )  # no server at the public address
        transport = _transport(kind, wires, Rule.OPERATOR, Dns(MIXED))
        assert (await _ask(transport, "http://mixed.example/")).body == b"the inside"
    assert wires.connected == [(PUBLIC, 80), ("127.0.0.1", 80), (PRIVATE, 80)]


async def test_a_redirect_over_tls_is_checked_by_the_address_of_the_connection(
    kind: Kind, certified: tuple[ssl.SSLContext, Path]
) -> None:
    context, authority = certified
    trusted = ssl.create_default_context(cafile=str(authority))
    async with serving(context) as server:
        server.steps = [redirect("https://intranet.example/")]
        wires = Wires({(PUBLIC, 443): server, (PRIVATE, 443): server}, kind.library.core)
        dns = Dns({**NAMES, "public.example": ((PUBLIC, "127.0.0.1"),)})
        guard = Guard(Rule.OPERATOR, resolver=dns)
        transport = kind(guard, backend=wires, ssl_context=trusted)
        with pytest.raises(OutgoingRefused, match="from a public to a private"):
            await _ask(transport, "https://public.example/")
    assert wires.connected == [(PUBLIC, 443)]


@pytest.mark.parametrize("rule", Rule)
async def test_a_secret_is_not_sent_over_plain_http_if_one_address_is_public(
    kind: Kind, rule: Rule
) -> None:
    async with serving() as server:
        wires = Wires({(PUBLIC, 80): server, ("127.0.0.1", 80): server})
        transport = _transport(kind, wires, rule, Dns(MIXED), allowed="127.0.0.1")
        with pytest.raises(OutgoingRefused, match="over plain http"):
            await request.request(
                transport, "GET", "http://mixed.example/", headers={"X-A": "s"}, secret=["x-a"]
            )
    assert wires.connected == []


async def test_a_streamed_body_is_not_sent_twice(kind: Kind) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"once"

    async with serving() as server:
        server.steps = [redirect("/again", 307), answer(200)]
        async with _transport(kind, Wires({(PUBLIC, 80): server})).client() as client:
            with pytest.raises(kind.library.http.TransportError, match="the body was already sent"):
                await client.post(
                    "http://public.example/", content=parts(), headers={"Content-Length": "4"}
                )
    assert [request.body for request in server.requests] == [b"once"]


async def _tls(kind: Kind, server: Receiver, authority: Path, url: str) -> Response:
    trusted = ssl.create_default_context(cafile=str(authority))
    wires = Wires({(PUBLIC, 443): server, (ELSEWHERE, 443): server}, kind.library.core)
    guard = Guard(Rule.AGENT, resolver=Dns(NAMES))
    transport = kind(guard, backend=wires, ssl_context=trusted)
    return await _ask(transport, url)


async def test_certificate_and_server_name_are_those_of_the_host_name(
    kind: Kind,
    certified: tuple[ssl.SSLContext, Path],
) -> None:
    context, authority = certified
    async with serving(context) as server:
        assert (await _tls(kind, server, authority, "https://public.example./")).status == 200
        with pytest.raises(NoResponse, match="certificate") as failed:
            await _tls(kind, server, authority, "https://other.example/")
    assert (failed.value.misconfigured, failed.value.sent) == (True, False)
    assert server.names == ["public.example", "other.example"]
    assert len(server.requests) == 1


async def test_a_redirect_from_https_to_http_is_refused(
    kind: Kind, certified: tuple[ssl.SSLContext, Path]
) -> None:
    context, authority = certified
    async with serving(context) as server:
        server.steps = [redirect("http://public.example/")]
        with pytest.raises(OutgoingRefused, match="from https to http"):
            await _tls(kind, server, authority, "https://public.example/")
        assert len(server.requests) == 1


async def test_a_certificate_of_an_unknown_authority_is_not_trusted(
    kind: Kind,
    certified: tuple[ssl.SSLContext, Path],
) -> None:
    async with serving(certified[0]) as server:
        wires = Wires({(PUBLIC, 443): server})
        with pytest.raises(NoResponse, match="not trusted") as failed:
            await _ask(_transport(kind, wires), "https://public.example/")
    assert failed.value.misconfigured
