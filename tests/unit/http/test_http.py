"""Outgoing HTTP requests: methods, headers, limits of answers, timeouts and missing answers."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta

import httpx
import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.errors import InvalidInput, OutgoingRefused
from daybook.http import bodies, redirects, request
from daybook.http.guard import Guard, Rule
from daybook.http.httpx_transport import HttpxTransport
from daybook.http.request import MAX_BODY_BYTES, NoResponse, Response
from tests.receiver import (
    MEBIBYTE,
    Flood,
    Handler,
    Receiver,
    answer,
    bomb,
    cut,
    drip,
    hang,
    head,
    raw,
    redirect,
    sends,
    serving,
)

pytestmark = pytest.mark.anyio

GIBIBYTE = 2**30


@pytest.fixture
async def server() -> AsyncIterator[Receiver]:
    async with serving() as server:
        yield server


async def _ask(server: Receiver, step: Handler, timeout: float = 20, **given: object) -> Response:
    server.steps = [step]
    headers = given.get("headers", {})
    assert isinstance(headers, Mapping)
    transport = HttpxTransport(Guard(Rule.OPERATOR))
    return await request.request(
        transport,
        str(given.get("method", "GET")),
        server.address,
        headers=headers,
        timeout=timeout,
    )


@pytest.mark.floor("B", "A webhook may have another method")
@pytest.mark.parametrize("method", request.METHODS)
async def test_each_method_is_sent(server: Receiver, method: str) -> None:
    given = await _ask(server, answer(200), method=method)
    assert given.body == (b"" if method == "HEAD" else b"done")
    assert server.requests[0].method == method


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "get", "", "GET / HTTP/1.1\r\nA: b"])
async def test_unsupported_methods_are_refused(server: Receiver, method: str) -> None:
    with pytest.raises(InvalidInput, match="use GET, HEAD") as refused:
        await _ask(server, answer(200), method=method)
    assert refused.value.field == "method"
    assert server.requests == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Host", "elsewhere.example"),
        ("content-length", "3"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "keep-alive"),
        ("Proxy-Authorization", "hush"),
        ("Upgrade", "h2c"),
        ("X Team", "hush"),
        ("", "hush"),
        ("X-Team:", "hush"),
        ("X-Team", "hush\r\nX-More: b"),
        ("X-Team", "hush\n"),
        ("X-Team", " hush"),
        ("X-Team", "hüsh"),
        ("X-Team", "hush\x00"),
        ("X-Team", "hush" * 4097),
    ],
)
async def test_invalid_headers_are_refused_without_quoting_their_value(
    server: Receiver, name: str, value: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await _ask(server, answer(200), headers={name: value})
    assert refused.value.field == "headers"
    assert "sh" not in str(refused.value).replace("such", "")
    assert server.requests == []


async def test_more_than_100_headers_are_refused() -> None:
    request.check(
        "GET", {f"X-{number}": "a" * request.MAX_HEADER_VALUE_LENGTH for number in range(100)}
    )
    with pytest.raises(InvalidInput, match=r"headers: there are 101 .*at most 100"):
        request.check("GET", {f"X-{number}": "a" for number in range(101)})


def test_a_header_that_occurs_twice_is_refused_whatever_its_case() -> None:
    with pytest.raises(InvalidInput, match='headers: "x-TEAM" occurs twice'):
        request.check("GET", {"X-Team": "a", "x-TEAM": "b"})


@pytest.mark.parametrize("where", ["http://[::1", "http://\x7f/"])
def test_a_redirect_to_an_invalid_url_is_not_followed(where: str) -> None:
    url = httpx.URL("https://public.example/hook?token=x")
    with pytest.raises(OutgoingRefused) as refused:
        redirects.next_request(307, where, method="POST", url=url, headers=[], rule="agent")
    assert "it redirects to an invalid URL" in str(refused.value)
    assert "token" not in str(refused.value)


async def test_daybook_adds_few_headers_and_a_job_may_set_its_own(server: Receiver) -> None:
    await _ask(server, answer(200), headers={"User-Agent": "mine", "X-Empty": ""})
    headers = server.requests[0].headers
    assert headers.pop("host") == f"127.0.0.1:{server.port}"
    assert headers == {
        "accept": "*/*",
        "accept-encoding": "gzip",
        "user-agent": "mine",
        "x-empty": "",
    }


async def test_a_body_at_the_limit_is_whole_and_one_byte_more_is_cut(server: Receiver) -> None:
    whole = await _ask(server, answer(200, b"x" * MAX_BODY_BYTES))
    assert (len(whole.body), whole.cut) == (MAX_BODY_BYTES, "")
    more = await _ask(server, answer(200, b"x" * (MAX_BODY_BYTES + 1)))
    assert (len(more.body), more.cut) == (
        MAX_BODY_BYTES,
        "longer than the limit of 1,048,576 bytes",
    )


async def test_a_body_of_a_gibibyte_is_read_only_up_to_the_limit(server: Receiver) -> None:
    flood = Flood(GIBIBYTE)
    given = await _ask(server, flood)
    assert (given.status, len(given.body)) == (200, MAX_BODY_BYTES)
    assert given.cut
    assert flood.sent < 64 * MEBIBYTE  # the size of the system's buffers


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "deflate"])
async def test_a_compressed_body_is_decompressed(server: Receiver, encoding: str) -> None:
    text = b"an answer " * 1000
    packed = zlib.compress(text) if encoding == "deflate" else gzip.compress(text, mtime=0)
    given = await _ask(server, answer(200, packed, {"Content-Encoding": encoding}))
    assert (given.body, given.cut) == (text, "")


async def test_concatenated_gzip_members_with_padding_are_decompressed(server: Receiver) -> None:
    packed = gzip.compress(b"one ", mtime=0) + gzip.compress(b"two", mtime=0) + b"\0\0"
    given = await _ask(server, answer(200, packed, {"Content-Encoding": "gzip"}))
    assert (given.body, given.cut) == (b"one two", "")


async def test_a_decompression_bomb_needs_memory_only_up_to_the_limit(server: Receiver) -> None:
    step = sends(bomb(1024), {"Content-Encoding": "gzip"})
    tracemalloc.start()
    try:
        given = await _ask(server, step)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(given.body), given.cut) == (
        MAX_BODY_BYTES,
        "longer than the limit of 1,048,576 bytes",
    )
    assert peak < 16 * MEBIBYTE


async def test_endless_empty_compressed_blocks_are_cut(server: Receiver) -> None:
    made = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    first = made.compress(b"a") + made.flush(zlib.Z_FULL_FLUSH)
    nothing = b"\x00\x00\x00\xff\xff" * 13107  # empty blocks
    step = sends([first, *([nothing] * 100)], {"Content-Encoding": "gzip"})
    given = await _ask(server, step)
    assert given.cut.startswith("longer than")
    assert given.body == b"a"


@pytest.mark.parametrize(
    ("body", "encoding", "why"),
    [
        (b"no gzip at all", "gzip", "the data is invalid"),
        (gzip.compress(b"a" * 100_000, mtime=0)[:60], "gzip", "its end is missing"),
        (b"\x0b\x02\x80done\x03", "br", "encoded as br"),
        (
            gzip.compress(gzip.compress(b"done", mtime=0), mtime=0),
            "gzip, gzip",
            "encoded as gzip, gzip",
        ),
    ],
)
async def test_a_body_that_cannot_be_decompressed_is_reported(
    server: Receiver, body: bytes, encoding: str, why: str
) -> None:
    given = await _ask(server, answer(200, body, {"Content-Encoding": encoding}))
    assert given.status == 200
    assert why in given.cut


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("application/json", "grüß".encode(), "grüß"),
        ("text/plain; charset=iso-8859-1", "grüß".encode("latin-1"), "grüß"),
        ("text/plain; charset=nosuch", "grüß".encode(), "grüß"),
        ("text/plain; charset=idna", b"xn--mnchen-3ya", "xn--mnchen-3ya"),
        ("text/plain; charset=punycode", b"mnchen-3ya", "mnchen-3ya"),
        ("text/plain; charset=unicode_escape", rb"\x61", r"\x61"),
        (f"text/plain; x={'y' * 1000}; charset=latin-1", "grüß".encode(), "grüß"),
        ("text/plain; charset=windows-1252", b"\x80", "€"),
        ("text/plain; charset=Shift_JIS", "日本".encode("shift_jis"), "日本"),
        ("", b"\xff\xfe", "\ufffd\ufffd"),
        ("text/plain; charset*=''x", b"a", "a"),
    ],
)
def test_a_body_is_decoded_with_its_charset(content_type: str, body: bytes, text: str) -> None:
    assert bodies.decode_text(body, httpx.Headers({"Content-Type": content_type})) == text


async def _no_answer(server: Receiver, step: Handler, timeout: float = 20) -> NoResponse:
    with pytest.raises(NoResponse) as failed:
        await _ask(server, step, timeout)
    assert "127.0.0.1" in str(failed.value)
    return failed.value


async def test_a_refused_connection_counts_as_not_sent(server: Receiver) -> None:
    async with serving() as fake_server:
        pass
    failed = await _no_answer(fake_server, answer(200))
    assert (failed.sent, failed.timed_out, failed.part) == (False, False, None)


async def test_a_missing_answer_times_out_and_counts_as_sent(server: Receiver) -> None:
    failed = await _no_answer(server, hang, timeout=0.5)
    assert (failed.sent, failed.timed_out, failed.part) == (True, True, None)
    assert "within 0.5 s" in str(failed)
    await server.left.wait()


@pytest.mark.parametrize(
    "first", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX-Slow: "], ids=["a", "b", "c"]
)
async def test_a_head_that_arrives_byte_by_byte_does_not_extend_the_timeout(
    server: Receiver, first: bytes
) -> None:
    began = SYSTEM_CLOCK.now()
    failed = await _no_answer(server, drip(first), timeout=0.5)
    assert failed.sent
    assert SYSTEM_CLOCK.now() - began < timedelta(seconds=10)
    assert failed.part is None


async def test_a_body_that_arrives_byte_by_byte_times_out_with_its_part(server: Receiver) -> None:
    failed = await _no_answer(server, drip(head(200, {"Content-Length": "100000"})), timeout=0.5)
    assert (failed.sent, failed.timed_out) == (True, True)
    assert failed.part is not None
    assert failed.part.status == 200
    assert set(failed.part.body) == {ord("x")}


@pytest.mark.parametrize("step", [raw(b""), raw(b"HTTP/1.1 200 OK\r\nX-"), raw(b"\x16\x03\x01 no")])
async def test_a_connection_that_ends_before_the_answer_counts_as_sent(
    server: Receiver, step: Handler
) -> None:
    failed = await _no_answer(server, step)
    assert (failed.sent, failed.timed_out, failed.part) == (True, False, None)


async def test_a_connection_that_ends_within_the_answer_keeps_its_part(server: Receiver) -> None:
    failed = await _no_answer(server, cut())
    assert (failed.sent, failed.timed_out) == (True, False)
    assert failed.part is not None
    assert (failed.part.status, failed.part.body) == (200, b"the first ha")


@pytest.mark.parametrize(("first", "sent"), [(303, True), (307, False)])
async def test_a_later_redirect_does_not_revoke_the_effect_of_the_first_request(
    server: Receiver, first: int, sent: bool
) -> None:
    async with serving() as fake_server:
        pass
    server.steps = [redirect(server.address, first), redirect(fake_server.address, 307)]
    with pytest.raises(NoResponse) as failed:
        await request.request(
            HttpxTransport(Guard(Rule.OPERATOR)), "POST", server.address, headers={}, timeout=20
        )
    assert len(server.requests) == 2
    assert failed.value.sent is sent


@pytest.mark.parametrize(
    ("status", "method", "sent"),
    [
        (307, "POST", False),
        (308, "POST", False),
        (301, "GET", False),
        (301, "POST", True),
        (302, "POST", True),
        (303, "POST", True),
        (303, "GET", True),
    ],
)
async def test_a_redirect_to_a_closed_port_counts_as_sent_if_the_first_request_took_effect(
    server: Receiver, status: int, method: str, sent: bool
) -> None:
    async with serving() as fake_server:
        pass
    server.steps = [redirect(fake_server.address, status)]
    with pytest.raises(NoResponse) as failed:
        await request.request(
            HttpxTransport(Guard(Rule.OPERATOR)), method, server.address, headers={}, timeout=20
        )
    assert failed.value.sent is sent
