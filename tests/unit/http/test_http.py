"""What is kept of an answer, for how long it is waited for, and what is known when none comes."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta

import httpx
import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.errors import InvalidInput
from daybook.http import bodies, request
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
    async with serving() as here:
        yield here


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


@pytest.mark.parametrize("method", request.METHODS)
async def test_every_method_arrives(server: Receiver, method: str) -> None:
    given = await _ask(server, answer(200), method=method)
    assert given.body == (b"" if method == "HEAD" else b"done")
    assert server.requests[0].method == method


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "get", "", "GET / HTTP/1.1\r\nA: b"])
async def test_other_methods_are_refused(server: Receiver, method: str) -> None:
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
async def test_headers_that_cannot_be_sent_are_refused_without_their_value(
    server: Receiver, name: str, value: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await _ask(server, answer(200), headers={name: value})
    assert refused.value.field == "headers"
    assert "sh" not in str(refused.value).replace("such", "")
    assert server.requests == []


async def test_no_more_headers_are_sent_than_servers_take() -> None:
    request.check(
        "GET", {f"X-{number}": "a" * request.MAX_HEADER_VALUE_LENGTH for number in range(100)}
    )
    with pytest.raises(InvalidInput, match=r"headers: there are 101 .*at most 100"):
        request.check("GET", {f"X-{number}": "a" for number in range(101)})


async def test_our_headers_are_few_and_a_job_may_set_its_own(server: Receiver) -> None:
    await _ask(server, answer(200), headers={"User-Agent": "mine", "X-Empty": ""})
    seen = server.requests[0].headers
    assert seen.pop("host") == f"127.0.0.1:{server.port}"
    assert seen == {
        "accept": "*/*",
        "accept-encoding": "gzip",
        "user-agent": "mine",
        "x-empty": "",
    }


async def test_a_body_of_just_the_limit_is_whole_and_one_byte_more_is_cut(server: Receiver) -> None:
    whole = await _ask(server, answer(200, b"x" * MAX_BODY_BYTES))
    assert (len(whole.body), whole.cut) == (MAX_BODY_BYTES, "")
    more = await _ask(server, answer(200, b"x" * (MAX_BODY_BYTES + 1)))
    assert (len(more.body), more.cut) == (
        MAX_BODY_BYTES,
        "longer than the limit of 1,048,576 bytes",
    )


async def test_of_a_gibibyte_little_is_read(server: Receiver) -> None:
    flood = Flood(GIBIBYTE)
    given = await _ask(server, flood)
    assert (given.status, len(given.body)) == (200, MAX_BODY_BYTES)
    assert given.cut
    assert flood.sent < 64 * MEBIBYTE  # what the system's buffers hold


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "deflate"])
async def test_what_is_compressed_is_kept_as_it_was(server: Receiver, encoding: str) -> None:
    text = b"an answer " * 1000
    packed = zlib.compress(text) if encoding == "deflate" else gzip.compress(text, mtime=0)
    given = await _ask(server, answer(200, packed, {"Content-Encoding": encoding}))
    assert (given.body, given.cut) == (text, "")


async def test_gzip_files_one_after_the_other_and_padding(server: Receiver) -> None:
    packed = gzip.compress(b"one ", mtime=0) + gzip.compress(b"two", mtime=0) + b"\0\0"
    given = await _ask(server, answer(200, packed, {"Content-Encoding": "gzip"}))
    assert (given.body, given.cut) == (b"one two", "")


async def test_a_bomb_costs_what_is_kept_of_it(server: Receiver) -> None:
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


async def test_compressed_bytes_that_say_nothing_come_to_an_end(server: Receiver) -> None:
    made = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    first = made.compress(b"a") + made.flush(zlib.Z_FULL_FLUSH)
    nothing = b"\x00\x00\x00\xff\xff" * 13107  # an empty block, again and again
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
async def test_what_cannot_be_decompressed_is_told(
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
        ("text/plain; charset=idna", b"a", "a"),
        ("", b"\xff\xfe", "\ufffd\ufffd"),
        ("text/plain; charset*=''x", b"a", "a"),
    ],
)
def test_a_body_is_read_in_its_charset(content_type: str, body: bytes, text: str) -> None:
    assert bodies.decode_text(body, httpx.Headers({"Content-Type": content_type})) == text


async def _no_answer(server: Receiver, step: Handler, timeout: float = 20) -> NoResponse:
    with pytest.raises(NoResponse) as failed:
        await _ask(server, step, timeout)
    assert "127.0.0.1" in str(failed.value)
    return failed.value


async def test_nobody_there(server: Receiver) -> None:
    async with serving() as gone:
        pass
    failed = await _no_answer(gone, answer(200))
    assert (failed.sent, failed.timed_out, failed.part) == (False, False, None)


async def test_an_answer_that_never_comes(server: Receiver) -> None:
    failed = await _no_answer(server, hang, timeout=2)
    assert (failed.sent, failed.timed_out, failed.part) == (True, True, None)
    assert "within 2 s" in str(failed)
    await server.left.wait()


@pytest.mark.parametrize(
    "first", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX-Slow: "], ids=["a", "b", "c"]
)
async def test_a_head_that_comes_a_byte_at_a_time(server: Receiver, first: bytes) -> None:
    began = SYSTEM_CLOCK.now()
    failed = await _no_answer(server, drip(first), timeout=2)
    assert failed.sent
    assert SYSTEM_CLOCK.now() - began < timedelta(seconds=10)
    assert failed.part is None


async def test_a_body_that_comes_a_byte_at_a_time(server: Receiver) -> None:
    failed = await _no_answer(server, drip(head(200, {"Content-Length": "100000"})), timeout=2)
    assert (failed.sent, failed.timed_out) == (True, True)
    assert failed.part is not None
    assert failed.part.status == 200
    assert set(failed.part.body) == {ord("x")}


@pytest.mark.parametrize("step", [raw(b""), raw(b"HTTP/1.1 200 OK\r\nX-"), raw(b"\x16\x03\x01 no")])
async def test_a_connection_that_ends_before_an_answer(server: Receiver, step: Handler) -> None:
    failed = await _no_answer(server, step)
    assert (failed.sent, failed.timed_out, failed.part) == (True, False, None)


async def test_a_connection_that_ends_in_the_answer(server: Receiver) -> None:
    failed = await _no_answer(server, cut())
    assert (failed.sent, failed.timed_out) == (True, False)
    assert failed.part is not None
    assert (failed.part.status, failed.part.body) == (200, b"the first ha")


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
async def test_what_was_had_before_a_redirect_to_nobody(
    server: Receiver, status: int, method: str, sent: bool
) -> None:
    async with serving() as gone:
        pass
    server.steps = [redirect(gone.address, status)]
    with pytest.raises(NoResponse) as failed:
        await request.request(
            HttpxTransport(Guard(Rule.OPERATOR)), method, server.address, headers={}, timeout=20
        )
    assert failed.value.sent is sent
