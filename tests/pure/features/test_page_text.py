"""The text of a page of the web for a model."""

from __future__ import annotations

import time

import httpx
import pytest

from daybook.features.web_tools import page_text
from daybook.features.web_tools.page_text import PageText, UnreadablePage
from daybook.http.request import Response

ADDRESS = "https://shop.example/list/a"


def read(body: str | bytes, content_type: str = "text/html", **headers: str) -> PageText:
    content = body.encode() if isinstance(body, str) else body
    named = {each.replace("_", "-"): value for each, value in headers.items()}
    found = httpx.Headers({"content-type": content_type, **named})
    return page_text.read(Response(200, found, content), ADDRESS)


def test_a_page_becomes_markdown_with_title_date_and_absolute_links() -> None:
    page = read(
        "<html><head><title>Price\n list</title>"
        '<meta property="article:published_time" content="2026-11-28T10:00:00Z"></head>'
        '<body><h1>Prices</h1><p>The <b>lamp</b> costs <a href="b?x=1">12.50 €</a></p>'
        "<table><tr><th>what</th></tr><tr><td>lamp</td></tr></table></body></html>"
    )
    assert (page.title, page.date) == ("Price list", "2026-11-28T10:00:00Z")
    assert page.text.startswith("# Prices\n\nThe **lamp** costs ")
    assert "[12.50 €](https://shop.example/list/b?x=1)" in page.text
    assert "| lamp |" in page.text


def test_the_date_of_the_server_stands_in_for_a_missing_one() -> None:
    assert read("<p>x</p>", Last_Modified="Sat, 28 Nov 2026 10:00:00 GMT").date.startswith("Sat")
    assert read("<p>x</p>").date == ""


@pytest.mark.parametrize(
    "hidden",
    [
        "<script>secret()</script>",
        "<style>p { color: secret }</style>",
        '<div style="display:none">secret</div>',
        '<p style="visibility: hidden">secret</p>',
        "<p hidden>secret</p>",
        "<template>secret</template>",
        "<!-- secret -->",
        "<noscript>secret</noscript>",
    ],
)
def test_what_a_reader_cannot_see_is_left_out(hidden: str) -> None:
    assert "secret" not in read(f"<body><p>seen</p>{hidden}</body>").text


def test_a_page_inside_of_a_form_is_read() -> None:
    assert "seen" in read('<form id="aspnetForm"><p>seen</p><input value="1"></form>').text


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/plain; charset=utf-8", "a < b\n"),
        ("application/json", '{"a": 1}'),
        ("application/rss+xml", "<rss><channel/></rss>"),
        ("text/markdown", "# A"),
        ("", "plain"),
    ],
)
def test_other_texts_stay_as_they_are(kind: str, body: str) -> None:
    assert read(body, kind).text == body.strip()


def test_html_without_a_type_is_recognised() -> None:
    assert read("  <!DOCTYPE html><b>x</b>", "").text == "**x**"


@pytest.mark.parametrize("kind", ["image/png", "application/pdf", "application/octet-stream"])
def test_what_is_no_text_is_refused_with_its_kind(kind: str) -> None:
    with pytest.raises(UnreadablePage, match=kind):
        read(b"\x00\x01", kind)


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe\x00", b"<" * 1000, "<p>\udcff".encode("utf-8", "replace")]
)
def test_any_bytes_give_a_text(body: bytes) -> None:
    assert isinstance(read(body).text, str)


HOSTILE = {
    "paragraphs": "<p>x</p>" * 130_000,
    "depth": "<div>" * 200_000 + "x",
    "attributes": "<a " + "b=1 " * 250_000 + ">x",
    "brackets": "<" * 1_000_000,
    "blanks": " " * 1_000_000 + "x",
    "items": "<ol>" + "<li>a" * 200_000,
    "definitions": "<dd>" * 15 + "a\n" * 500_000,
    "cells": "<table>" + ("<tr>" + "<td>x" * 100) * 2_000,
    "entities": "&amp;" * 200_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_megabyte_takes_seconds_at_most(name: str) -> None:
    began = time.process_time()
    read(HOSTILE[name])
    assert time.process_time() - began < 10
