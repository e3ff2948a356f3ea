"""Watches: the content that is compared, and the difference that the prompt gets."""

from __future__ import annotations

import httpx
import pytest

from daybook.execution import watches
from daybook.http.guard import Guard, Rule
from daybook.http.request import NoResponse
from tests.receiver import answer, cut, serving

PAGE = """<!doctype html><html><head><title>Shop</title><style>p {color: red}</style></head>
<body><script>var nonce = "8f2a";</script>
<h1>Today&rsquo;s
 prices</h1><ul><li>Bread <b>2</b>.50</li><li>Milk 1.20<br>per litre</li></ul></body></html>"""

SHOWN = "Shop\nToday’s prices\nBread 2.50\nMilk 1.20\nper litre"


@pytest.mark.parametrize(
    ("body", "content_type", "content"),
    [
        (PAGE, "text/html; charset=utf-8", SHOWN),
        ("<p>1 < 2 &amp; <![x unknown", "text/html", "1 < 2 & <![x unknown"),
        ("<svg><p>an icon</svg>a<template>b", "text/html", "a\nb"),
        ("a<!-- <p>no</p> -->b<!-- open", "text/html", "ab"),
        ('{"b": ["ä"], "a": 1}', "application/json", '{\n "b": [\n  "ä"\n ],\n "a": 1\n}'),
        ('{"not": JSON', "application/json", '{"not": JSON'),
        ("<a>1</a>\n", "application/rss+xml", "<a>1</a>\n"),
        ("a\nb", "", "a\nb"),
    ],
)  # fmt: skip
def test_the_text_of_a_page_is_compared(body: str, content_type: str, content: str) -> None:
    headers = httpx.Headers({"content-type": content_type} if content_type else {})
    assert watches.content_of(body.encode(), headers) == content


def test_data_is_compared_by_its_checksum() -> None:
    headers = httpx.Headers({"content-type": "image/png"})
    first, second = (watches.content_of(data, headers) for data in (b"\x89PNG1", b"\x89PNG2"))
    assert first.startswith("5 bytes, SHA-256 ")
    assert first != second


def test_a_difference_has_the_changed_lines_with_context() -> None:
    before = "\n".join(["Shop", *"abcdefgh", "Bread 2.50", "Milk 1.20"])
    after = before.replace("Bread 2.50", "Bread 2.60") + "\nTea 3.00"
    assert watches.difference(before, after).splitlines() == [
        *(" f", " g", " h", "-Bread 2.50", "+Bread 2.60", " Milk 1.20", "+Tea 3.00")
    ]


def test_a_difference_says_which_lines_are_not_compared() -> None:
    old = [str(number) for number in range(6_000)]
    new = [*old[:1_000], "new", *old[1_000:]]
    lines = watches.difference("\n".join(old), "\n".join(new)).splitlines()
    assert "+new" in lines
    assert lines[-1] == "… (what follows line 2,997 is not compared)"


@pytest.mark.anyio
async def test_a_page_that_is_not_received_whole_is_an_error() -> None:
    guard = Guard.from_settings(Rule.OPERATOR)
    async with serving() as server:
        server.steps = [answer(404, b"gone"), cut(), answer(200, b"x" * (2**20 + 1)), answer()]
        with pytest.raises(ValueError, match=f"{server.address} answered 404 Not Found"):
            await watches.fetch(f"{server.address}/a?token=s3cret", guard, 5.0)
        with pytest.raises(NoResponse, match="before the whole response arrived"):
            await watches.fetch(server.address, guard, 5.0)
        with pytest.raises(ValueError, match="longer than the limit of 1,048,576 bytes"):
            await watches.fetch(server.address, guard, 5.0)
        assert await watches.fetch(f"{server.address}/a", guard, 5.0) == "done"
    assert [each.method for each in server.requests] == ["GET"] * 4


@pytest.mark.parametrize("page", ["", "<div id=root></div><script>start()</script>", "<br> <p>"])
def test_a_page_without_visible_text_is_an_error(page: str) -> None:
    with pytest.raises(ValueError, match="the page has no visible text"):
        watches.content_of(page.encode(), httpx.Headers({"content-type": "text/html"}))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ["<a ", "<a <", '<a b="c" ', "<!--", "<svg>", "</", "<![", "<"])
def test_a_page_of_a_mebibyte_is_read_in_linear_time(piece: str) -> None:
    """Quadratic time would be hours."""
    page = "x" + piece * (2**20 // len(piece))
    watches.content_of(page.encode(), httpx.Headers({"content-type": "text/html"}))
