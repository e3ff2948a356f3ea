"""MCP servers over HTTP: which addresses are allowed, and the outcome of each bad answer."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Mapping
from itertools import product
from typing import Any

import httpcore2
import pytest

from daybook.errors import InvalidInput, OutgoingRefused, ToolUnreachable
from daybook.http.guard import AllowedHosts, Guard, Rule
from daybook.http.secrets import FilledSecrets, Secret
from daybook.ledger.states import Status
from daybook.tools import calls, catalog
from daybook.tools.base import CallResult
from daybook.tools.calls import PreparedCall
from daybook.tools.connection import CallUnanswered, Connection
from daybook.tools.http import HttpWire
from tests import rows
from tests.contract.tools.conftest import Saved
from tests.receiver import (
    Handler,
    Receiver,
    Request,
    Wires,
    answer,
    cut,
    hang,
    head,
    raw,
    redirect,
    serving,
)
from tests.unit.http.tricks import PRIVATE, PUBLIC, REFUSED, TURNS, Answers, Dns

pytestmark = pytest.mark.anyio

NAMES: Mapping[str, Answers] = {"public.example": ((PUBLIC,),), "other.example": ((PUBLIC,),)}
URL = "http://public.example/mcp"
JSON = {"Content-Type": "application/json"}
EVENTS = {"Content-Type": "text/event-stream"}
TOOL = {"name": "reindex", "inputSchema": {"type": "object"}}
HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "scripted", "version": "1"},
}


def speaks(call: Handler) -> Handler:
    """Return a server with one tool that answers its calls with ``call``."""

    async def step(request: Request, writer: asyncio.StreamWriter) -> None:
        message = json.loads(request.body) if request.body else {}
        match message.get("method"):
            case "initialize":
                response: dict[str, Any] = {"result": HELLO}
            case "tools/list":
                response = {"result": {"tools": [TOOL]}}
            case "tools/call":
                await call(request, writer)
                return
            case "notifications/initialized":
                await answer(202, b"")(request, writer)
                return
            case _:
                response = {"error": {"code": -32601, "message": "no such method"}}
        await _says(message["id"], response)(request, writer)

    return step


def _says(number: Any, message: Mapping[str, Any]) -> Handler:
    body = json.dumps({"jsonrpc": "2.0", "id": number, **message}).encode()
    return answer(200, body, JSON)


def says(message: Mapping[str, Any], *, events: bool = False) -> Handler:
    """Return a handler that answers a request with this protocol message."""

    async def step(request: Request, writer: asyncio.StreamWriter) -> None:
        number = json.loads(request.body)["id"]
        if not events:
            await _says(number, message)(request, writer)
            return
        data = json.dumps({"jsonrpc": "2.0", "id": number, **message})
        await raw(head(200, EVENTS) + f"event: message\ndata: {data}\n\n".encode())(request, writer)

    return step


DONE = says({"result": {"content": [{"type": "text", "text": "done"}]}})


@pytest.fixture
async def server() -> AsyncIterator[Receiver]:
    async with serving() as server:
        yield server


def _wires(server: Receiver) -> Wires:
    return Wires({(PUBLIC, 80): server})


def _wire(
    wires: Wires,
    url: str = URL,
    rule: Rule = Rule.AGENT,
    dns: Dns | None = None,
    secret: frozenset[str] = frozenset(),
    **headers: str,
) -> HttpWire:
    wires.core = httpcore2
    guard = Guard(rule, AllowedHosts.parse(""), dns or Dns(NAMES))
    return HttpWire(guard, url, headers, secret, backend=wires)


async def _opened(wire: HttpWire, within: float = 30) -> Connection:
    there = Connection(wire.shown, wire)
    await there.open(within)
    return there


async def _call(
    server: Receiver, step: Handler, *, idempotent: bool = False, timeout: float = 30
) -> CallResult:
    server.steps = [speaks(step)]
    there = await _opened(_wire(_wires(server)))
    prepared = PreparedCall("x#reindex", "reindex", {}, "request:x:1", {}, FilledSecrets(), there)
    return await calls.call(prepared, timeout=timeout, idempotent=idempotent)


async def test_an_agents_job_cannot_name_a_refused_address() -> None:
    for trick, row in rows.each(REFUSED[::12]):
        dns = Dns.of(trick)
        saved = Saved()
        guard = Guard(Rule.AGENT, None, dns)
        with row, pytest.raises(InvalidInput):
            await calls.prepare(f"{trick.url}#reindex", {}, "request:x:1", saved, saved, guard)


async def test_no_connection_is_opened_to_a_refused_address() -> None:
    for (trick, rule), row in rows.each(product(REFUSED[::6], Rule)):
        wires, guard = Wires({}, httpcore2), Guard(rule, None, Dns.of(trick))
        reached = rule is Rule.OPERATOR and trick.operator
        with row:
            with pytest.raises(ToolUnreachable if reached else InvalidInput):
                guard.check(trick.url)
                await _opened(HttpWire(guard, trick.url, {}, backend=wires))
            assert bool(wires.connected) is reached


async def test_a_redirect_to_a_refused_address_is_not_followed() -> None:
    for (turn, rule), row in rows.each(product(TURNS, Rule)):
        with row:
            async with serving() as server:
                server.steps = [redirect(turn.location, turn.status), speaks(DONE)]
                laid = {(address, 80): server for address in (PUBLIC, PRIVATE, "127.0.0.1")}
                wires = Wires(laid)
                dns = Dns({**NAMES, **(turn.answers or {})})
                with pytest.raises(InvalidInput):
                    await _opened(_wire(wires, turn.start, rule, dns))
            assert wires.connected == [(PUBLIC, 80)]


async def test_parameters_are_not_sent_to_another_host_by_a_redirect(server: Receiver) -> None:
    """Even a redirect to another public name is refused."""
    server.steps = [speaks(redirect("http://other.example/mcp", 307))]
    wires = _wires(server)
    there = await _opened(_wire(wires))
    prepared = PreparedCall(
        "x", "reindex", {}, "request:x:1", {"key": "secret"}, FilledSecrets(), there
    )
    with pytest.raises(OutgoingRefused, match=r"other\.example is refused"):
        await calls.call(prepared, timeout=30)
    asked = [each for each in server.requests if b"tools/call" in each.body]
    assert [each.headers["host"] for each in asked] == ["public.example"]


async def test_a_redirect_within_the_same_host_is_followed(server: Receiver) -> None:
    async def step(request: Request, writer: asyncio.StreamWriter) -> None:
        moved = redirect("/mcp/", 307) if request.path == "/mcp" else speaks(DONE)
        await moved(request, writer)

    server.steps = [step]
    there = await _opened(_wire(_wires(server)))
    prepared = PreparedCall("x", "reindex", {}, "request:x:1", {}, FilledSecrets(), there)
    called = await calls.call(prepared, timeout=30)
    assert called.outcome.output == "done"


async def test_a_secret_header_is_not_sent_over_plain_http_to_a_public_address(
    server: Receiver,
) -> None:
    server.steps = [speaks(DONE)]
    wires = _wires(server)
    secret = frozenset({"authorization"})
    with pytest.raises(OutgoingRefused, match="plain http"):
        await _opened(_wire(wires, secret=secret, Authorization="Bearer x"))
    assert wires.connected == []


async def test_each_request_has_daybooks_user_agent_and_accepts_no_compression(
    server: Receiver,
) -> None:
    await _call(server, DONE)
    for request in server.requests:
        assert request.headers["user-agent"].startswith("daybook/")
        assert request.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("events", [False, True], ids=["plain", "events"])
async def test_a_plain_or_streamed_answer_succeeds_with_its_text(
    server: Receiver, events: bool
) -> None:
    response = {"result": {"content": [{"type": "text", "text": "done"}]}}
    called = await _call(server, says(response, events=events))
    assert (called.outcome.status, called.outcome.output) == (Status.SUCCEEDED, "done")
    assert sum(b"tools/call" in each.body for each in server.requests) == 1


async def test_a_protocol_error_from_the_server_is_a_failure_that_is_not_retried() -> None:
    """This includes codes that the client library uses for a broken connection."""
    all_codes = (-32000, -32001, -32600, -32603, -32700)
    for (code, events), row in rows.each(product(all_codes, (False, True))):
        response = {"error": {"code": code, "message": "the index is gone"}}
        with row:
            async with serving() as server:
                called = await _call(server, says(response, events=events), idempotent=True)
            assert (called.outcome.status, called.temporary) == (Status.FAILED, False)
            assert called.outcome.error == "the index is gone"


CODES = "-32000, -32001, -32600, -32603, -32700"
"""Those by which the library reports that a connection broke, or that there is no answer."""

UNANSWERED: dict[str, Handler] = {
    "a part of a body that holds these codes": raw(
        head(200, {**JSON, "Content-Length": "1000"})
        + b'{"jsonrpc": "2.0", "id": 3, "result": {"content": [{"type": "text", "text": "'
        + CODES.encode()
    ),
    "an event that holds these codes": raw(
        head(200, EVENTS)
        + b'data: {"jsonrpc": "2.0", "method": "notifications/message", "params": '
        + b'{"level": "info", "data": ['
        + CODES.encode()
        + b"]}}\n\n"
    ),
    "the connection is closed": raw(b""),
    "a part of a head": raw(b"HTTP/1.1 200 OK\r\nContent-"),
    "a part of a body": raw(head(200, {**JSON, "Content-Length": "1000"}) + b'{"jsonrpc": "2'),
    "no event": raw(head(200, EVENTS)),
    "a part of an event": raw(head(200, EVENTS) + b'event: message\ndata: {"jsonrpc"'),
    "not JSON": answer(200, b"<html>", JSON),
    "of another type": answer(200, b"<html>", {"Content-Type": "text/html"}),
    "accepted": answer(202, b""),
    "compressed": answer(200, gzip.compress(b"{}"), {**JSON, "Content-Encoding": "gzip"}),
    "no answer of the protocol": says({"result": {"content": "done"}}),
}


async def test_a_sent_call_without_a_valid_answer_is_unknown() -> None:
    for (_, step), row in rows.each(UNANSWERED.items()):
        with row:
            async with serving() as server:
                called = await _call(server, step)
            assert (called.outcome.status, called.temporary) == (Status.UNKNOWN, False)
            assert sum(b"tools/call" in each.body for each in server.requests) == 1


async def test_an_idempotent_call_without_a_valid_answer_is_retried() -> None:
    for (_, step), row in rows.each(UNANSWERED.items()):
        with row:
            async with serving() as server:
                called = await _call(server, step, idempotent=True)
            assert (called.outcome.status, called.temporary) == (Status.FAILED, True)


async def test_a_call_that_times_out_is_unknown_unless_it_is_idempotent(server: Receiver) -> None:
    called = await _call(server, hang, timeout=0.5)
    assert called.outcome.status is Status.UNKNOWN
    called = await _call(server, hang, timeout=0.5, idempotent=True)
    assert (called.outcome.status, called.temporary) == (Status.TIMED_OUT, True)


async def test_an_error_status_is_a_failure_and_429_or_503_is_temporary() -> None:
    expected = {400: False, 401: False, 404: False, 429: True, 500: False, 502: False, 503: True}
    for ((status, temporary), idempotent), row in rows.each(
        product(expected.items(), (False, True))
    ):
        step = answer(status, b"sorry", {"Retry-After": "7"})
        with row:
            async with serving() as server:
                called = await _call(server, step, idempotent=idempotent)
            assert (called.outcome.status, called.temporary) == (Status.FAILED, temporary)
            assert f"http://public.example answered {status}" in str(called.outcome.error)
            assert called.retry_after == 7


BUSY = json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": "busy"}})


@pytest.mark.parametrize(
    "step",
    [
        cut(status=503),
        raw(head(503, {**JSON, "Content-Length": "1000"}) + b'{"jsonrpc"'),
        answer(503, gzip.compress(b"{}"), {**JSON, "Content-Encoding": "gzip"}),
        answer(503, BUSY.encode(), JSON),
    ],
    ids=["cut", "cut JSON", "compressed", "an error of the protocol"],
)
async def test_an_error_status_decides_whatever_its_body_is(
    server: Receiver, step: Handler
) -> None:
    called = await _call(server, step)
    assert (called.outcome.status, called.temporary) == (Status.FAILED, True)
    assert "answered 503" in str(called.outcome.error)


async def test_an_error_status_decides_even_if_its_body_times_out(server: Receiver) -> None:
    async def step(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head(429, {**JSON, "Content-Length": "1000"}) + b"{")
        await hang(request, writer)

    called = await _call(server, step, timeout=0.5)
    assert (called.outcome.status, called.temporary) == (Status.FAILED, True)


async def test_the_message_of_a_protocol_error_is_kept_with_status_400(
    server: Receiver,
) -> None:
    called = await _call(server, answer(400, BUSY.encode(), JSON))
    assert (called.outcome.status, called.outcome.error) == (Status.FAILED, "busy")


async def test_a_call_to_a_server_that_has_gone_is_retried(server: Receiver) -> None:
    server.steps = [speaks(DONE)]
    laid = {(PUBLIC, 80): server}
    there = await _opened(_wire(Wires(laid)))
    laid.clear()
    prepared = PreparedCall("x", "reindex", {}, "request:x:1", {}, FilledSecrets(), there)
    called = await calls.call(prepared, timeout=30)
    assert (called.outcome.status, called.temporary) == (Status.FAILED, True)
    assert "it cannot be reached" in str(called.outcome.error)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_temporary_status_before_the_call_makes_the_server_unreachable(
    server: Receiver, status: int
) -> None:
    server.steps = [answer(status, b"", {"Retry-After": "9"})]
    with pytest.raises(ToolUnreachable, match=f"answered {status}") as caught:
        await _opened(_wire(_wires(server)))
    assert caught.value.retry_after == 9


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_client_error_status_before_the_call_is_invalid_input(
    server: Receiver, status: int
) -> None:
    server.steps = [answer(status, b"")]
    with pytest.raises(InvalidInput, match=f"answered {status}"):
        await _opened(_wire(_wires(server)))


async def test_a_server_that_does_not_speak_mcp_is_refused(server: Receiver) -> None:
    server.steps = [answer(200, b"<html>", {"Content-Type": "text/html"})]
    with pytest.raises(InvalidInput, match=r"http://public\.example violates the MCP protocol"):
        await _opened(_wire(_wires(server)))


async def test_a_server_that_does_not_answer_is_unreachable(server: Receiver) -> None:
    server.steps = [hang]
    with pytest.raises(ToolUnreachable, match=r"did not answer within 0\.3 s"):
        await _opened(_wire(_wires(server)), within=0.3)


async def test_an_endless_list_of_tools_is_refused(server: Receiver) -> None:
    """Each page is below the limit; all of them together exceed it."""
    page = {"tools": [{**TOOL, "description": "x" * 2**20}], "nextCursor": "more"}

    async def step(request: Request, writer: asyncio.StreamWriter) -> None:
        listed = b"tools/list" in request.body
        await (says({"result": page}) if listed else speaks(DONE))(request, writer)

    server.steps = [step]
    with pytest.raises(InvalidInput, match="its list of tools is longer than 4,194,304 bytes"):
        await _opened(_wire(_wires(server)))
    assert sum(b"tools/list" in each.body for each in server.requests) == 4


async def test_a_secret_that_the_server_repeats_while_opening_is_hidden(
    server: Receiver,
) -> None:
    server.steps = [says({"error": {"code": -32001, "message": "no such token: hunter-2"}})]
    wire = _wire(_wires(server), Authorization="Bearer hunter-2")
    with pytest.raises(InvalidInput, match=r"no such token: \*+") as caught:
        await Connection(wire.shown, wire, FilledSecrets({"hunter-2"}).hide).open()
    assert "hunter" not in str(caught.value)


async def test_a_secret_parameter_is_not_sent_over_plain_http_to_a_public_address() -> None:
    saved = Saved(stored_secrets={"ops": Secret("ops", "hunter-2", ("public.example",))})
    guard = Guard(Rule.OPERATOR, None, Dns(NAMES))
    given = (f"{URL}#reindex", {"key": "{{secret:ops}}"}, "request:x:1", saved, saved, guard)
    with pytest.raises(OutgoingRefused, match="plain http"):
        await calls.prepare(*given)


@pytest.mark.parametrize("value", ["two\nlines", "höflich"])
async def test_a_secret_that_is_not_valid_in_a_header_is_refused(value: str) -> None:
    saved = Saved(
        {"search": {"url": URL, "headers": {"Authorization": "{{secret:ops}}"}}},
        {"ops": Secret("ops", value, ("public.example",))},
    )
    with pytest.raises(InvalidInput, match='"Authorization" is not valid in a header') as caught:
        await calls.prepare("search.reindex", {}, "request:x:1", saved, saved, Guard(Rule.OPERATOR))
    assert value not in str(caught.value)


async def test_invalid_tool_names_are_dropped_and_descriptions_are_sanitized(
    server: Receiver,
) -> None:
    tools = [
        {**TOOL, "description": "a\x1b[31mred\x07 one"},
        {**TOOL, "name": "a\x1b[2J"},
        {**TOOL, "name": "x" * 129},
        {**TOOL, "name": ""},
    ]

    async def step(request: Request, writer: asyncio.StreamWriter) -> None:
        message = json.loads(request.body) if request.body else {}
        if message.get("method") == "tools/list":
            await says({"result": {"tools": tools}})(request, writer)
        else:
            await speaks(DONE)(request, writer)

    server.steps = [step]
    there = await _opened(_wire(_wires(server)))
    await there.close()
    assert list(there.tools) == ["reindex"]
    assert there.tools["reindex"].description == "a [31mred  one"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("https://public.example/mcp", "names a server without a tool"),
        ("https://public.example/mcp#", "names a server without a tool"),
        ("https://public.example/{{secret:ops}}#reindex", "contains a secret in its URL"),
        ("search.reindex", 'unknown "search.reindex"'),
    ],
)
async def test_a_tool_name_without_a_known_tool_is_refused(name: str, expected: str) -> None:
    with pytest.raises(InvalidInput, match=expected) as caught:
        await catalog.locate(name, Saved(), Guard(Rule.AGENT, None, Dns(NAMES)))
    assert caught.value.field == "tool"


async def test_a_call_that_cannot_connect_counts_as_not_sent_after_an_earlier_call(
    server: Receiver,
) -> None:
    server.steps = [speaks(DONE)]
    listening = {(PUBLIC, 80): server}
    there = await _opened(_wire(Wires(listening)))
    try:
        await there.call("reindex", {}, "k", timeout=30)
        listening.clear()  # the server is gone
        with pytest.raises(CallUnanswered, match="cannot be reached") as raised:
            await there.call("reindex", {}, "k", timeout=30)
        assert not raised.value.sent
    finally:
        await there.close()
