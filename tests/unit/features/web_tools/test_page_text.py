"""The text of a page of the web for a model."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import httpx
import pytest

from daybook.execution import convert_html
from daybook.execution.html_text import UnreadablePage
from daybook.features.web_tools import page_text
from daybook.features.web_tools.page_text import PageText
from daybook.http.request import Response

pytestmark = pytest.mark.anyio

PROGRAM = Path(convert_html.__file__).read_text()
ADDRESS = "https://shop.example/list/a"


async def read(body: str | bytes, content_type: str = "text/html", **headers: str) -> PageText:
    content = body.encode() if isinstance(body, str) else body
    named = {each.replace("_", "-"): value for each, value in headers.items()}
    found = httpx.Headers({"content-type": content_type, **named})
    return await page_text.read(Response(200, found, content), ADDRESS)


async def test_a_page_becomes_markdown_with_title_date_and_absolute_links() -> None:
    page = await read(
        "<html><head><title>Price\n list</title>"
        '<meta property="article:published_time" content="2026-11-28T10:00:00Z"></head>'
        '<body><h1>Prices</h1><p>The <b>lamp</b> costs <a href="b?x=1">12.50 €</a></p>'
        "<table><tr><th>what</th></tr><tr><td>lamp</td></tr></table></body></html>"
    )
    assert (page.title, page.date) == ("Price list", "2026-11-28T10:00:00Z")
    assert page.text.startswith("# Prices\n\nThe **lamp** costs ")
    assert "[12.50 €](https://shop.example/list/b?x=1)" in page.text
    assert "| lamp |" in page.text


async def test_the_date_of_the_server_stands_in_for_a_missing_one() -> None:
    assert (await read("<p>x</p>", Last_Modified="Sat, 28 Nov 2026 10:00:00 GMT")).date.startswith(
        "Sat"
    )
    assert (await read("<p>x</p>")).date == ""


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
async def test_what_a_reader_cannot_see_is_left_out(hidden: str) -> None:
    assert "secret" not in (await read(f"<body><p>seen</p>{hidden}</body>")).text


async def test_a_page_inside_of_a_form_is_read() -> None:
    assert "seen" in (await read('<form id="aspnetForm"><p>seen</p><input value="1"></form>')).text


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
async def test_other_texts_stay_as_they_are(kind: str, body: str) -> None:
    assert (await read(body, kind)).text == body.strip()


async def test_html_without_a_type_is_recognised() -> None:
    assert (await read("  <!DOCTYPE html><b>x</b>", "")).text == "**x**"


@pytest.mark.parametrize("kind", ["image/png", "application/pdf", "application/octet-stream"])
async def test_what_is_no_text_is_refused_with_its_kind(kind: str) -> None:
    with pytest.raises(UnreadablePage, match=kind):
        await read(b"\x00\x01", kind)


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe\x00", b"<" * 1000, "<p>\udcff".encode("utf-8", "replace")]
)
async def test_any_bytes_give_a_text(body: bytes) -> None:
    assert isinstance((await read(body)).text, str)


HOSTILE = {
    "paragraphs": "<p>x</p>" * 250_000,
    "depth": "<div>" * 400_000 + "x",
    "attributes": "<a " + "".join(f"b{each}=1 " for each in range(160_000)) + ">x",
    "brackets": "<" * 2_000_000,
    "items": "<ol>" + "<li>a" * 400_000,
    "nested lists": "<ul><li>x" * 200_000,
    "definitions": "<dd>" * 15 + "a\n" * 1_000_000,
    "quotations": "<blockquote>x" * 150_000,
    "closed quotations": ("<blockquote>x" * 1_000 + "</blockquote>" * 1_000) * 70,
    "cells": "<table>" + ("<tr>" + "<td>x" * 100) * 3_000,
    "long base": f'<base href="https://evil.example/{"e" * 100_000}/">'
    + "<a href=b>x</a>" * 100_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_page_ends_with_a_bounded_text_or_is_refused(name: str) -> None:
    assert 1_000_000 < len(HOSTILE[name]) < 2.3 * 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        page = await read(HOSTILE[name])
    except UnreadablePage as error:
        assert "too much time or memory" in str(error)
    else:
        assert len(page.text) <= convert_html.MAX_TEXT_CHARACTERS
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000  # KiB


@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_CPU_SECONDS", 1), ("MAX_MEMORY_BYTES", 60_000_000)]
)
async def test_a_conversion_that_exceeds_its_limits_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    program = tmp_path / "convert_html.py"
    program.write_text(
        re.sub(rf"^{limit} = .*$", f"{limit} = {value}", PROGRAM, flags=re.MULTILINE)
    )
    monkeypatch.setattr(convert_html, "__file__", str(program))
    with pytest.raises(UnreadablePage, match="too much time or memory"):
        await read("<blockquote>x" * 3_000)


async def test_rules_on_a_page_are_no_metadata() -> None:
    page = await read("<title>T</title><hr><p>important</p><hr><p>rest</p>")
    assert page.text == "---\n\nimportant\n\n---\n\nrest"
    assert page.title == "T"
